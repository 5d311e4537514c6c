"""timm's vit_tiny on small images by DeiT's recipe, in a plain loop: what a person would write.

    python benchmarks/duel_timm.py FILES FOUND --epochs 20

FILES: JSON, path and class of each image under train, val and test; FOUND: written at the end.
Nothing of vitlit is used. The recipe is that of Touvron et al. (2021), table 9: AdamW, its rate
0.0005 for 512 images in a step, weight decay 0.05, five epochs of warmup, cosine; RandAugment,
random erasing, MixUp, CutMix, label smoothing, stochastic depth. Small images are cropped after a
padding of 4 pixels, as in DeiT's code.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from timm import create_model
from timm.data import Mixup
from timm.data.transforms_factory import transforms_imagenet_train
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

SIZE, BATCH, CLASSES, WARMUP = 32, 128, 10, 5
RATE, MIN_RATE = 5e-4 * BATCH / 512, 1e-5
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


class Files(Dataset[tuple[Tensor, int]]):
    def __init__(self, files: list[tuple[str, int]], transform: transforms.Compose) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def training_transform() -> transforms.Compose:
    found = transforms_imagenet_train(
        SIZE,
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-mmax9-inc1",  # above 9, timm posterizes to 0 bits: an error
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        mean=MEAN,
        std=STD,
    )
    found.transforms[0] = transforms.RandomCrop(SIZE, padding=4)
    return found


def plain_transform() -> transforms.Compose:
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Share of the highest learning rate."""
    if step < warmup:
        return (step + 1) / warmup
    low = MIN_RATE / RATE
    progress = (step - warmup) / max(1, steps - warmup)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """No weight decay for biases, norms, the class token and the positions."""
    kept = {"pos_embed", "cls_token"}
    named = list(model.named_parameters())
    plain = [p for name, p in named if p.ndim < 2 or name in kept]
    decayed = [p for name, p in named if not (p.ndim < 2 or name in kept)]
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}]


def batches(loader: DataLoader[tuple[Tensor, int]], most: int | None) -> Iterator[list[Tensor]]:
    for number, batch in enumerate(loader):
        if number == most:
            return
        yield batch


@torch.inference_mode()
def accuracy(model: nn.Module, loader: DataLoader[tuple[Tensor, int]], bf16: bool) -> float:
    model.eval()
    right = count = 0
    for images, labels in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images)
        right += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return right / count


def loaders(files: dict[str, list[tuple[str, int]]]) -> dict[str, DataLoader[tuple[Tensor, int]]]:
    found = {}
    for name, own in files.items():
        training = name == "train"
        images = Files(own, training_transform() if training else plain_transform())
        found[name] = DataLoader(images, BATCH, shuffle=training, drop_last=training, num_workers=2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batches", type=int, help="of an epoch, to measure what a step costs")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    args = parser.parse_args()
    torch.manual_seed(0)
    bf16 = args.precision == "bf16-mixed"
    data = loaders(json.loads(args.files.read_text()))
    model = create_model(
        "vit_tiny_patch16_224",
        img_size=SIZE,
        patch_size=4,
        num_classes=CLASSES,
        drop_path_rate=0.1,
    )
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)
    optimizer, loss_of = AdamW(parameter_groups(model), lr=RATE), SoftTargetCrossEntropy()
    epoch_steps = args.batches or len(data["train"])
    steps, warmup = args.epochs * epoch_steps, min(WARMUP, args.epochs / 2) * epoch_steps
    schedule = LambdaLR(optimizer, lambda step: rate_at(step, steps, max(1, round(warmup))))
    val = []
    for _ in range(args.epochs):
        model.train()
        for images, labels in batches(data["train"], args.batches):
            mixed, targets = mixup(images, labels)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of(model(mixed), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        val.append(accuracy(model, data["val"], bf16))
    used = os.times()
    seconds = used.user + used.system + used.children_user + used.children_system
    test = accuracy(model, data["test"], bf16)
    found = {"val": val, "test": test, "batch_size": BATCH, "seconds": seconds}
    args.found.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
