"""What is about to be trained, and on what: one block of lines before the first step.

trainer, module, data -> lines, each a word in a column of 12 and its text
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitlit.data.catalog import may_change
from vitlit.data.datamodule import PlainImageData
from vitlit.data.shards.places import shown_place
from vitlit.data.splits import Split
from vitlit.errors import InputError
from vitlit.files import printable, relative_path
from vitlit.images.framing import PLAIN_FRAMING
from vitlit.images.image_io import open_image
from vitlit.images.image_store import file_paths
from vitlit.images.plain_image import upright_size
from vitlit.messages import KEPT_SPACE, counted, labelled, short_number
from vitlit.model.cost import cost_by_part, token_count
from vitlit.model.vit import ViT
from vitlit.patches import pair
from vitlit.pretraining.masked_autoencoder import MaskedAutoencoder
from vitlit.tasks.known import kind_of_targets
from vitlit.training.progress_bar import planned_epochs, print_above
from vitlit.training.training_module import TrainingModule

MEASURED_FILES = 100  # image files whose size is looked at; their pixels stay unread


class RunSummary(Callback):
    """Prints the summary of a training before its first step, in the first process.

    run: its folder, if there is one; precision: in which it computes, and why.
    """

    def __init__(self, run: Path | None, precision: str) -> None:
        self.run, self.precision = run, precision

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(pl_module, TrainingModule):
            return
        about = [*data_lines(data), batch_line(trainer, data), *model_lines(pl_module.vit)]
        if isinstance(pl_module, MaskedAutoencoder):  # labels are not read
            about = [line for line in about if not line.startswith("classes ")]
            about += masking_lines(pl_module)
        place = [labelled("precision", self.precision)]
        place.append(labelled("device", device_words(trainer)))
        run = [] if self.run is None else [labelled("run", relative_path(self.run))]
        if step := trainer.global_step:
            run.append(labelled("resumed", f"after {step:,} updates"))
        print_above(*about, *place, *run, "")


def data_lines(data: PlainImageData) -> Iterator[str]:
    """The data set, its images and its classes, of the splits that a training reads."""
    counts = [f"{len(split):,} {name}" for name, split in data.splits.items()]
    if held_out := data.test_count:
        counts.append(f"{held_out:,} test")
    place = f" {printable(shown_place(data.data_dir))}" if may_change(data.dataset) else ""
    yield labelled("data", f"{data.dataset}{place}: {', '.join(counts)} images")
    yield labelled("images", image_words(data))
    labels = data.splits["train"].labels
    if kind_of_targets(labels).name == "regression":
        yield labelled("target", number_words(labels, data.class_names[0]))
    else:
        yield labelled("classes", class_words(labels, data.class_names))


def image_words(data: PlainImageData) -> str:
    """Size and colour of the model's input, and the sizes of the files that it is made from."""
    colour = "grey" if data.in_chans == 1 else "RGB"
    size = _size_words(pair(data.img_size))
    if found := file_sizes(data.splits["train"]):
        low, high = (_size_words(one) for one in (found[0], found[-1]))
        sizes = f"files of {low}" if low == high else f"files of {low} to {high}"
        framing, fitted = data.preprocess.framing, f"fitted to {size}"
        if framing != PLAIN_FRAMING:
            fitted = framing.describe(pair(data.img_size))
        return f"{sizes} pixels, {fitted}, {colour}"
    before = _size_words(data.preprocess.source_size)
    return f"{size} pixels, {colour}" + ("" if before == size else f", resized from {before}")


def _size_words(size: tuple[int, int]) -> str:
    """Width x height, as people say it."""
    return f"{size[1]}x{size[0]}"


def file_sizes(split: Split) -> list[tuple[int, int]]:
    """Heights and widths of some files of a split, smallest area first; none for other sets."""
    paths = file_paths(split.images)
    if not paths:
        return []
    some = torch.linspace(0, len(split) - 1, min(len(split), MEASURED_FILES)).long()
    found = []
    for file in split.image_files(some):
        try:
            with open_image(file) as image:
                found.append(upright_size(image))
        except InputError:  # it became unreadable just now, which loading will tell
            continue
    return sorted(found, key=lambda size: size[0] * size[1])


