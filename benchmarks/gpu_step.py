"""A training step for ``gpu_parts.py``, piece by piece, as `vitlit fit` runs it on a GPU.

random images -> augmented patches -> logits -> loss -> updated weights
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vitlit.augment.pipeline import Augmentation
from vitlit.data.batch import Batch
from vitlit.images.preprocess import Preprocess
from vitlit.model.cast_weights import forward_with_cast_weights, saves_launches
from vitlit.model.vit import ViT
from vitlit.patches import patchify
from vitlit.tasks.loss import cross_entropy
from vitlit.training.compiling import Function, compile_training
from vitlit.training.optim.groups import parameter_groups
from vitlit.training.trainable import CompileMode

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


class Step:
    """A training step of cifar10.yaml, its pieces apart: uint8 images to updated weights."""

    def __init__(self, small: bool) -> None:
        size, depth = (8, 2) if small else (512, 12)
        self.size = size
        self.vit = ViT(
            img_size=32, patch_size=4, num_classes=10, embed_dim=192, depth=depth, num_heads=3,
            patch_embed="linear", global_pool="avg", drop_path_rate=0.1,
        ).to(DEVICE)  # fmt: skip
        self.augmentation = Augmentation(
            seed=0, num_classes=10, crop_padding=4, flip=True, auto_augment="randaugment",
            erasing=0.25, mixup=0.8, cutmix=1.0,
        )  # fmt: skip
        one = (0.5, 0.5, 0.5)
        self.preprocess = Preprocess(
            in_chans=3, source_size=(32, 32), img_size=(32, 32), mean=one, std=one, invert=False
        )
        pixels = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
        sample = torch.arange(size)
        whole = torch.ones(size, dtype=torch.bool, device=DEVICE)
        labels = (sample % 10).to(DEVICE)
        self.batch = Batch(pixels.to(DEVICE), labels, sample, whole, 0, 0)
        groups = parameter_groups(self.vit, weight_decay=0.05, decay="matrices")
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
        self.label_loss: Function = cross_entropy  # or what the compiler made of it
        self.patches, self.targets = self.augment()

    def compile(self, mode: CompileMode) -> None:
        """The model and the loss, as a training on a GPU does."""
        if not ON_GPU:  # without a C++ compiler only the tracing can be tried
            self.vit.compile(backend="aot_eager")
            return
        data = SimpleNamespace(compile_augmentation=lambda **_: None)  # no part of what is timed
        device = SimpleNamespace(root_device=torch.device(DEVICE))
        trainer: Any = SimpleNamespace(strategy=device, datamodule=data)
        self.label_loss = compile_training([self.vit], trainer, mode)(cross_entropy)

    def augment(self) -> tuple[Tensor, Tensor]:
        x, y = self.augmentation(
            self.batch.x, self.batch.y, self.batch.address, size=(32, 32),
            normalise=self.preprocess, cropped=False,
        )  # fmt: skip
        return patchify(x, 4), y

    def logits(self) -> Tensor:
        """As the classifier computes them in a training step."""
        if saves_launches(self.patches):
            dtype = torch.get_autocast_dtype("cuda")
            return forward_with_cast_weights(self.vit, self.patches, dtype)
        logits: Tensor = self.vit(self.patches)
        return logits

    def loss(self) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            return self.label_loss(self.logits(), self.targets, smoothing=0.1)

    def backward(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()

    def whole(self) -> None:
        self.patches, self.targets = self.augment()
        self.backward()
        torch.nn.utils.clip_grad_norm_(self.vit.parameters(), 1.0)
        self.optimizer.step()
