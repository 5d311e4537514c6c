"""What masked pretraining gains on a tenth of the labels, for the same arithmetic.

    python benchmarks/pretrain.py --data-dir DIR --write
    python benchmarks/pretrain.py --data-dir DIR --quick       # does it run?

A tiny ViT learns from 10 % of the labels of MNIST, and of CIFAR-10 as a folder of JPEGs, in two
ways: after masked pretraining on all training images without labels, and from scratch for as many
steps as would take the floating-point operations of both. The last step is scored once on the test
images. --split val scores the validation images instead, to choose settings by. Operations are
those of matrix products, by arithmetic: a backward pass counts as two forward ones.

Scores are kept in few_labels.jsonl as soon as they are there: the same command trains only what is
missing. --write replaces the sections of pretrain.md.
"""

import argparse
import math
import sys
from pathlib import Path

import kept_scores
from few_labels import NAMES, TASKS, Training, Workplace, workplace
from kept_scores import Score
from recipe_record import write_section
from torch import nn

from vitlit.model.vit import ViT
from vitlit.pretraining.masked_autoencoder import MaskedAutoencoder
from vitlit.training.classifier import Classifier

SHARE = 0.1  # of the labels
STEPS = {"mnist": (3000, 1200), "cifar10": (2000, 800)}  # of pretraining, and with labels


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


def ratio_of_steps(task: str, data_dir: Path) -> float:
    """Operations of a step of pretraining over those of a step with labels."""
    learn = Training(task, 0, 1)
    data = learn.images(data_dir)
    module = Training(task, 0, 1, goal="patches").module(data)
    supervised = learn.module(data)
    assert isinstance(module, MaskedAutoencoder)
    assert isinstance(supervised, Classifier)
    return pretraining_flops(module) / supervised_flops(supervised.vit)


def ways(task: str, seed: int, more: int, short: int, equal: int) -> dict[str, Training]:
    """The trainings of a seed, by row of the table.

    Steps: of pretraining, with labels after it, and with labels for the operations of both.
    """
    tenth = {"train_fraction": SHARE}
    start = Training(task, seed, more, goal="patches")
    return {
        f"{more} steps of pretraining, then {short} with labels": Training(
            task, seed, short, data=tenth, start=start
        ),
        f"the same operations with labels: {equal} steps": Training(task, seed, equal, data=tenth),
    }


def rows(args: argparse.Namespace, task: str, place: Workplace) -> dict[str, list[Score]]:
    """Scores of the seeds, by row of the table."""
    more, short = (10, 10) if args.quick else STEPS[task]
    equal = short + round(more * ratio_of_steps(task, args.data_dir))
    found: dict[str, list[Score]] = {}
    for seed in args.seeds:
        for name, training in ways(task, seed, more, short, equal).items():
            found.setdefault(name, []).append(place.score(training))
    return found


def section(args: argparse.Namespace, task: str, place: Workplace) -> str:
    found = rows(args, task, place)
    lines = [[name, kept_scores.spread(s.accuracy for s in own)] for name, own in found.items()]
    counts = sorted({one.images for own in found.values() for one in own})
    images = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))  # folders split by hash
    return (
        f"{kept_scores.about()}\n\nTest accuracy with {images} labels, {SHARE:.0%} of those of the "
        f"training images, mean and standard deviation over seeds {args.seeds}; "
        f"{TASKS[task].data['batch_size']} images in a step.\n\n"
        + kept_scores.table(["", "test accuracy"], lines)
    )


def main() -> None:
    parser = kept_scores.parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=["mnist", "cifar10"])
    args = kept_scores.parsed(parser)
    if args.data_dir is None:
        parser.error("give --data-dir, the folder that holds MNIST/raw, and train and test")
    with workplace(args) as place:
        for task in args.tasks or ["mnist", "cifar10"]:
            text = section(args, task, place)
            print(f"{NAMES[task]}\n\n{text}", flush=True)
            if args.write:
                title = f"{NAMES[task]}, a tenth of the labels"
                write_section(Path(__file__).with_suffix(".md"), title, text)


if __name__ == "__main__":
    sys.exit(main())
