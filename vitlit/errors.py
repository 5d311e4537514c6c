"""Errors that a user can cause and fix, and how they are worded.

exception -> message and the arguments that it names
"""

import difflib
import logging
import os
import re
import signal
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from vitlit.messages import fitted, print_error

NOTE_PREFIX = "argument: "  # begins the line of a traceback that names the arguments of an error


class ArgumentsError(Exception):
    """An error that an argument caused, or that another value of it would fix.

    argument: its name in Python, such as ``patch_size``, or a tuple of names; ``arguments`` is
    always a tuple. Messages use these names, and the command line adds its options for them.
    way_on: the command that continues, if there is one.
    """

    way_on = ""

    def __init__(self, message: str, *, argument: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.arguments = (argument,) if isinstance(argument, str) else argument
        # torch passes on no more than the traceback from a worker, which has notes.
        if self.arguments:
            self.add_note(NOTE_PREFIX + ", ".join(self.arguments))


class InputError(ArgumentsError, ValueError):
    """Bad input: the message names the value, the rule that it breaks, and the way out.

    The command line prints the message with its options for the arguments and exits with status 2.
    An exception that :func:`advice` has no answer to is a defect of the program: status 1.
    """


class Stopped(BaseException):
    """A signal ended the command; the message says where, and what was saved.

    ``status`` is the exit status, 128 + the signal's number; SIGUSR1 and SIGHUP count as SIGTERM,
    because they ask for the same. quiet: the message is not printed. way_on: as above.
    """

    # A BaseException, so that no "except Exception" on its way takes it for an error.
    way_on = ""

    def __init__(self, signum: int, where: str, *, quiet: bool = False) -> None:
        super().__init__(signum, where)
        self.signum, self.where, self.quiet = signum, where, quiet
        self.status = 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name} {self.where}"


class TrainingError(ArgumentsError, RuntimeError):
    """A training cannot go on although no setting was wrong: message alone, exit status 1."""


class LostProcessError(TrainingError):
    """Another process of the training no longer answers; the message names it."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite; the message says where."""


def check_at_least(minimum: float, **values: float) -> None:
    """Raise InputError for arguments, passed by name, that are below ``minimum``."""
    for name, value in values.items():
        check_is_number(name, value)
        if not value >= minimum:  # so written, NaN is refused too
            raise InputError(f"{name} {value} is too small; give {minimum} or more", argument=name)


def check_choice(known: Sequence[str], **values: str) -> None:
    """Raise InputError for arguments, passed by name, that are none of the known words."""
    for name, value in values.items():
        if value not in known:
            raise InputError(f"unknown {name} {value!r}; known: {', '.join(known)}", argument=name)


def check_below_one(**values: float) -> None:
    """Raise InputError for shares and rates, passed by name, outside [0, 1)."""
    for name, value in values.items():
        check_is_number(name, value)
        if not 0.0 <= value < 1.0:  # so written, NaN is refused too
            raise InputError(f"{name} {value} is not in [0, 1); give another", argument=name)


def check_is_number(name: str, value: object) -> None:
    """Raise InputError for text and None, which Python compares in an obscure error."""
    if not hasattr(value, "__float__"):
        raise InputError(f"{name} {value!r} is not a number; give one", argument=name)


