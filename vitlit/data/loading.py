"""The loader of a split: how many processes load its batches, and how many of them wait ready.

split, order, limits of the machine -> Plan -> LateLoader

Processes pass batches to the training through shared memory. Containers have little: 64 MB, if
nobody asks for more. Where it ends, the batch is lost and the training would wait for it forever.
"""

import signal
import sys
from types import TracebackType
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from vitlit.data.batch import Batch
from vitlit.data.sampler import EvalOrder, LateLoader, TrainOrder
from vitlit.data.splits import Split
from vitlit.errors import InputError, check_at_least
from vitlit.images.image_store import FileImages
from vitlit.images.machine import SHARED_MEMORY, shared_memory_room, usable_cpus

MAX_PROCESSES = 8  # by default; more rarely load faster
FEW_IMAGES = 256  # so many files are read before processes have started
MOST_PROCESSES = 512  # that may be asked for; thousands bring a machine to a standstill
USUAL_BATCH = 128  # images
READY_BATCHES = 2  # that each process prepares ahead; torch's own default
# besides those ahead, one batch is in use and the next one is on its way to the device
HELD_BATCHES = 2
ROOM_SHARE = 0.5  # of the free memory, for one loader: training and validation may load at once
ORDER_BYTES = 9  # of an image in the order of an epoch, which processes get through it too
MEGABYTE = 1e6  # bytes


class Plan(NamedTuple):
    """How batches are loaded.

    processes: 0 loads in the main process; ready: batches that each prepares ahead.
    """

    processes: int
    ready: int


def check_process_count(asked: int) -> None:
    """Refuse more processes than any machine has a use for: each takes memory."""
    if asked > MOST_PROCESSES:
        raise InputError(
            f"num_workers {asked} is more than the maximum of {MOST_PROCESSES} processes; give "
            f"about {usable_cpus()}, one for each processor that may be used",
            argument="num_workers",
        )


def batch_images(asked: int | Literal["auto"]) -> int:
    """Images in a batch; auto is the default until a training has tried what fits."""
    if asked == "auto":
        return USUAL_BATCH
    check_at_least(1, batch_size=asked)
    if asked != int(asked):
        raise InputError(
            f"batch_size {asked} is not a whole number; give one", argument="batch_size"
        )
    return int(asked)


def wanted_processes(split: Split, asked: int | None) -> int:
    """The processes that a split would be loaded by if memory were no limit; asked: by the user."""
    if asked is not None:
        return asked
    in_files = isinstance(split.images, FileImages)  # images in memory need no process
    return min(MAX_PROCESSES, usable_cpus()) if in_files and len(split) > FEW_IMAGES else 0


def needed_bytes(plan: Plan, batch_bytes: int, images: int) -> int:
    """Shared memory that a loader fills at most."""
    if not plan.processes:
        return 0
    return (plan.processes * plan.ready + HELD_BATCHES) * batch_bytes + images * ORDER_BYTES


def plan_loading(processes: int, batch_bytes: int, images: int, room: float | None) -> Plan:
    """The most processes, at most ``processes``, whose batches fit into the room.

    room: bytes for this loader, None if there is no limit. Fewer batches wait ready before there
    are fewer processes: decoding takes longer than handing over.
    """
    for count in range(processes, 0, -1):
        for ready in range(READY_BATCHES, 0, -1):
            plan = Plan(count, ready)
            if room is None or needed_bytes(plan, batch_bytes, images) <= room:
                return plan
    return Plan(0, READY_BATCHES)


def batch_bytes(split: Split, batch_size: int) -> int:
    """Bytes of one batch as it is loaded: uint8 pixels, and what belongs to each image."""
    images = split.images
    if isinstance(images, FileImages):
        pixels = images.nbytes // max(1, len(images))
    else:
        rows: Tensor = images.pixels  # type: ignore[attr-defined]  # all others are in memory
        pixels = rows.nbytes // max(1, len(rows))
    return batch_size * (pixels + 32)  # label, place and validity, rounded up


def shortage_note(wanted: Plan, plan: Plan, *, needed: float, room: int) -> str:
    """In words, why there are fewer processes or batches than usual; empty if there are not.

    needed, room: bytes of shared memory.
    """
    if plan == wanted:
        return ""
    number, ready = plan
    now = "the main process loads them, which is slower"
    if number:
        who = "one process loads them" if number == 1 else f"{number} processes load them"
        now = f"{who}, with {ready} batch{'es' * (ready > 1)} ahead"
    return (
        f"{SHARED_MEMORY} has {room / MEGABYTE:.0f} MB free, too little for {wanted.processes} "
        f"processes that load images: {now}; {needed / MEGABYTE:.0f} MB would do "
        f"(docker run --shm-size), or a smaller batch_size"
    )


def share_batch(batch: Batch) -> Batch:
    """Move a batch into shared memory, if this is a process that loads batches for another one.

    torch would do so in a thread of its own, where an error prints its traceback, drops the batch
    and reaches nobody. Raises InputError if there is no room.
    """
    if get_worker_info() is None:
        return batch
    try:
        for part in batch:
            if isinstance(part, Tensor):
                part.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(
            f"{SHARED_MEMORY} is full, so no batch can be passed on; give it more room (docker run "
            f"--shm-size), or load in the main process with num_workers 0",
            argument="num_workers",
        ) from error
    return batch


def follow_main_process(process: int) -> None:
    """Leave the end to the main process, which says why it came; called in each loader process.

    A signal often goes to all processes: from a terminal, or a cluster. torch lets its loaders die
    of SIGTERM, and then raises an error in the main process, amid whatever that is saving; so the
    handlers of the main process, which know its loaders, are set again. The thread that hands
    batches over calls ``sys.excepthook`` if nobody takes one any more, and is alone in using it.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):
        signal.signal(signal.SIGTERM, handler)
    usual = sys.excepthook

    def print_error(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, (ConnectionError, EOFError)):
            usual(kind, error, trace)

    sys.excepthook = print_error


def make_loader(
    split: Split,
    order: TrainOrder | EvalOrder,
    *,
    asked: int | None,
    devices: int,
    pinned: bool = False,
) -> tuple[DataLoader[Batch], str]:
    """The loader of a split's batches, and in words what memory made it do; often an empty string.

    asked: processes that the user wants; devices: processes of the training on this machine, which
    share its memory; pinned: whether batches go to a GPU. To pin them makes a CUDA context, which
    takes some hundred megabytes of GPU memory.
    """
    wanted = plan = Plan(wanted_processes(split, asked), READY_BATCHES)
    room, note = shared_memory_room(), ""
    if wanted.processes and room is not None:
        size, images = batch_bytes(split, order.batch_size), len(split)
        plan = plan_loading(wanted.processes, size, images, room * ROOM_SHARE / devices)
        needed = needed_bytes(wanted, size, images) * devices / ROOM_SHARE
        note = shortage_note(wanted, plan, needed=needed, room=room)
    options: Any = {}
    if plan.processes:
        options = {"prefetch_factor": plan.ready, "worker_init_fn": follow_main_process}
    loader = LateLoader(
        dataset=split,
        sampler=order,
        batch_size=None,  # an Order is a whole batch
        collate_fn=share_batch,  # type: ignore[arg-type]  # an item is a batch
        num_workers=plan.processes,
        persistent_workers=plan.processes > 0,
        pin_memory=pinned,
        **options,
    )
    return loader, note
