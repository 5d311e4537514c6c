"""The model card of an export: README.md, as the Hugging Face hub reads it.

Words, Origin -> front matter in YAML, and Markdown
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import vitlit
from vitlit.deploy.origin import HUB_SCORES, NAMED_LICENCES, Origin, headline
from vitlit.deploy.words import Words
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.task import Task

CARD_NAME = "README.md"
LIBRARIES = {"onnx": "onnx", "pt2": "pytorch", "web": "vitlit"}  # of formats, as the hub names them
NAMINGS = {"timm": "timm", "huggingface": "transformers", "vitlit": "vitlit"}
SCORE_NAMES = {
    "acc": "accuracy",
    "acc5": "top-5 accuracy",
    "balanced_acc": "balanced accuracy",
    "map": "mean average precision",
    "f1": "F1, mean over classes",
    "f1_micro": "F1 of all labels",
    "exact": "images with all labels right",
    "loss": "loss (nats)",
    "ece": "calibration error",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
}
METHODS = {"acc": "Wilson", "map": "bootstrap", "mae": "bootstrap"}  # of intervals
SHOWN_CLASSES = 100  # names; the settings beside the card have all of them


def model_card(words: Words, origin: Origin, repository: str | None = None) -> str:
    """The card. repository: on the hub, where the files will be; None for a folder."""
    told = words.portable.arguments
    height, width = words.portable.model.img_size
    name = f"ViT {told['embed_dim']}x{told['depth']}, patch {told['patch_size']}, {height}x{width}"
    parts = [
        f"# {repository or name}",
        f"A Vision Transformer: {_architecture(words)}.",
        "## Use",
        *_use(words, repository),
        "## Data and training",
        *_training(origin),
        "## Scores",
        *_scores(origin),
        *_classes(words.portable.class_names, words.portable.task),
        f"Written by vitlit {vitlit.__version__}.",
    ]
    return (
        f"---\n{_front_matter(words, origin, repository or name)}---\n\n"
        + "\n\n".join(parts)
        + "\n"
    )


def plain_text(text: str) -> str:
    """A name as Markdown shows it, whatever it holds: on one line, without markup."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!~$])", r"\\\1", " ".join(text.split()))


def _architecture(words: Words) -> str:
    told = words.portable.arguments
    # as the summary of fit counts: a fixed table of positions is no parameter
    count = sum(value.numel() for value in words.portable.model.parameters())
    return (
        f"{told['depth']} blocks of {told['num_heads']} heads, width {told['embed_dim']}, "
        f"{count:,} parameters"
    )


def _use(words: Words, repository: str | None) -> list[str]:
    if words.format == "web":
        return ["Open `index.html` in a browser: the model runs inside the page, without network."]
    module = words.hub_line(repository) if repository else words.load_line()
    # a program of the hub is fetched first, in the same line
    names = sorted({module.partition(".")[0], *re.findall(r"huggingface_hub(?=\.)", module)})
    imports = "\n".join(f"import {name}" for name in names)
    code = f"```python\n{imports}\n\nmodel = {module}\n```"
    sentence = words.interface()
    framing = words.portable.framing.describe(words.portable.model.img_size)
    before = [] if words.moved is not None else [f"Files are {framing}, and then normalised."]
    return [code, f"{sentence[0].upper()}{sentence[1:]}.", *before]


def _training(origin: Origin) -> list[str]:
    lines = [" ".join(origin.data)] if origin.data else ["Not known."]
    if origin.start is None:
        return [*lines, "Trained from scratch."] if origin.data else lines
    name = plain_text(origin.start)
    licence = origin.licence or "not known; look it up before you use the model"
    begun = "Fine-tuned from" if origin.data else "Weights:"
    return [
        *(lines if origin.data else []),
        f"{begun} {name}. Licence of these weights: {licence}.",
    ]


