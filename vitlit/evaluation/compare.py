"""Compares checkpoints on the same images: accuracies with intervals, significance of differences.

checkpoints, ImageData of the first -> logits (n, K) of each -> one line of a table for each

All models see the same images, each with the preprocessing of its own training.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.data.leakage import (
    SPLIT_SETTINGS,
    PastTraining,
    data_identity,
    seen_note,
    with_split_rule,
)
from vitlit.data.split_record import (
    image_file_hashes,
    image_path_hashes,
    is_same_data,
    record_of,
    was_trained_on,
)
from vitlit.errors import InputError, first_few
from vitlit.evaluation.calibration import mean_loss
from vitlit.evaluation.inference import Compute, Rows, checked, collect, flip_average, loader_of
from vitlit.evaluation.precision import in_precision, weights_dtype
from vitlit.evaluation.scores import balanced_accuracy
from vitlit.evaluation.significance import Difference, compare, holm, wilson
from vitlit.messages import counted, filled
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT_TASK, KINDS, make_task
from vitlit.tasks.regression_scores import (
    bootstrap_means,
    error_intervals,
    error_scores,
    interval_of,
)
from vitlit.weights import checkpoint, load

# the same for all models
SHARED_SETTINGS = ("dataset", "data_dir", "labels", "task", "target", *SPLIT_SETTINGS)
# how images are read: asked for once, and of no influence on their pixels
READING_SETTINGS = ("batch_size", "num_workers", "memory_gb", "on_bad_image", "download")
SIGNIFICANCE_LEVEL = 0.05  # from this probability on a difference counts as noise
NAME_WIDTH = 34  # of a checkpoint's path beside its numbers, which take 46 columns

# model, data, precision -> logits (n, K) of the split to score
ScoreRun = Callable[[ViT, PlainImageData, str], Rows]


class Scored(NamedTuple):
    """A model's logits on the split, and a note on images that it may have been trained on."""

    name: str
    rows: Rows
    note: str

    @property
    def right(self) -> Tensor:
        """Which predictions are right: bool ``(n,)``."""
        return self.rows.values.argmax(dim=1) == self.rows.labels


def make_runner(device: torch.device, *, flip: bool) -> ScoreRun:
    """A function that computes the logits of a split; flip: average with mirror images."""

    def run(model: ViT, data: PlainImageData, precision: str) -> Rows:
        model = model.to(device, weights_dtype(precision))  # autocast itself converts no weights

        def forward(x: Tensor) -> Tensor:
            return flip_average(model, x, model) if flip else model(x)

        compute: Compute = in_precision(forward, precision, device.type)
        split = data.splits[data.split]
        rows = collect(data, loader_of(data, split), compute, device).rows()
        return checked(rows, split, f"{data.dataset} {data.split}")

    return run


def score_all(
    paths: list[str], data: PlainImageData, run: ScoreRun, precision_of: Callable[[str | None], str]
) -> list[Scored]:
    """Score checkpoints on ``data.split``, one after the other.

    precision_of: precision of the training, None if not known -> precision to score in. Raises
    InputError if the models have different classes.
    """
    data.prepare_data()
    first = _read(checkpoint.resolve_checkpoint(paths[0]))
    found: list[Scored] = []
    for name in paths:
        path = checkpoint.resolve_checkpoint(name)
        content = _read(path)
        settings = content[checkpoint.DATA_KEY]
        KINDS[settings.get("task", DEFAULT_TASK)].require("compare")
        precision = precision_of(checkpoint.trained_precision(content))
        same = {key: data.hparams[key] for key in (*SHARED_SETTINGS, *READING_SETTINGS)}
        # class_names None: the data's own; those of the checkpoint are checked below
        own = PlainImageData(**{**settings, **same, "split": data.split, "class_names": None})
        loaded = load.load_checkpoint(path)
        if loaded.class_names != data.class_names:  # in another order too: labels are numbers
            raise InputError(
                f"{name} has the classes {first_few(loaded.class_names)}; those of "
                f"{paths[0]} are {first_few(data.class_names)}: compare models of equal classes"
            )
        # the same images for all
        own.hold_to(PastTraining(first[checkpoint.DATA_KEY], record_of(first)))
        own.setup("test")
        note = _note_seen_images(content, own)
        task, model = make_task(content[checkpoint.MODEL_KEY]), loaded.model
        # as test does: a standardised output keeps more digits in bfloat16
        model.load_state_dict(task.with_settings(model.state_dict()))
        rows = run(model, own, precision)
        if task.name == "regression":
            rows = rows._replace(values=task.answers(rows.values))
        found.append(Scored(str(path), rows, note))
    return found


def _read(path: Path) -> dict[str, Any]:
    content = checkpoint.read_checkpoint(path)
    content[checkpoint.DATA_KEY] = with_split_rule(content[checkpoint.DATA_KEY])
    return content


def _note_seen_images(content: dict[str, Any], data: PlainImageData) -> str:
    """A note if the model may have been trained on the images it is scored on, else "".

    content: of the model's checkpoint; data: with the split that is scored.
    """
    settings, record = content[checkpoint.DATA_KEY], record_of(content)
    own, split = data_identity(settings), data.splits[data.split]
    is_same_place = own == data_identity(data.hparams)
    if record and split.paths:
        files = image_file_hashes(split.images, split.members)
        about = (image_path_hashes(split.images, data.data_dir)[split.members], files)
        seen = int(was_trained_on(record, *about, same=is_same_place).sum())
        if seen:
            return f"it was trained on {seen} of these {len(split)} images"
        if is_same_place or is_same_data(record, files):
            return ""
    if not is_same_place:
        return f"it was trained on other data, {' '.join(own[:2])}"
    return seen_note(data.hparams, settings, data.split)


