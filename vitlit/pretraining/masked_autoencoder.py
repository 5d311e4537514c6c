"""A masked autoencoder in training, for Lightning.

Batch of patches (B, N, C*P*P) or images (B, C, H, W) -> loss of the masked patches
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from vitlit.data.batch import Batch
from vitlit.model.encoder import uncompiled
from vitlit.patches import patchify
from vitlit.pretraining.maskable import MaskableViT
from vitlit.pretraining.masking import visible_places
from vitlit.seeding import seed_dropout
from vitlit.training.training_module import TrainingModule


class LossSums:
    """The loss of an epoch so far, on the device: float32 ``(2,)``, its sum and the steps."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, device=device)

    def add(self, loss: Tensor) -> None:
        """The mean loss of one batch; batches are of one size."""
        self._sums[0] += loss.detach()
        self._sums[1] += 1

    def sums(self) -> Tensor:
        """The sums so far."""
        return self._sums

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""
        self._sums = sums.to(self._sums, copy=True)


class MaskedAutoencoder(MaskableViT, TrainingModule):
    """Trains a :class:`MaskableViT`; the validation loss is that of one mask for each image."""

    train_sums: LossSums

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # "disable": a loss that is not finite shows. A MeanMetric would then ignore its weights
        # (torchmetrics 1.9), and count images that pad processes to equal length.
        self.val_sum = SumMetric(nan_strategy="disable")
        self.val_count = SumMetric(nan_strategy="disable")
        self.train_sums = LossSums(self.device)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train_sums = LossSums(self.device)  # a run resumed in an epoch has no start of it

    def compiled_parts(self) -> list[nn.Module]:
        return [self.vit.blocks, self.decoder]

    def patches_of(self, x: Tensor) -> Tensor:
        """Patches ``(B, N, C*P*P)`` of what a batch holds: those, or images."""
        return patchify(x, self.vit.config["patch_size"]) if x.ndim == 4 else x

    def places_of(self, batch: Batch) -> Tensor:
        """The visible patches of a batch ``(B, n)``; in evaluations the same each time."""
        seed: int = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        found = visible_places(seed, batch.epoch, batch.address.sample, self.patches, self.visible)
        return found.to(batch.x.device, non_blocking=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # as in Classifier: dropout depends on the address of the batch alone
        seed_dropout(batch.key, batch.x.device)
        loss = self.losses(self.patches_of(batch.x), self.places_of(batch)).mean()
        self.train_sums.add(loss)
        self.log_step(loss, batch_idx)
        return self.guarded(loss)

    def on_train_epoch_start(self) -> None:
        self.train_sums = LossSums(self.device)

    def on_train_epoch_end(self) -> None:
        total, steps = self.train_sums.sums().unbind()
        self.log("train/loss_epoch", total / steps, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with uncompiled():  # the smaller last batch would compile again
            losses = self.losses(self.patches_of(batch.x), self.places_of(batch))
        self.val_sum.update(losses.masked_fill(~batch.valid, 0.0))
        self.val_count.update(batch.valid)

    def on_validation_epoch_end(self) -> None:
        mean = self.val_sum.compute() / self.val_count.compute()  # over all processes
        self.log("val/loss", mean, prog_bar=True)
        self.val_sum.reset()
        self.val_count.reset()