def _scores(origin: Origin) -> list[str]:
    if origin.report is None:
        return ["Not measured."]
    scores = origin.report["scores"]
    name = headline(scores)
    labels = SCORE_NAMES | ({"loss": "loss (of standardised numbers)"} if name == "mae" else {})
    rows = [
        f"| {label} | {float(scores[key]):.4f} | {_interval_words(scores, key)} |"
        for key, label in labels.items()
        if isinstance(scores.get(key), float | int)
    ]
    sentence = f"On {scores['images']:,} held-out test images"
    if interval := _interval_words(scores, name):
        sentence += f"; 95 % interval of the {SCORE_NAMES[name]} ({METHODS[name]}) from {interval}"
    table = ["| score | value | 95 % interval |", "|---|---|---|", *rows]
    lines = [f"{sentence}.", "\n".join(table)]
    if name == "map":
        lines.append(_class_scores(origin.report["classes"]))
    if origin.confusions:
        pairs = ", ".join(
            f"{plain_text(true)} taken for {plain_text(other)} ({count})"
            for true, other, count in origin.confusions
        )
        lines.append(f"Most frequent mistakes: {pairs}.")
    return lines


def _interval_words(scores: Mapping[str, Any], name: str) -> str:
    """The interval of a score; empty if it has none."""
    interval = scores.get(f"{name}_interval")
    return "{:.4f} to {:.4f}".format(*interval) if interval else ""


def _class_scores(classes: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the classes that an image has if its probability is above a threshold."""
    rows = ["| class | images | average precision | F1 | threshold |", "|---|---|---|---|---|"]
    for name, one in list(classes.items())[:SHOWN_CLASSES]:
        precision = "" if one["ap"] is None else f"{one['ap']:.4f}"
        numbers = f"{one['images']:,} | {precision} | {one['f1']:.4f} | {one['threshold']:.4f}"
        rows.append(f"| {plain_text(name)} | {numbers} |")
    return "\n".join(rows)


def _classes(names: Sequence[str], task: Task) -> list[str]:
    if not names:
        return ["The model has no head and gives features."]
    if task.name == "regression":
        return ["## Output", f"One number: {plain_text(names[0])}, in the unit of its column."]
    shown = ", ".join(map(plain_text, names[:SHOWN_CLASSES]))
    more = f", and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    lines = ["## Classes", f"{shown}{more}"]
    if isinstance(task, MultiLabel):
        cuts = ", ".join(f"{cut:.4g}" for cut in task.thresholds(len(names))[:SHOWN_CLASSES])
        lines.append(
            f"An image has a class if the sigmoid of its logit is above the threshold of the "
            f"class. In the same order, the thresholds are {cuts}{more}."
        )
    return lines


def _front_matter(words: Words, origin: Origin, name: str) -> str:
    has_head = bool(words.portable.class_names)
    kind = "image-classification" if has_head else "image-feature-extraction"
    found: dict[str, Any] = {
        "library_name": LIBRARIES.get(words.format, NAMINGS[words.naming]),
        "pipeline_tag": kind,
        "tags": [kind, "vision-transformer", "vitlit"],
    }
    if words.portable.task.name == "regression":  # for which the hub has no kind of its own
        found |= {"tags": ["image-regression", "vision-transformer", "vitlit"]}
        del found["pipeline_tag"]
    if origin.licence is not None:
        is_named = origin.licence in NAMED_LICENCES
        found |= (
            {"license": origin.licence}
            if is_named
            else {
                "license": "other",
                "license_name": origin.licence,
            }
        )
    if origin.start is not None and "/" in origin.start:
        found["base_model"] = origin.start.partition("@")[0].removeprefix("hf-hub:")
    if origin.report is not None:
        found["model-index"] = [_results(origin.report, name)]
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=90)


def _results(report: Any, name: str) -> dict[str, Any]:
    """The main scores, as the hub's tables of results read them."""
    scores, dataset = report["scores"], str(report["of"].get("dataset"))
    first = headline(scores)
    metrics = []
    for key, kind_of_score in HUB_SCORES[first].items():
        interval = _interval_words(scores, key)
        words = SCORE_NAMES[key] + (f" (95 % interval {interval})" if interval else "")
        value = round(float(scores[key]), 4)
        metrics.append({"type": kind_of_score, "value": value, "name": words})
    kind = "image-regression" if first == "mae" else "image-classification"
    return {
        "name": name,
        "results": [
            {
                "task": {"type": kind},
                "dataset": {"name": dataset, "type": dataset, "split": "test"},
                "metrics": metrics,
            }
        ],
    }