def comparison_lines(scored: list[Scored], title: str) -> list[str]:
    """The lines of a table of 80 columns: of each model accuracy, 95 % interval, balanced accuracy
    and loss in nats, and below them how it differs from the first.
    """
    if scored[0].rows.labels.is_floating_point():
        return _number_lines(scored, title)
    first = scored[0]
    found = [compare(other.right, first.right) for other in scored[1:]]
    raised = holm([difference.p for difference in found])  # each model is compared with the first
    # beside the numbers; longer names have a line to themselves
    width = max([5, *(len(one.name) for one in scored if len(one.name) <= NAME_WIDTH)])
    table = [filled(title)]
    table.append("against the first: difference (95 % interval), p, images only one gets right")
    table.append(f"{'model':{width}}  accuracy  95 % interval     balanced  loss")
    for i, one in enumerate(scored):
        right, count = int(one.right.sum()), len(one.rows.labels)
        low, high = wilson(right, count)
        loss = mean_loss(one.rows.values, one.rows.labels)
        balanced = balanced_accuracy(one.rows.values, one.rows.labels)
        name = one.name
        if len(name) > width:
            table.append(name)
            name = ""
        numbers = f"{right / count:.4f}    {low:.4f} to {high:.4f}  {balanced:.4f}    {loss:.4f}"
        table.append(f"{name:{width}}  {numbers}")
        against = [] if i == 0 else [_difference_line(found[i - 1], raised[i - 1])]
        if remarks := "; ".join([*against, *filter(None, [one.note])]):
            table.append(filled(f"  {remarks}"))
    if len(found) > 1:
        table.append(f"p is corrected for {len(found)} comparisons (Holm)")
    return table


def _difference_line(found: Difference, p: float) -> str:
    """p: raised for the number of comparisons; ``found.p`` is not."""
    if not found.only_first and not found.only_second:
        return "right and wrong on the same images"
    low, high = found.interval
    direction = "better" if found.value > 0 else "worse"
    verdict = "within noise" if p >= SIGNIFICANCE_LEVEL else direction
    return (
        f"{found.value:+.4f} ({low:+.4f} to {high:+.4f}), p {p:.2g}, "
        f"{found.only_first} against {found.only_second} images: {verdict}"
    )


def _number_lines(scored: list[Scored], title: str) -> list[str]:
    """The lines for models of numbers: MAE, its 95 % interval, RMSE and R2, and the differences."""
    wanted = scored[0].rows.labels
    errors = [(one.rows.values - wanted).abs().double() for one in scored]  # each (n, 1)
    width = max([5, *(len(one.name) for one in scored if len(one.name) <= NAME_WIDTH)])
    table = [filled(title), "against the first: difference of the MAE (95 % interval)"]
    table.append(f"{'model':{width}}  MAE       95 % interval         RMSE      R2")
    for i, one in enumerate(scored):
        answers, targets = one.rows.values[:, 0], wanted[:, 0]
        found = error_scores(answers, targets)
        low, high = error_intervals(answers, targets)["mae"]
        name = one.name
        if len(name) > width:
            table.append(name)
            name = ""
        interval = f"{low:.4g} to {high:.4g}"
        numbers = f"{found['mae']:<8.4g}  {interval:20}  {found['rmse']:<8.4g}  {found['r2']:.4f}"
        table.append(f"{name:{width}}  {numbers}")
        against = [] if i == 0 else [_error_difference(errors[i], errors[0])]
        if remarks := "; ".join([*against, *filter(None, [one.note])]):
            table.append(filled(f"  {remarks}"))
    return table


def _error_difference(errors: Tensor, first: Tensor) -> str:
    """How much larger errors ``(n, 1)`` are than those of the first model, on the same images."""
    difference = errors - first
    low, high = interval_of(bootstrap_means(difference)[:, 0])
    verdict = "within noise" if low <= 0 <= high else ("better" if high < 0 else "worse")
    return f"{float(difference.mean()):+.4g} ({low:+.4g} to {high:+.4g}): {verdict}"


def comparison_title(data: PlainImageData, count: int, *, flip: bool) -> str:
    """The title of the table: what was scored, and how."""
    more = ", each averaged with its mirror image" if flip else ""
    how = "p by McNemar's exact test"
    if data.task == "regression":
        how = f"{data.class_names[0]}, intervals by bootstrap over the images"
    return f"{counted(count, 'image')} of {data.dataset} {data.split}{more}; {how}"


def shown_paths(paths: list[str]) -> list[str]:
    """The paths as given; refuses fewer than two, and two of the same checkpoint."""
    if len(paths) < 2:
        raise InputError("compare needs two checkpoints or more; give at least one more")
    resolved = [checkpoint.resolve_checkpoint(path) for path in paths]
    # resolved twice: best, a run folder and a link may all mean one file
    if len(set(map(Path.resolve, resolved))) < len(paths):
        raise InputError(f"{', '.join(paths)} name the same checkpoint twice; give different ones")
    return paths
