"""What a training leaves behind to look at: history.csv, history.png, pictures in TensorBoard.

scores of each epoch -> a row, a figure; a few validation images -> rollout, positions, filters
"""

import csv
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from vitlit.errors import InputError
from vitlit.explain import figures
from vitlit.explain.analysis import analyse_weights
from vitlit.explain.explanation import balanced_sample, explain_image, names_in
from vitlit.images.preprocess import Preprocess
from vitlit.training.history_figure import training_history

TRAINING_COLUMNS = ("lr", "train/loss_epoch", "train/acc", "train/acc5")
HISTORY_COLUMNS = (*TRAINING_COLUMNS, "val/loss", "val/acc", "val/acc5", "val/balanced_acc")


class History(Callback):
    """Keeps history.csv and history.png, a row and a point for each epoch, in the run's folder.

    The scores of an epoch are complete when the next one starts, or the training ends.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._validated = False  # whether the scores of validation are of this epoch
        self._before: dict[str, float] = {}  # scores of this epoch from before it was resumed
        self._folder: str | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._folder = trainer.log_dir  # asked of all processes: it waits for each of them

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._add(trainer.current_epoch - 1, trainer.global_step, self._scores(trainer))
        self._validated, self._before = False, {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._add(trainer.current_epoch - 1, trainer.global_step, self._scores(trainer))
        self._draw()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """A training that is cut short shows the epochs it had, if there is room for a picture."""
        with suppress(OSError):
            self._draw()

    @rank_zero_only
    def _add(self, epoch: int, step: int, scores: dict[str, float]) -> None:
        is_new = not self.rows or self.rows[-1]["epoch"] < epoch
        if "train/acc" not in scores or self._folder is None or not is_new:
            return
        self.rows.append({"epoch": epoch, "step": step, **scores})
        path = Path(self._folder) / "history.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            names = ["epoch", "step", *(name for name in HISTORY_COLUMNS if name in self._known())]
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def _scores(self, trainer: pl.Trainer) -> dict[str, float]:
        found = trainer.callback_metrics
        names = [name for name in HISTORY_COLUMNS if name in found]
        return self._before | {
            name: float(found[name])
            for name in names
            if self._validated or not name.startswith("val/")
        }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Rows go with the weights: those of a file may be of epochs that are trained again."""
        checkpoint["history"] = {
            "rows": self.rows,
            "validated": self._validated,
            "scores": self._scores(trainer),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        found = checkpoint.get("history", {})
        self.rows = list(found.get("rows", []))
        self._before = dict(found.get("scores", {}))
        self._validated = found.get("validated", False)

    def _known(self) -> set[str]:
        return {name for row in self.rows for name in row}

    @rank_zero_only
    def _draw(self) -> None:
        if not self.rows or self._folder is None:
            return
        points = {
            name: [(row["epoch"], row[name]) for row in self.rows if name in row]
            for name in HISTORY_COLUMNS
        }
        path = Path(self._folder) / "history.png"
        part = path.with_name(".history.part.png")
        try:
            training_history(points).savefig(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


class AttentionPictures(Callback):
    """Puts pictures of what the model looks at into TensorBoard, every so many epochs.

    The same validation images each time: rollout, and of the weights the position similarity and
    the principal filters. The first time says how long it took.

    Args:
        every_n_epochs: Epochs between two sets of pictures.
        count: Images of the validation split, the classes taking turns.
    """

    def __init__(self, every_n_epochs: int = 10, count: int = 4) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("count", count)):
            if value < 1:
                raise InputError(
                    f"{name} {value} of the pictures of attention must be 1 or more", argument=name
                )
        self.every_n_epochs, self.count = every_n_epochs, count
        self._told = False

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer: Any = getattr(trainer.logger, "experiment", None)
        if (trainer.current_epoch + 1) % self.every_n_epochs or not hasattr(writer, "add_image"):
            return
        start = time.monotonic()
        for name, picture in self._pictures(trainer.datamodule, pl_module):  # type: ignore[attr-defined]
            writer.add_image(f"attention/{name}", picture, trainer.current_epoch, dataformats="HWC")
        if not self._told:
            self._told = True
            every = "epoch" if self.every_n_epochs == 1 else f"{self.every_n_epochs} epochs"
            spent = time.monotonic() - start
            rank_zero_info(f"pictures of attention took {spent:.1f} s; they come every {every}")

    def _pictures(self, data: Any, module: Any) -> list[tuple[str, Any]]:
        split, preprocess = data.splits["val"], data.preprocess
        assert isinstance(preprocess, Preprocess)
        places = balanced_sample(split, self.count)
        pixels = split.images.gather(split.members[places])
        with torch.autocast(module.device.type, enabled=False):
            found = [explain_image(module.vit, one, preprocess, "mean") for one in pixels]
        answers = [one.probabilities for one in found if one.probabilities is not None]
        overview = figures.attention_overview(
            torch.stack([one.shown for one in found]),
            {"rollout": torch.stack([one.rollout for one in found])},
            probabilities=torch.stack(answers),
            class_names=module.class_names,
            names=names_in(split, places, f"{data.dataset} val"),
            labels=split.labels[places].tolist(),
        )
        similarity, filters = analyse_weights(module.vit)
        drawn = [("rollout", overview), ("filters", figures.embedding_filters(filters))]
        if similarity is not None:
            drawn.append(("positions", figures.position_grid(similarity)))
        return [(name, figures.to_array(figure)) for name, figure in drawn]
