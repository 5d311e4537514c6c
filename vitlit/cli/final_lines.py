"""The last lines of a command: what was reached, where it is, and what to type next.

trainer after a command -> lines, each a word in a column of 12 and its text
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from vitlit.data.datamodule import ImageData
from vitlit.data.image_folder import part_names
from vitlit.errors import InputError
from vitlit.files import relative_path
from vitlit.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint

ACCURACY_GAP = 0.01  # difference from balanced accuracy from which on both are shown


def fit_lines(trainer: pl.Trainer) -> list[str]:
    """After ``fit``: scores, checkpoints, logs, and the command that comes next."""
    lines: list[str] = []
    callbacks = trainer.checkpoint_callbacks
    monitors = [one.monitor for one in callbacks if isinstance(one, BestCheckpoint)]
    if "val/acc" in trainer.callback_metrics:
        names = list(dict.fromkeys(["val/acc", *map(str, monitors)]))
        lines.append(f"reached     {_format_scores(trainer, names)} in the final epoch")
    elif trainer.limit_val_batches:
        lines.append(
            f"validated   not in this command: the training ended at step {trainer.global_step}, "
            f"before a validation was due"
        )
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        left = timer.time_remaining() if isinstance(timer, Timer) else None
        if left is not None and left <= 0:
            lines.append(
                f"ended       by --trainer.max_time, after {timer.time_elapsed():.0f} seconds of "
                f"training, those before it was resumed included; give more to go on"
            )
    for stopping in trainer.early_stopping_callbacks:
        if stopping.wait_count >= max(1, stopping.patience):
            lines.append(
                f"ended       early: {stopping.monitor} did not improve for {stopping.wait_count} "
                f"validations (--early_stopping.patience)"
            )
    files: list[str] = []
    for checkpoint in callbacks:
        if not isinstance(checkpoint, BestCheckpoint | LastCheckpoint):
            continue
        if not checkpoint.best_model_path:
            continue
        if not Path(checkpoint.best_model_path).is_file():
            lines.append(
                f"removed     {relative_path(checkpoint.best_model_path)}, by somebody else"
            )
            continue
        # The best checkpoint comes first in the list, so the next command is about it.
        files.append(relative_path(checkpoint.best_model_path))
        name, score = Path(files[-1]).stem, checkpoint.best_model_score
        shown = "" if score is None else f"  {checkpoint.monitor} {score:.4f}"
        lines.append(f"{name:12}{files[-1]}{shown}")
    if trainer.logger is not None and trainer.log_dir:
        lines.append(
            f"logs        {relative_path(trainer.log_dir)}  (tensorboard --logdir the same)"
        )
    if files and _has_test_images(trainer.datamodule):  # type: ignore[attr-defined]
        lines.append(f"next        vitlit test --ckpt_path {files[0]}")
    elif files:
        lines.append(_predict_line(f"--ckpt_path {files[0]}"))
    return lines


def _has_test_images(data: Any) -> bool:
    """Whether ``test`` has images to score; a folder of train and val alone gives it none."""
    if not isinstance(data, ImageData) or data.labels is not None:
        return True
    try:
        parts = part_names(data.dataset, data.data_dir)
    except InputError:  # the folder is gone: a finished training is no place to complain
        return False
    return "test" in parts or "all" in parts


def _predict_line(weights: str) -> str:
    return f"next        vitlit predict {weights} --data.images FILES_OR_FOLDERS"


def weights_option(checkpoint: str | None, pretrained: str | None) -> str:
    """The option that names the weights in use: --ckpt_path if there is one."""
    if checkpoint is None:
        return f"--model.pretrained {pretrained}"
    return f"--ckpt_path {relative_path(checkpoint)}"


def score_lines(trainer: pl.Trainer, split: str, count: int, weights: str) -> list[str]:
    """After ``test`` and ``validate``: scores, the number of images, and how to predict.

    split: prefix of the scores' names; count: images; weights: the option that named them.
    """
    names = [f"{split}/{name}" for name in ("acc", "acc5", "loss")]
    return [
        f"reached     {_format_scores(trainer, names)}  ({count} images)",
        f"weights     {weights.partition(' ')[2]}",
        _predict_line(weights),
    ]


def _format_scores(trainer: pl.Trainer, names: list[str]) -> str:
    """Scores by name; with balanced accuracy if classes are so unequal that it differs."""
    metrics, balanced = trainer.callback_metrics, names[0].replace("/acc", "/balanced_acc")
    if balanced in metrics and abs(metrics[balanced] - metrics[names[0]]) >= ACCURACY_GAP:
        names = list(dict.fromkeys([names[0], balanced, *names[1:]]))
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)


def explain_lines(folder: Path, *, has_head: bool) -> list[str]:
    """After ``explain``: the files, and what they lack for a model without a head."""
    names = " ".join(sorted(file.name for file in folder.iterdir()))
    lines = [f"wrote       {relative_path(folder)}: {names}"]
    if not has_head:
        lines.append("left out    predicted classes and relevance to them: there is no head")
    return lines
