"""The command ``anomaly``; its arguments become options, as those of own_commands.py.

model, data, checkpoint -> a folder with the scores of new images, and lines that report them
"""

from pathlib import Path
from typing import Any

import torch

from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError
from vitlit.evaluation.precision import in_precision, weights_dtype
from vitlit.features.anomaly import Scanner
from vitlit.features.anomaly_files import Choices, find_anomalies
from vitlit.files import named_or_free, new_folder
from vitlit.model.features import PatchFeature
from vitlit.training.trainable import TrainableViT
from vitlit.weights.pretrained import read_whole_checkpoint

ANOMALY_FOLDER = "anomaly"


class AnomalyCommand:
    """anomaly, on a device in a precision (Lightning's name)."""

    root_device: torch.device
    precision: Any
    is_global_zero: bool
    shows_bar = False

    def anomaly(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        normal: list[str] | None = None,
        good: str | None = None,
        bank: int = 10000,
        layer: int | None = None,
        count: int = 24,
        out: str | None = None,
    ) -> None:
        """Score new images by how far their patches are from those of normal images.

        Args:
            model: The model, whose head is not used.
            datamodule: The new images: --data.images. Those that are also among the normal ones
                are left out.
            ckpt_path: Checkpoint whose patch tokens are compared.
            normal: Files and folders of normal images. Nothing is trained on them.
            good: Class folder of the new images that holds normal ones, for AUROC; by default the
                one with the name of the normal folder.
            bank: Maximum number of normal patches to keep; if there are more, those farthest apart
                are kept.
            layer: Block whose patch tokens are compared, counted from 0, or from the end: -1, -2, …
            count: Number of images in the picture: those with the highest scores, and a third as
                many with the lowest.
            out: Folder to create; by default anomaly, or anomaly-2 and so on.
        """
        choices = Choices(normal or [], good, bank, count)
        choices.check()
        if not datamodule.image_paths:
            raise InputError(
                "anomaly needs images to score; give files or folders", argument="images"
            )
        feature = PatchFeature(layer)
        feature.check(model.vit)
        if ckpt_path is not None:
            model.load_state_dict(read_whole_checkpoint(Path(ckpt_path))["state_dict"])
        device = self.root_device
        vit = model.vit.to(device, weights_dtype(self.precision)).eval()
        compute = in_precision(lambda x: feature(vit, x), self.precision, device.type)
        scanner = Scanner(datamodule, compute, device, shows_bar=self.shows_bar)
        folder = named_or_free(out, ANOMALY_FOLDER)
        with new_folder(folder) as part:
            found = find_anomalies(scanner, part, choices, vit.grid_size)
        if found.stopped is not None:
            found.stopped.where = f"{found.stopped.where}; wrote the scores of these to {folder}"
            raise found.stopped
        if self.is_global_zero:
            print(*found.lines, f"wrote       {folder}", sep="\n")