def check_known_names(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError, as Python does, for keyword arguments that a class does not have."""
    for name in set(given) - set(known):
        raise TypeError(f"{kind} has no argument {name!r}{did_you_mean(name, list(known))}")


def message_and_arguments(error: Exception) -> tuple[str, tuple[str, ...]]:
    """The message of an error, and the arguments that it names."""
    # torch raises the error of a loading process again, without our attributes and with the whole
    # traceback as its text; at its end are the message and the note with the arguments.
    text = str(error).strip()
    if not find_text("loading process", text):
        return text, error.arguments if isinstance(error, ArgumentsError) else ()
    message, _, names = text.rpartition("InputError: ")[2].partition(f"\n{NOTE_PREFIX}")
    return message, tuple(names.split(", ")) if names else ()


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint at the known word that is most similar to ``word``, or an empty string."""
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def first_few(names: Iterable[str], count: int = 5) -> str:
    """The first ``count`` names, each cut to 60 letters, and how many more there are."""
    shown = [str(name)[:60] for name in names]
    more = f" and {len(shown) - count} more" if len(shown) > count else ""
    return (", ".join(shown[:count]) or "none") + more


_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


def say(text: str) -> None:
    """Print one line to stderr, from one process of each machine."""
    # Set by torchrun and Lightning, or by srun: torch.distributed may not be set up yet.
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    if rank == "0":
        _log.warning(fitted(f"vitlit: {text}"))


def is_first_process() -> bool:
    """Whether this is the first process of all nodes, by what torchrun, srun or Lightning set."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def inform(text: str) -> None:
    """Print one line to stderr, from one process of all; to the root logger if it has handlers."""
    if is_first_process() and logging.getLogger().hasHandlers():  # another program's, or pytest's
        _log.info(text)
    elif is_first_process():
        print_error(text)


def warn(text: str) -> None:
    """Issue a warning, from one process of all."""
    if is_first_process():
        warnings.warn(text, stacklevel=3)


# What other programs say, where the package acts on it. Another version may use other words, so
# each row names the version whose words it holds, and tests/test_foreign_texts.py asks the one that
# is installed.
ForeignTopic = Literal[
    "loading process",
    "dead loading process",
    "other weights",
    "no memory",
    "compiler module",
    "slurm tasks",
    "no accelerator",
    "refused setting",
    "unknown class",
    "code in file",
    "cut image",
    "damaged safetensors",
    "download hint",
    "lost process",
    "denied import",
    "option",
    "value",
    "expected",
    "unknown option",
    "stray words",
    "no config",
    "literal type",
    "class type",
    "needless warning",
    "needless tip",
]


class ForeignText(NamedTuple):
    """pattern: regular expression; seen: the program and the version that said so."""

    topic: ForeignTopic
    pattern: str
    seen: str


TORCH, LIGHTNING = "torch 2.15.0", "pytorch_lightning 2.6.6"
JSONARGPARSE, PYTHON, LINUX = "jsonargparse 4.53.0", "Python 3.11", "Linux"
FOREIGN_TEXTS = (
    ForeignText("loading process", r"^Caught ", TORCH),
    ForeignText("dead loading process", r"^DataLoader worker \(pid", TORCH),
    ForeignText("other weights", r"^Error\(s\) in loading state_dict", TORCH),
    ForeignText("no memory", "allocate memory", TORCH),
    ForeignText("no memory", "out of memory", TORCH),
    ForeignText("no memory", "CUBLAS_STATUS_ALLOC_FAILED", TORCH),
    # CUDNN_STATUS_ALLOC_FAILED before cuDNN 9, then with INTERNAL_ERROR_DEVICE_ALLOCATION
    ForeignText("no memory", r"CUDNN_STATUS_\w*ALLOC\w*_FAILED", TORCH),
    ForeignText("compiler module", r"^torch\._dynamo", TORCH),
    ForeignText("compiler module", r"^torch\._inductor", TORCH),
    ForeignText("slurm tasks", "--ntasks=", LIGHTNING),
    ForeignText("no accelerator", r"^No supported (\w+) backend found", LIGHTNING),
    ForeignText("refused setting", "^MisconfigurationException$", LIGHTNING),
    ForeignText("unknown class", "given class_path", JSONARGPARSE),
    ForeignText("code in file", "(?i)weights[ _]only", TORCH),
    ForeignText("cut image", "(?i)truncated", "Pillow 13.0.0"),
    ForeignText("cut image", "EOF", "Pillow 13.0.0"),
    ForeignText("damaged safetensors", "^Error while deserializing header", "safetensors 0.8.0"),
    ForeignText("download hint", " You can use.*", "torchvision 0.29.2"),
    # of gloo, NCCL, the store of a group, and the system
    ForeignText("lost process", "Application timeout", TORCH),
    ForeignText("lost process", "Broken pipe", LINUX),
    ForeignText("lost process", "Connection closed by peer", TORCH),
    ForeignText("lost process", "Connection refused", LINUX),
    ForeignText("lost process", "Connection reset by peer", LINUX),
    ForeignText("lost process", "Connection was (likely )?closed", TORCH),
    ForeignText("lost process", "NCCL communicator", TORCH),
    ForeignText("lost process", "Socket Timeout", TORCH),
    ForeignText("lost process", "Timed out waiting", TORCH),
    ForeignText("lost process", "Watchdog caught collective", TORCH),
    ForeignText("lost process", "[Ff]ailed to recv, got 0 bytes", TORCH),  # failed: before 2.15
    ForeignText("lost process", "[Ff]ailed to send, sent 0 bytes", TORCH),
    ForeignText("lost process", "timed out after", TORCH),
    ForeignText("denied import", r"Importing '([\w.]+)' is not allowed", JSONARGPARSE),
    ForeignText("option", r'Parser key "([\w.]+)"', JSONARGPARSE),
    ForeignText("value", r"(?:Got|Given) value: (.*)", JSONARGPARSE),
    ForeignText("expected", r"(?m)Expected an? (.*?)(?:\. Got|$)", JSONARGPARSE),
    ForeignText("unknown option", r"does not accept option '([\w.]+)'", JSONARGPARSE),
    ForeignText("unknown option", r"unrecognized arguments: --([\w.]+)", JSONARGPARSE),
    ForeignText("stray words", r"unrecognized arguments: [^-]", JSONARGPARSE),
    ForeignText(
        "no config", r"Unable to load config '(.*?)' - Parser key \"([\w.]+)\"", JSONARGPARSE
    ),
    ForeignText("literal type", r"^typing\.Literal\[(.*)\]", PYTHON),
    ForeignText("class type", r"^<class '(?:\w+\.)*(\w+)'>", PYTHON),
    ForeignText("needless warning", "does not have many workers", LIGHTNING),
    ForeignText("needless warning", "Using `DistributedSampler` with the dataloaders", LIGHTNING),
    # what is logged is the same on every rank
    ForeignText("needless warning", "recommended to use `self.log", LIGHTNING),
    ForeignText("needless warning", "LeafSpec", TORCH),
    # a run that goes on
    ForeignText("needless warning", "Checkpoint directory .* exists and is not empty", LIGHTNING),
    ForeignText("needless warning", "Glyph .* missing from", "matplotlib 3.11.2"),  # of class names
    ForeignText("needless warning", "your dataloader is not resumable", LIGHTNING),  # it is
    ForeignText("needless warning", "callbacks used to create the checkpoint need", LIGHTNING),
    # only the size in MB is off
    ForeignText("needless warning", "is not supported by the model summary", LIGHTNING),
    # more batches than steps between two values for a logger: those of an epoch are written anyway
    ForeignText("needless warning", "is smaller than the logging interval", LIGHTNING),
    # of a training without validation, whose last lines name last.ckpt alone
    ForeignText("needless warning", "monitor='val/.*could not find the monitored key", LIGHTNING),
    ForeignText("needless warning", "GPU available but not used", LIGHTNING),  # as asked
    ForeignText("needless warning", "Detected call of `lr_scheduler", TORCH),  # fp16 skips steps
    ForeignText("needless tip", "Tip:", LIGHTNING),
    # our own lines, on the precision and the rest, tell more
    ForeignText("needless tip", "Automatic Mixed Precision", LIGHTNING),
    ForeignText("needless tip", "^(GPU|TPU|HPU) available: ", LIGHTNING),
    ForeignText("needless tip", "^LOCAL_RANK: ", LIGHTNING),
    ForeignText("needless tip", "^You are using a CUDA device", LIGHTNING),
    ForeignText("needless tip", "Seed set to ", LIGHTNING),
    ForeignText("needless tip", "^Loading `train_dataloader` to estimate", LIGHTNING),
    ForeignText("needless tip", "^`weights_only` was not set", LIGHTNING),
    ForeignText("needless tip", "^`Trainer.fit` stopped: `max_", LIGHTNING),
    ForeignText("needless tip", r"^`Trainer\(.*` was configured so", LIGHTNING),
    ForeignText("needless tip", "^Restor(ing|ed all) states", LIGHTNING),
    ForeignText("needless tip", "^Loaded model weights", LIGHTNING),
    ForeignText("needless tip", "^Initializing distributed: GLOBAL_RANK", LIGHTNING),
    ForeignText("needless tip", "^-+\n*distributed_backend=", LIGHTNING),
    ForeignText("needless tip", "^No CUDA runtime is found", TORCH),  # where its compiler is
)


def texts_on(topic: ForeignTopic) -> list[str]:
    """The patterns of a topic, in the order of the table."""
    return [text.pattern for text in FOREIGN_TEXTS if text.topic == topic]


def find_text(topic: ForeignTopic, message: str) -> re.Match[str] | None:
    """Where a message says something on a topic; by the first pattern that fits."""
    return next(filter(None, (re.search(pattern, message) for pattern in texts_on(topic))), None)
