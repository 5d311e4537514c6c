"""What a masked autoencoder sees and what it makes of it, as a picture, while it learns.

validation images uint8 (count, C, h, w) -> originals, masked ones, reconstructions -> a figure
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from vitlit import plotting
from vitlit.files import replacing
from vitlit.images.preprocess import Preprocess
from vitlit.model.encoder import uncompiled
from vitlit.patches import patchify, unpatchify
from vitlit.pretraining.maskable import MaskableViT, patch_statistics
from vitlit.pretraining.masking import masked_places, visible_places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "reconstructions.png"
GREY_LEVEL = 0.5  # of masked patches in the picture, of pixels in [0, 1]
ROWS = ("image", "visible", "reconstructed")


class Reconstructions(Callback):
    """Draws some validation images, always the same ones with the same masks.

    The picture is in the run's folder when the training ends, and in TensorBoard every few epochs.

    run: the folder, None to write nothing; every_n_epochs: 0 draws none for TensorBoard; count:
    number of images.
    """

    def __init__(self, run: Path | None, every_n_epochs: int = 10, count: int = 8) -> None:
        self.run, self.every_n_epochs, self.count = run, every_n_epochs, count

    # One process alone may do this: the module is not the model that DDP wraps, so nobody waits.
    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer: Any = getattr(trainer.logger, "experiment", None)
        every = self.every_n_epochs if _has_images(trainer) else 0
        # add_image is TensorBoard's; the CSV logger has no such method
        if not every or (trainer.current_epoch + 1) % every or not hasattr(writer, "add_image"):
            return
        picture = plotting.to_array(self._figure(trainer, pl_module))
        writer.add_image("reconstructions", picture, trainer.current_epoch, dataformats="HWC")

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.run is not None and _has_images(trainer):
            with replacing(self.run / FILE) as part:
                self._figure(trainer, pl_module).savefig(part, format="png")

    def _figure(self, trainer: pl.Trainer, module: Any) -> "Figure":
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        split = data.splits["val"]
        places = torch.tensor(split.balanced_places(self.count))
        pixels = split.images.gather(split.members[places])
        visible = visible_places(data.seed, 0, places, module.patches, module.visible)
        # in float32, whatever the precision of the training
        with torch.autocast(module.device.type, enabled=False):
            shown = reconstructions(module, pixels, visible, data.preprocess)
        error = trainer.callback_metrics.get("val/loss")
        title = [] if error is None else [f"validation loss {float(error):.4f}"]
        if module.hparams["norm_pixels"]:
            title.append("reconstructed patches have the brightness and contrast of the image's")
        return draw(shown, "; ".join(title))


def _has_images(trainer: pl.Trainer) -> bool:
    """Whether anything was held out for validation, which very few images may not be."""
    return len(trainer.datamodule.splits["val"]) > 0  # type: ignore[attr-defined]


@torch.no_grad()
def reconstructions(
    module: MaskableViT, pixels: Tensor, visible: Tensor, preprocess: Preprocess
) -> Tensor:
    """Originals, the same with masked patches grey, and with masked patches as predicted.

    pixels: uint8 ``(B, C, h, w)``; visible: places ``(B, n)``. A patch that was predicted
    normalised gets the mean and standard deviation of the original, as in MAE's pictures. Returns
    ``(3, B, C, H, W)`` in [0, 1], as the model sees them.
    """
    device, size = module.decoder.mask_token.device, module.vit.img_size
    patch = module.vit.config["patch_size"]
    images = preprocess(pixels.to(device))  # (B, C, H, W), normalised
    patches, visible = patchify(images, patch), visible.to(device)
    was_training = module.training
    module.eval()  # without dropout
    with uncompiled():
        predicted = module.reconstruct(patches, visible).to(patches.dtype)
    module.train(was_training)
    if module.hparams["norm_pixels"]:
        mean, std = patch_statistics(patches)
        predicted = predicted * std + mean
    hidden = masked_places(visible, module.patches)[:, :, None]
    rows = torch.stack([patches, patches, torch.where(hidden, predicted, patches)])
    mean, std = (
        torch.tensor(v, device=device).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std)
    )
    found = (unpatchify(rows, patch, size) * std + mean).clamp(0, 1)
    shape = hidden.expand_as(patches).float()
    found[1] = torch.where(unpatchify(shape, patch, size) > 0, GREY_LEVEL, found[1])
    return 1 - found if preprocess.invert else found


def draw(shown: Tensor, title: str = "") -> "Figure":
    """shown: ``(3, B, C, H, W)`` in [0, 1], from :func:`reconstructions`."""
    count = shown.shape[1]
    figure = plotting.new_figure(3 * plotting.WIDTH_INCHES / max(4, count) + 0.4)
    grid = figure.subplots(len(ROWS), max(4, count), squeeze=False)
    for axes, row, name in zip(grid, shown, ROWS, strict=True):
        for number, one in enumerate(axes):
            if number < count:
                plotting.draw_image(one, row[number], name if number == 0 else "")
            else:
                one.set_axis_off()
    if title:
        plotting.set_title(figure, title)
    return figure
