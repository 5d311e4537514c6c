"""What masked pretraining gains on a tenth of MNIST's labels, for the same arithmetic.

    python benchmarks/pretrain.py --data-dir DIR --write
    python benchmarks/pretrain.py --data-dir DIR --quick       # does it run?

A tiny ViT learns from 10 % of the labels in three ways: after masked pretraining on all training
images without labels; from scratch for as many steps as would take the floating-point operations
of both; and from scratch for the fine-tuning's steps alone. The last step is scored once on the
test images. No setting was tuned. Operations are those of matrix products, by arithmetic: a
backward pass counts as two forward ones. --write replaces the section of MNIST in pretrain.md.
"""

import argparse
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import measure
import pytorch_lightning as pl
import torch
from recipe import write_section
from small_data import trainer_for
from torch import nn

from vitlit import ImageData
from vitlit.model.vit import ViT
from vitlit.pretraining.masked_autoencoder import MaskedAutoencoder
from vitlit.training.classifier import Classifier
from vitlit.weights.pretrained import load_weights

MODEL: dict[str, Any] = {
    "patch_size": 4,
    "patch_embed": "linear",
    "pos_embed": "sincos2d",
    "global_pool": "avg",
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 2,
    "lr": 2e-3,
    "warmup_fraction": 0.1,
}
BATCH, SHARE = 64, 0.1  # images in a step, share of the labels


def encoder_flops(blocks: nn.Module, width: int, tokens: int) -> float:
    """Of the blocks for one image, forward: two for each multiplication and addition."""
    matrices = sum(2 * one.weight.numel() for one in blocks.modules() if isinstance(one, nn.Linear))
    return tokens * matrices + len(list(blocks.children())) * 4 * tokens**2 * width


def supervised_flops(vit: ViT) -> float:
    """Of a forward pass of one image, head included."""
    patches = math.prod(vit.grid_size)
    embedding, head = 2 * vit.patch_embed.proj.weight.numel(), 2 * vit.head.weight.numel()
    return patches * embedding + encoder_flops(vit.blocks, vit.embed_dim, patches) + head


def pretraining_flops(module: MaskedAutoencoder) -> float:
    """Of a forward pass of one image: the visible patches encoded, all of them decoded."""
    vit, decoder, seen, patches = module.vit, module.decoder, module.visible, module.patches
    ends = seen * (vit.patch_embed.proj.weight.numel() + decoder.embed.weight.numel())
    ends += patches * decoder.pixels.weight.numel()
    width = decoder.embed.out_features
    return (
        2 * ends
        + encoder_flops(vit.blocks, vit.embed_dim, seen)
        + encoder_flops(decoder.blocks, width, patches)
    )


def mnist(args: argparse.Namespace, seed: int, share: float) -> ImageData:
    return ImageData(
        dataset="mnist",
        data_dir=str(args.data_dir),
        download=False,
        batch_size=BATCH,
        crop_padding=2,
        patch_size=MODEL["patch_size"],
        train_fraction=share,
        split_seed=seed,
        seed=seed,
    )


def sizes(data: ImageData) -> dict[str, Any]:
    return {"img_size": data.img_size, "in_chans": data.in_chans}


def classifier(data: ImageData, seed: int, **changes: Any) -> Classifier:
    pl.seed_everything(seed, verbose=False)
    own = {"num_classes": data.num_classes, "class_names": data.class_names}
    return Classifier(**{**MODEL, "label_smoothing": 0.1, **changes}, **sizes(data), **own)


def accuracy(args: argparse.Namespace, seed: int, steps: int, start: Path | None = None) -> float:
    """Accuracy on the test images after supervision on the share of the labels."""
    data, settings = mnist(args, seed, SHARE), {} if start is None else {"pretrained": str(start)}
    model, trainer = classifier(data, seed, **settings), trainer_for(steps)
    if start is not None:
        model.load_pretrained(load_weights(start))
    trainer.fit(model, data)
    return float(trainer.test(model, data, verbose=False)[0]["test/acc"])


def pretrain(args: argparse.Namespace, seed: int, file: Path) -> MaskedAutoencoder:
    """Pretrain on all training images, and leave the checkpoint."""
    pl.seed_everything(seed, verbose=False)
    data = mnist(args, seed, 1.0)
    module, trainer = MaskedAutoencoder(**MODEL, **sizes(data)), trainer_for(args.pretrain_steps)
    trainer.fit(module, data)
    trainer.save_checkpoint(file)
    return module


def equal_steps(args: argparse.Namespace, module: MaskedAutoencoder) -> int:
    """Steps of supervision with the operations of pretraining and fine-tuning together."""
    data = mnist(args, 0, SHARE)
    ratio = pretraining_flops(module) / supervised_flops(classifier(data, 0).vit)
    return args.finetune_steps + round(args.pretrain_steps * ratio)


def rows(args: argparse.Namespace) -> dict[str, list[float]]:
    """Accuracies of the seeds, by row of the table."""
    found: dict[str, list[float]] = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            file, began = Path(folder) / "pretrained.ckpt", time.process_time()
            module = pretrain(args, seed, file)
            steps = equal_steps(args, module)
            print(f"seed {seed}: pretrained in {time.process_time() - began:.0f} CPU s", flush=True)
            short, more = args.finetune_steps, args.pretrain_steps
            for name, count, start in (
                (f"{more} steps of pretraining, then {short} with labels", short, file),
                (f"the same operations with labels: {steps} steps", steps, None),
                (f"{short} steps with labels", short, None),
            ):
                began = time.process_time()
                found.setdefault(name, []).append(accuracy(args, seed, count, start))
                spent = time.process_time() - began
                print(f"{name}: {found[name][-1]:.4f} ({spent:.0f} CPU s)", flush=True)
    return found


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} +- {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="holds MNIST/raw")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pretrain-steps", type=int, default=1500)
    parser.add_argument("--finetune-steps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="ten steps each: does it run?")
    parser.add_argument("--write", action="store_true", help="into pretrain.md")
    args = parser.parse_args()
    if args.quick:
        if args.write:
            parser.error("--quick is too short to keep; leave it out, or --write")
        args.pretrain_steps = args.finetune_steps = 10
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities|torch.nn")
    lines = [measure.row([name, spread(scores)]) for name, scores in rows(args).items()]
    device = measure.device_name("cpu", torch.get_num_threads())
    text = (
        f"{datetime.now(UTC).date()}, {device}, {measure.packages()}\n\n`{measure.command()}`\n\n"
        f"Test accuracy with {SHARE:.0%} of the labels, seeds {args.seeds}; {BATCH} images in a "
        f"step.\n\n"
        + "\n".join([measure.row(["", "test accuracy"]), measure.row(["---"] * 2), *lines])
    )
    print(text)
    if args.write:
        title = "MNIST, a tenth of the labels"
        write_section(Path(__file__).parent / "pretrain.md", title, text)


if __name__ == "__main__":
    sys.exit(main())
