"""Where a model comes from, for its card: data, split, test report, starting weights and licence.

settings of the model and the data, path of the checkpoint -> Origin

What cannot be known is left out: nothing here is guessed but the licence of well-known weights, by
their names, as docs/weights.md lists them.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vitlit.files import CHECKPOINTS_FOLDER, METRICS_FILE, REPORT_FOLDER
from vitlit.images.image_bytes import file_hash
from vitlit.weights.file_reader import CONFIG_NAME, hub_name

# As the authors state them, November 2026; the first pattern that the name holds decides.
LICENCES = (
    (r"dinov3", "dinov3-license"),
    (r"\bmae\b|vit_mae|vit-mae|metaclip", "cc-by-nc-4.0"),
    (r"\bdfn|aimv2|apple/", "apple-amlr"),
    (r"eva02|\beva_|eva-02|openai|internvit", "mit"),
    (r"augreg|google/vit|deit|dinov2|siglip|beit3|facebook/pe|vit_pe_", "apache-2.0"),
)
PLAIN_NAMES = ("model.safetensors", "pytorch_model.bin")  # which say nothing of what is inside
NAMED_LICENCES = {"apache-2.0", "mit", "cc-by-nc-4.0", "apple-amlr"}  # the hub's own names
# Scores with an interval, one of which a report has: of one class, of several, of numbers. Of each,
# the scores in the hub's tables of results, with the hub's names of them.
HUB_SCORES = {
    "acc": {"acc": "accuracy"},
    "map": {"map": "mAP", "f1": "f1"},
    "mae": {"mae": "mae", "r2": "r_squared"},
}
SHOWN_CONFUSIONS = 5


class Origin(NamedTuple):
    """What is known of a training.

    data: sentences; report: the content of metrics.json of a test of these weights, None if there
    is none; confusions: (class, predicted instead, images), the most frequent first; start: what
    the training started from, None from scratch; licence: of those weights, None if not known.
    """

    data: tuple[str, ...] = ()
    report: Mapping[str, Any] | None = None
    confusions: tuple[tuple[str, str, int], ...] = ()
    start: str | None = None
    licence: str | None = None


def origin_of(model: Mapping[str, Any], data: Mapping[str, Any], checkpoint: str | None) -> Origin:
    """model, data: the settings that a checkpoint keeps; checkpoint: its path, None for weights."""
    start = model.get("pretrained")
    licence = None if start is None else licence_of(str(start))
    shown = None if start is None else _public_name(str(start))
    if checkpoint is None:  # published weights, which no data here have changed
        return Origin(start=shown, licence=licence)
    folder, report = _report_of(Path(checkpoint))
    confusions = () if folder is None else _confusions(folder / "mistakes.csv")
    return Origin(_data_sentences(data), report, confusions, shown, licence)


def _public_name(source: str) -> str:
    """A name on the hub, or the last part of a path: where files lie is nobody's business."""
    if hub_name(source) and not Path(source).exists():
        return source
    return Path(source).name


def licence_of(source: str) -> str | None:
    """The licence of weights: as their folder says, else by their name; None if not known."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if Path(source).exists() and (found := _told_licence(folder)):
        return found
    name = source.lower()
    if Path(source).exists() or not hub_name(source):  # other folders have any names
        last = Path(source).name
        name = (f"{folder.name}/{last}" if last in PLAIN_NAMES else last).lower()
    return next((licence for pattern, licence in LICENCES if re.search(pattern, name)), None)


def _told_licence(folder: Path) -> str | None:
    """What the card or the settings beside the weights say."""
    try:
        _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        told = yaml.safe_load(head)
        if isinstance(told, dict) and isinstance(told.get("license"), str):
            return str(told.get("license_name", told["license"]))
    except (OSError, ValueError, yaml.YAMLError):  # no card, or none of the hub's kind
        pass
    try:
        told = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        found = {**told, **told.get("pretrained_cfg", {})}.get("license")
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _data_sentences(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The data set, and how it was split."""
    name, classes = data.get("dataset"), data.get("class_names") or ()
    what = "a folder of images" if name == "folder" else f"the data set `{name}`"
    labels = f"{len(classes)} classes"
    if data.get("task") == "regression":
        labels = "a number for each image"
    sentences = [f"Trained on {what}, with {labels}."]
    test, val = (_share(data.get(f"{part}_fraction")) for part in ("test", "val"))
    fold, seed = data.get("fold"), data.get("split_seed")
    if fold:
        sentences.append(
            f"Fold {str(fold).replace('/', ' of ')} was held out for the test, and {val} of the "
            f"others for validation, with split_seed {seed}."
        )
    else:
        sentences.append(
            f"Where the data set had no split of its own, {test} of its images were held out for "
            f"the test, and {val} of the others for validation, with split_seed {seed}."
        )
    if data.get("shots"):
        sentences.append(f"Of each class, {data['shots']} training images were used.")
    elif (part := data.get("train_fraction")) not in (None, 1):
        sentences.append(f"Of the training images, {_share(part)} were used.")
    return tuple(sentences)


def _share(value: Any) -> str:
    return f"{100 * value:g} %" if isinstance(value, float | int) else "a part"


def _report_of(checkpoint: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """The folder and content of the report of a test of exactly this checkpoint, unaugmented."""
    parent = checkpoint.parent
    run = parent.parent if parent.name == CHECKPOINTS_FOLDER else parent
    for folder in sorted(run.glob(f"{REPORT_FOLDER}*")):
        try:
            found = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
            of = found["of"]
            _check_numbers(found)
            is_same = found["file"] == str(file_hash(str(checkpoint)))  # not of older weights
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # none, or not one of ours
        # a note says that the images may not have been held out
        if is_same and of.get("split") == "test" and not of.get("flip") and not found.get("note"):
            return folder, found
    return None, None


def _check_numbers(report: Mapping[str, Any]) -> None:
    """Raise an error of some kind if a report lacks a number that cards show."""
    scores = report["scores"]
    name = headline(scores)
    shown = [scores[key] for key in ("images", *HUB_SCORES[name])]
    for key in scores:
        if key.endswith("_interval") and scores[key] is not None:  # large sets are not resampled
            low, high = scores[key]
            shown += [low, high]
    if name == "map":
        for one in report["classes"].values():
            shown += [one["images"], one["f1"], one["threshold"], one["ap"] or 0]
    if not all(isinstance(number, int | float) for number in shown):
        raise TypeError(f"{report} has no numbers")


def headline(scores: Mapping[str, Any]) -> str:
    """The name of the score that comes first: that which has an interval, by the kind of label."""
    first, *_ = [name for name in HUB_SCORES if f"{name}_interval" in scores]
    return first


def _confusions(path: Path) -> tuple[tuple[str, str, int], ...]:
    """The most frequent pairs of true and predicted class among the mistakes."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            pairs = Counter((row["class"], row["predicted"]) for row in csv.DictReader(file))
    except (OSError, KeyError, csv.Error):
        return ()
    return tuple((true, other, n) for (true, other), n in pairs.most_common(SHOWN_CONFUSIONS))