def class_words(labels: Tensor, names: Sequence[str]) -> str:
    """How many classes there are, and how many training images the rarest and commonest have."""
    counts = kind_of_targets(labels).images_of(labels, len(names))
    rare, common = int(counts.argmin()), int(counts.argmax())
    if counts[rare] == counts[common]:
        return f"{len(names)}, each with {counts[rare]:,} training images"
    return (
        f"{len(names)}; the rarest in training is {printable(names[rare])} ({counts[rare]:,}), the "
        f"most common {printable(names[common])} ({counts[common]:,})"
    )


def number_words(targets: Tensor, name: str) -> str:
    """Range, mean and standard deviation of the training images' targets ``(n, 1)``."""
    values = targets.double()
    low, high, mean = values.min(), values.max(), values.mean()
    return (
        f"{printable(name)}, {low:.6g} to {high:.6g} in training, mean {mean:.6g}, standard "
        f"deviation {values.std(correction=0):.6g}"
    )


def batch_line(trainer: pl.Trainer, data: PlainImageData) -> str:
    """Batches of an epoch, the images behind one update, and the planned length."""
    count, each = trainer.num_training_batches, data.batch_size
    accumulated, world = trainer.accumulate_grad_batches, trainer.world_size
    text = f"{count:,} per epoch, " if count < float("inf") else ""
    text += f"{counted(each * world * accumulated, 'image')} per update"
    factors = [f"{each} per batch"] if world * accumulated > 1 else []
    factors += [f"{world} processes"] if world > 1 else []
    factors += [f"{accumulated} accumulated"] if accumulated > 1 else []
    if factors:
        text += f" ({' x '.join(factors)})"
    if epochs := planned_epochs(trainer):
        text += f"; {epochs:,} epoch{'s' * (epochs > 1)}"
    steps = trainer.estimated_stepping_batches
    if steps < float("inf"):
        text += f", {counted(int(steps), 'update')}"
    return labelled("batches", text)


def model_lines(vit: ViT) -> Iterator[str]:
    """The shape of a model, its parameters and what an image costs, by part."""
    shape, patch = vit.config, vit.config["patch_size"]
    yield labelled(
        "model",
        f"{counted(shape['depth'], 'block')} of width {vit.embed_dim}, "
        f"{counted(shape['num_heads'], 'head')}; patches of {patch}x{patch}, "
        f"{token_count(vit):,} tokens per image",
    )
    parts = cost_by_part(vit)
    total = sum(cost.parameters for cost in parts.values())
    trained = sum(one.numel() for one in vit.parameters() if one.requires_grad)
    each = ", ".join(f"{name} {cost.parameters:,}" for name, cost in parts.items())
    frozen = "" if trained == total else f"; {trained:,} are trained"
    yield labelled("parameters", f"{total:,}: {each}{frozen}")
    flops = short_number(sum(cost.flops for cost in parts.values()))
    each = ", ".join(f"{name} {short_number(cost.flops)}" for name, cost in parts.items())
    each = re.sub(r"(?<=\d) (?=[kMGT])", KEPT_SPACE, each)  # a number and its unit stay on one line
    yield labelled("FLOPs", f"{flops} per image, forward: {each}")


def masking_lines(module: MaskedAutoencoder) -> Iterator[str]:
    """How many patches a pretraining masks, and the decoder that predicts them."""
    decoder, count = module.decoder, sum(one.numel() for one in module.decoder.parameters())
    yield labelled(
        "masked",
        f"{module.patches - module.visible} of {module.patches} patches; predicted by a decoder of "
        f"{len(decoder.blocks)} block{'s' * (len(decoder.blocks) > 1)} of width "
        f"{decoder.embed.out_features}, {count:,} parameters, which are dropped afterwards",
    )


def device_words(trainer: pl.Trainer) -> str:
    """The devices of the training: their kind and number."""
    device, world = trainer.strategy.root_device, trainer.world_size
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{world} x {name}" if world > 1 else name
    threads = torch.get_num_threads()
    where = f"{device.type} with {threads} thread{'s' * (threads > 1)}"
    return f"{world} processes, each {where}" if world > 1 else where
