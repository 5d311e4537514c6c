"""Runs a model over a whole split: batches in, one tensor of rows out, in the split's order.

ImageData, split -> logits or features (n, ...), labels (n,), places in the split (n,)

Rows that only fill up a batch are left out. With several processes each computes its share, and
all of them get all rows.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.data.sampler import EvalOrder
from vitlit.data.splits import Split
from vitlit.errors import InputError
from vitlit.evaluation.precision import FULL_PRECISION
from vitlit.files import printable
from vitlit.messages import counted
from vitlit.model.features import AnyFeature
from vitlit.model.vit import ViT
from vitlit.patches import patchify, unpatchify
from vitlit.tasks.task import Task

Gather = Callable[[Tensor], Tensor]  # (b, ...) of each process -> (world * b, ...)
Compute = Callable[[Tensor], Tensor]  # images or patches of a batch -> (B, ...)


class Processes(NamedTuple):
    """How many processes work, whether this is the first, and how they gather rows and agree.

    agree: of what each says, whether all say yes.
    """

    world: int = 1
    is_first: bool = True
    gather: Gather | None = None
    agree: Callable[[bool], bool] = bool


ALONE = Processes()
NOT_FINITE = "the model's answer is NaN or infinite"


def gather_rows(rows: Tensor) -> Tensor:
    """Rows ``(b, ...)`` of each process, as many in each -> ``(world * b, ...)``."""
    # not a module's all_gather: it is differentiable, of which torch 2.15 warns
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class Rows(NamedTuple):
    """Results for n images, on the CPU: values float32 ``(n, ...)``; labels, places int64 ``(n,)``.

    ``sample`` holds the places in the split.
    """

    values: Tensor
    labels: Tensor
    sample: Tensor


class Collector:
    """Collects the results of batches, on their device: copying each would wait for it."""

    def __init__(self) -> None:
        self._columns: tuple[list[Tensor], ...] = ([], [], [], [])

    def add(self, values: Tensor, batch: Batch) -> None:
        """values: ``(B, ...)`` of the batch's images, kept as float32 whatever they come in."""
        # all on one device, as gathering from other processes needs them
        sample = batch.sample.to(values.device, non_blocking=True)
        row = (values.float(), batch.y, sample, batch.valid.long())
        for column, part in zip(self._columns, row, strict=True):
            column.append(part)

    def __bool__(self) -> bool:
        """Whether there is any batch."""
        return bool(self._columns[0])

    def rows(self, gather: Gather | None = None) -> Rows:
        """All valid rows, sorted by their places; with ``gather`` those of all processes."""
        columns = [torch.cat(column) for column in self._columns]
        if gather is not None:
            # EvalOrder gives every process equally many rows, which gathering requires
            columns = [gather(column) for column in columns]
        *columns, valid = (column.cpu() for column in columns)
        values, labels, sample = (column[valid.bool()] for column in columns)
        order = sample.argsort()  # processes take turns, so their rows interleave
        return Rows(values[order], labels[order], sample[order])


def are_finite(values: Tensor) -> Tensor:
    """Whether all numbers of each row are: ``(B, ...) -> (B,)``."""
    return values.flatten(1).isfinite().all(dim=1)


def refuse_not_finite(files: Sequence[str], total: int, written: Path | None = None) -> None:
    """Raise InputError that names the first of these files, if there are any.

    files: of the images for which the answer is NaN or infinite; total: images, all of them;
    written: the file that holds the answers for the others.
    """
    if files:
        others = f"; {written} has the answers for the others" if len(files) < total else ""
        raise InputError(
            f"{NOT_FINITE} for {len(files)} of {counted(total, 'image')}, the first is "
            f"{printable(files[0])}; its numbers grow too large for the precision, or its weights "
            f"are damaged: choose precision {FULL_PRECISION}, or other weights"
            f"{others if written else ''}"
        )


def checked(rows: Rows, split: Split, title: str) -> Rows:
    """The rows; raises InputError if the answer for any image of the split is NaN or infinite.

    title: what images without a file are called, before their place.
    """
    places = rows.sample[~are_finite(rows.values)].tolist()
    refuse_not_finite(split.names(places, title), len(rows.sample))
    return rows


@torch.no_grad()
def collect(
    data: PlainImageData, loader: Iterable[Batch], compute: Compute, device: torch.device
) -> Collector:
    """Apply ``compute`` to each batch of a loader, prepared on ``device`` as for evaluation."""
    found = Collector()
    for batch in loader:
        # the two hooks that Lightning calls in validate and test: the same pixels come out
        batch = data.transfer_batch_to_device(batch, device, 0)
        batch = data.transform(batch, augment=False)
        found.add(compute(batch.x), batch)
    return found


def loader_of(data: PlainImageData, split: Split) -> Iterable[Batch]:
    """Batches of a split, or of a part of one, as for evaluation."""
    rank, world = data.place["rank"], data.place["world"]
    order = EvalOrder(len(split), batch_size=data.batch_size, rank=rank, world=world)
    return data.loader(split, order)


def evenly_thinned(split: Split, most: int) -> Split:
    """At most ``most`` images of the split, evenly spread over it."""
    if len(split) <= most:
        return split
    # spread, not the first ones, which may all be of one class
    places = torch.linspace(0, len(split) - 1, most).round().long()
    return Split(split.images, split.members[places])


def mirror(x: Tensor, model: ViT) -> Tensor:
    """Mirror images ``(B, C, H, W)``, or patches ``(B, N, C*P*P)`` of them, left to right."""
    if x.ndim == 4:
        return x.flip(-1)
    size = model.config["patch_size"]
    # flipping the order of the patches would leave the pixels inside each as they are
    return patchify(unpatchify(x, size, model.img_size).flip(-1), size)


def flip_average(forward: Compute, x: Tensor, model: ViT) -> Tensor:
    """Mean of the logits of images and of their mirror images: ``(B, num_classes)``."""
    return (forward(x) + forward(mirror(x, model))) / 2


def answer(
    forward: Compute, model: ViT, feature: AnyFeature | None, x: Tensor, task: Task
) -> Tensor:
    """What ``predict`` computes: the task's answers float32 ``(B, K)``, or a feature.

    forward: gives the model's logits; x: images or patches in the type of the model's weights.
    """
    if feature is not None:
        return feature(model, x).float()
    return task.answers(forward(x))
