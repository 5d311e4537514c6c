"""Pictures of attention in TensorBoard during a training.

validation images uint8 (count, C, h, w) -> rollout, position similarity, filters -> pictures
"""

import copy
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from vitlit import plotting
from vitlit.errors import InputError
from vitlit.explain import figures
from vitlit.explain.analysis import analyse_weights
from vitlit.explain.findings import Subjects, explain_image, named, number_words
from vitlit.explain.overview import attention_overview
from vitlit.images.preprocess import Preprocess


class AttentionPictures(Callback):
    """Writes pictures of what the model looks at to TensorBoard, every few epochs.

    A set shows the rollout of some validation images, always the same ones, and the position
    similarity and principal filters of the weights. The first set logs how long it took.

    Args:
        every_n_epochs: Epochs between two sets of pictures.
        count: Number of images from the validation split, spread evenly over the classes.
    """

    def __init__(self, every_n_epochs: int = 10, count: int = 4) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("count", count)):
            if value < 1:
                raise InputError(
                    f"{name} {value} of the pictures of attention must be 1 or more", argument=name
                )
        self.every_n_epochs, self.count = every_n_epochs, count
        self._told = False

    # one process alone may do this: module.vit is not the model that DDP wraps, so nobody waits
    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer: Any = getattr(trainer.logger, "experiment", None)
        # add_image is TensorBoard's; the CSV logger has no such method
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
        """Names and pictures, uint8 ``(H, W, C)``."""
        split, preprocess = data.splits["val"], data.preprocess
        assert isinstance(preprocess, Preprocess)
        places = split.balanced_places(self.count)
        pixels = split.images.gather(split.members[places])
        # as `explain` computes its maps, whatever the precision of the training
        vit = module.vit
        if next(vit.parameters()).dtype != torch.float32:
            vit = copy.deepcopy(vit).float()
        with torch.autocast(module.device.type, enabled=False):
            kind = {"task": module.task}
            found = [explain_image(vit, one, preprocess, "mean", **kind) for one in pixels]
        answers = [one.probabilities for one in found if one.probabilities is not None]
        shown = Subjects(split.names(places, f"{data.dataset} val"), pixels, split.labels[places])
        shown = named(shown, number_words(shown, found, module.class_names))
        overview = attention_overview(
            torch.stack([one.shown for one in found]),
            {"rollout": torch.stack([one.rollout for one in found])},
            probabilities=torch.stack(answers) if answers else None,
            class_names=module.class_names,
            names=shown.names,
            labels=shown.single_labels(),
            named=[int(one.classes[0]) for one in found if one.classes is not None],
        )
        similarity, filters = analyse_weights(vit)
        drawn = [("rollout", overview), ("filters", figures.embedding_filters(filters))]
        if similarity is not None:
            drawn.append(("positions", figures.position_grid(similarity)))
        return [(name, plotting.to_array(figure)) for name, figure in drawn]
