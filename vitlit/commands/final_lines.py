"""The last lines of ``fit``: what was reached, where it is, and what to type next.

trainer after a command -> lines, each a word in a column of 12 and its text
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.loggers import TensorBoardLogger

from vitlit.commands.fit_callbacks import is_debug
from vitlit.commands.hints import Facts, hints
from vitlit.commands.score_lines import (
    checkpoint_option,
    format_scores,
    predict_line,
    short_name,
)
from vitlit.data.catalog import may_change
from vitlit.data.datamodule import PlainImageData
from vitlit.data.image_folder import part_names
from vitlit.errors import InputError
from vitlit.files import CHECKPOINTS_FOLDER, SUMMARY_PICTURE, relative_path
from vitlit.messages import counted, labelled, labelled_command
from vitlit.model.cost import token_count
from vitlit.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint, monitor_mode
from vitlit.training.classifier import Classifier
from vitlit.training.history import History
from vitlit.training.optim.schedule import warmup_steps

SHOWN_EPOCHS = 3  # the best ones


def fit_lines(trainer: pl.Trainer, run: Path | None, settings: Any) -> list[str]:
    """After ``fit``: scores, checkpoints, curves, remarks, and the command that comes next.

    run: the folder of the training, if it has one; settings: those of ``fit``.
    """
    lines = [*_end_lines(trainer), *_best_epochs(trainer, settings["checkpoints"]["monitor"])]
    kept: list[Path] = []
    for checkpoint in trainer.checkpoint_callbacks:
        if not isinstance(checkpoint, BestCheckpoint | LastCheckpoint):
            continue
        if not checkpoint.best_model_path:
            continue
        path = Path(checkpoint.best_model_path)
        if not path.is_file():
            lines.append(labelled("removed", f"{relative_path(path)}, by another program"))
            continue
        # The best checkpoint comes first in the list, so the next command is about it.
        kept.append(path)
        score = checkpoint.best_model_score
        shown = "" if score is None else f"{checkpoint.monitor} {score:.4f}  "
        lines.append(labelled(path.stem, f"{shown}{CHECKPOINTS_FOLDER}/{path.name}"))
    if run is not None:
        lines.append(labelled("run", relative_path(run)))
        if (run / SUMMARY_PICTURE).is_file():
            lines.append(labelled("picture", relative_path(run / SUMMARY_PICTURE)))
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            folder = shlex.quote(relative_path(logger.log_dir))
            lines.append(labelled_command("curves", f"tensorboard --logdir {folder}"))
    if not is_debug(settings):
        lines += [labelled("hint", text) for text in _remarks(trainer, settings)]
    if kept and not isinstance(trainer.lightning_module, Classifier):
        weights = f"--model.pretrained {shlex.quote(short_name(kept[0]))}"
        lines.append(labelled_command("next", "vitlit fit --config CONFIG", weights))
    elif kept:
        has_test = _has_test_images(trainer.datamodule)  # type: ignore[attr-defined]
        weights = checkpoint_option(kept[0])
        test = labelled_command("next", "vitlit test", weights)
        lines.append(test if has_test else predict_line(weights))
    return lines


def _end_lines(trainer: pl.Trainer) -> Iterator[str]:
    """What was reached, and why the training ended there if it was not planned so."""
    monitors = [c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)]
    module = trainer.lightning_module
    first = f"val/{module.task.monitors[0]}" if isinstance(module, Classifier) else "val/loss"
    if first in trainer.callback_metrics:
        names = list(dict.fromkeys([first, *map(str, monitors)]))
        scored = [row["epoch"] + 1 for row in _rows(trainer) if first in row]
        is_final = not scored or scored[-1] >= trainer.current_epoch
        when = "the final epoch" if is_final else f"epoch {scored[-1]:.0f}, the last validated"
        yield labelled("reached", f"{format_scores(trainer.callback_metrics, names)} in {when}")
    elif trainer.limit_val_batches:
        yield labelled(
            "validated",
            f"not in this command: the training ended at step {trainer.global_step}, before a "
            f"validation was due",
        )
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        left = timer.time_remaining() if isinstance(timer, Timer) else None
        if left is not None and left <= 0:
            limit = counted(round(timer.time_elapsed() + left), "second")
            yield labelled(
                "ended",
                f"by --trainer.max_time, after {limit} of training in all commands of the run "
                f"together; give a longer time to continue",
            )
    for stopping in trainer.early_stopping_callbacks:
        if stopping.wait_count >= max(1, stopping.patience):
            yield labelled(
                "ended",
                f"early: {stopping.monitor} did not improve for {stopping.wait_count} validations "
                f"(--early_stopping.patience)",
            )


def _rows(trainer: pl.Trainer) -> list[dict[str, float]]:
    """The numbers of each epoch."""
    found = [one.rows for one in trainer.callbacks if isinstance(one, History)]  # type: ignore[attr-defined]
    return found[0] if found else []


def _best_epochs(trainer: pl.Trainer, monitor: str) -> list[str]:
    """A line for each of the best epochs; none where only one was validated."""
    rows = [row for row in _rows(trainer) if monitor in row]
    if len(rows) < 2:
        return []
    sign = -1 if monitor_mode(monitor) == "min" else 1
    # of equal scores the later one is the best, as for best.ckpt
    rows.sort(key=lambda row: (sign * row[monitor], row["epoch"]), reverse=True)
    width = max(len(f"{row['epoch'] + 1:.0f}") for row in rows[:SHOWN_EPOCHS])
    names = dict.fromkeys([monitor, "val/loss"])
    return [
        labelled(
            "" if i else "best epochs",
            f"{row['epoch'] + 1:{width}.0f}  {format_scores(row, [n for n in names if n in row])}",
        )
        for i, row in enumerate(rows[:SHOWN_EPOCHS])
    ]


def _remarks(trainer: pl.Trainer, settings: Any) -> list[str]:
    """What is to be said of the course of the training, and of its data and model."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    module = trainer.lightning_module
    found = [one.rows for one in trainer.callbacks if isinstance(one, History)]  # type: ignore[attr-defined]
    if not (found and isinstance(data, PlainImageData) and isinstance(module, Classifier)):
        return []
    total, hp = trainer.estimated_stepping_batches, module.hparams
    train, val = (
        type(module.task).images_of(data.splits[split].labels, len(data.class_names)).tolist()
        if split in data.splits
        else []
        for split in ("train", "val")
    )
    facts = Facts(
        class_names=data.class_names,
        train_counts=train,
        val_counts=val,
        steps=trainer.global_step,
        warmup=warmup_steps(hp, total, trainer),
        is_weighted=hp["class_weights"] != "none",
        tokens=token_count(module.vit),
        img_size=settings["data"]["img_size"],
        is_folder=may_change(data.dataset),
        is_pretrained=bool(hp["pretrained"]),
    )
    return hints(found[0], facts)


def _has_test_images(data: Any) -> bool:
    """Whether ``test`` has images to score; a folder of train and val alone gives it none."""
    if not isinstance(data, PlainImageData) or data.labels is not None:
        return True
    try:
        parts = part_names(data.dataset, data.data_dir)
    except InputError:  # the folder is gone: a finished training is no place to complain
        return False
    return "test" in parts or "all" in parts
