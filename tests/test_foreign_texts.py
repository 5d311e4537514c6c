"""Each text of another program, asked of the installed version: provoked, or found in its files."""

import errno
import io
import mmap
import os
import pickle
import signal
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import safetensors
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vitlit.cli.advice import advice
from vitlit.errors import FOREIGN_TEXTS, ForeignText, find_text, texts_on
from vitlit.fault_tolerance.heartbeat import is_lost


def module_of(name: str) -> str:
    """The module of an exception that compiling raises."""
    import torch._dynamo.exc
    import torch._inductor.exc

    errors = {
        "_dynamo": torch._dynamo.exc.BackendCompilerFailed,
        "_inductor": torch._inductor.exc.InductorError,
    }
    return errors[name].__module__


def message_of(function: Callable[..., Any], *args: Any) -> str:
    """What an error of the function says."""
    try:
        function(*args)
    except Exception as error:
        return str(error)
    raise AssertionError(f"{function} raises nothing")


def refused(*args: str) -> str:
    """What jsonargparse says of a command line."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--number", type=int, default=1)
    parser.add_argument("--kind", type=Literal["a", "b"], default="a")
    parser.add_argument("--config", action="config")
    return message_of(parser.parse_args, list(args))


def read_cut_png() -> None:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    Image.open(io.BytesIO(file.getvalue()[:-1000])).load()


def read_cut_safetensors() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\1" * 9)
        file.flush()
        safetensors.safe_open(file.name, framework="pt")


def load_code() -> None:
    torch.load(io.BytesIO(pickle.dumps(print)), weights_only=True)


class Dying(Dataset[int]):
    """Its process is killed, as by a system without memory."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def load_from_a_dying_process() -> None:
    list(DataLoader(Dying(), num_workers=1, multiprocessing_context="fork"))


SAID: dict[str, Callable[[], str]] = {  # by the installed version, when asked
    r"^DataLoader worker \(pid": lambda: message_of(load_from_a_dying_process),
    r"^Error\(s\) in loading state_dict": lambda: message_of(nn.Linear(1, 1).load_state_dict, {}),
    "allocate memory": lambda: message_of(torch.empty, 2**60),
    r"^torch\._dynamo": lambda: module_of("_dynamo"),
    r"^torch\._inductor": lambda: module_of("_inductor"),
    r"unrecognized arguments: [^-]": lambda: refused("word"),
    "^MisconfigurationException$": lambda: MisconfigurationException.__name__,
    "(?i)weights[ _]only": lambda: message_of(load_code),
    "(?i)truncated": lambda: message_of(read_cut_png),
    "^Error while deserializing header": lambda: message_of(read_cut_safetensors),
    "Broken pipe": lambda: os.strerror(errno.EPIPE),
    "Connection refused": lambda: os.strerror(errno.ECONNREFUSED),
    "Connection reset by peer": lambda: os.strerror(errno.ECONNRESET),
    r'Parser key "([\w.]+)"': lambda: refused("--number=x"),
    r"(?:Got|Given) value: (.*)": lambda: refused("--number=x"),
    r"(?m)Expected an? (.*?)(?:\. Got|$)": lambda: refused("--number=x"),
    r"unrecognized arguments: --([\w.]+)": lambda: refused("--other=1"),
    r"^typing\.Literal\[(.*)\]": lambda: str(Literal["a", "b"]),
    r"^<class '(?:\w+\.)*(\w+)'>": lambda: str(int),
}
TORCH_LIBRARIES = "torch/lib/*.so*"
WRITTEN: dict[str, tuple[str, str]] = {  # in files of the installed version: a glob, and the words
    r"^Caught ": ("torch/_utils.py", 'f"Caught {'),
    "out of memory": (TORCH_LIBRARIES, "out of memory"),
    "CUBLAS_STATUS_ALLOC_FAILED": (TORCH_LIBRARIES, "CUBLAS_STATUS_ALLOC_FAILED"),
    r"CUDNN_STATUS_\w*ALLOC\w*_FAILED": (
        "nvidia/cudnn/lib/*.so*",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ),
    "--ntasks=": ("lightning_fabric/plugins/environments/slurm.py", "--ntasks="),
    "given class_path": ("jsonargparse/*.py", "given class_path"),
    "EOF": ("PIL/PngImagePlugin.py", "EOF"),
    " You can use.*": ("torchvision/datasets/mnist.py", " You can use"),
    "Application timeout": (TORCH_LIBRARIES, "Application timeout"),
    "Connection closed by peer": (TORCH_LIBRARIES, "Connection closed by peer"),
    "Connection was (likely )?closed": (TORCH_LIBRARIES, "Connection was likely closed"),
    "NCCL communicator": (TORCH_LIBRARIES, "NCCL communicator"),
    "Socket Timeout": (TORCH_LIBRARIES, "Socket Timeout"),
    "Timed out waiting": (TORCH_LIBRARIES, "Timed out waiting"),
    "Watchdog caught collective": (TORCH_LIBRARIES, "Watchdog caught collective"),
    "[Ff]ailed to recv, got 0 bytes": (TORCH_LIBRARIES, "ailed to recv, got 0 bytes"),
    "[Ff]ailed to send, sent 0 bytes": (TORCH_LIBRARIES, "ailed to send, sent 0 bytes"),
    "timed out after": (TORCH_LIBRARIES, "timed out after"),
    r"Importing '([\w.]+)' is not allowed": ("jsonargparse/*.py", "is not allowed"),
    r"does not accept option '([\w.]+)'": ("jsonargparse/_core.py", "does not accept option '"),
    r"Unable to load config '(.*?)' - Parser key \"([\w.]+)\"": (
        "jsonargparse/_actions.py",
        "Unable to load config ",
    ),
    "does not have many workers": (
        "pytorch_lightning/trainer/connectors/data_connector.py",
        "does not have many workers",
    ),
    "Using `DistributedSampler` with the dataloaders": (
        "pytorch_lightning/trainer/connectors/data_connector.py",
        "Using `DistributedSampler` with the dataloaders",
    ),
    "recommended to use `self.log": (
        "pytorch_lightning/trainer/connectors/logger_connector/result.py",
        "recommended to use `self.log",
    ),
    "LeafSpec": ("torch/utils/_pytree.py", "LeafSpec"),
    r"^No supported (\w+) backend found": (
        "pytorch_lightning/**/accelerator_connector.py",
        "No supported gpu backend found!",
    ),
    "Checkpoint directory .* exists and is not empty": (
        "pytorch_lightning/callbacks/model_checkpoint.py",
        "exists and is not empty",
    ),
    "Glyph .* missing from": ("matplotlib/_text_helpers.py", "missing from"),
    "your dataloader is not resumable": (
        "pytorch_lightning/loops/training_epoch_loop.py",
        "not resumable",
    ),
    "callbacks used to create the checkpoint need": (
        "pytorch_lightning/trainer/call.py",
        "callbacks used to create the checkpoint need to be provided",
    ),
    "is not supported by the model summary": (
        "pytorch_lightning/utilities/model_summary/model_summary.py",
        "is not supported by the model summary",
    ),
    "Automatic Mixed Precision": (
        "pytorch_lightning/trainer/connectors/accelerator_connector.py",
        "Automatic Mixed Precision",
    ),
    "is smaller than the logging interval": (
        "pytorch_lightning/loops/fit_loop.py",
        "is smaller than the logging interval",
    ),
    "monitor='val/.*could not find the monitored key": (
        "pytorch_lightning/callbacks/model_checkpoint.py",
        "could not find the monitored key",
    ),
    "GPU available but not used": (
        "pytorch_lightning/trainer/setup.py",
        "GPU available but not used",
    ),
    "Detected call of `lr_scheduler": (
        "torch/optim/lr_scheduler.py",
        "Detected call of `lr_scheduler",
    ),
    "^(GPU|TPU|HPU) available: ": ("pytorch_lightning/trainer/setup.py", "GPU available: "),
    "^LOCAL_RANK: ": ("pytorch_lightning/accelerators/cuda.py", "LOCAL_RANK: "),
    "^You are using a CUDA device": (
        "lightning_fabric/accelerators/cuda.py",
        "You are using a CUDA device",
    ),
    "Seed set to ": ("lightning_fabric/utilities/seed.py", "Seed set to "),
    "^Loading `train_dataloader` to estimate": (
        "pytorch_lightning/trainer/trainer.py",
        "Loading `train_dataloader` to estimate",
    ),
    "^`weights_only` was not set": (
        "pytorch_lightning/trainer/connectors/checkpoint_connector.py",
        "`weights_only` was not set",
    ),
    "^`Trainer.fit` stopped: `max_": (
        "pytorch_lightning/loops/fit_loop.py",
        "`Trainer.fit` stopped: `max_",
    ),
    r"^`Trainer\(.*` was configured so": (
        "pytorch_lightning/trainer/setup.py",
        "` was configured so",
    ),
    "^Restor(ing|ed all) states": (
        "pytorch_lightning/trainer/connectors/checkpoint_connector.py",
        "Restoring states",
    ),
    "^Loaded model weights": (
        "pytorch_lightning/trainer/connectors/checkpoint_connector.py",
        "Loaded model weights",
    ),
    "^Initializing distributed: GLOBAL_RANK": (
        "lightning_fabric/utilities/distributed.py",
        "Initializing distributed: GLOBAL_RANK",
    ),
    "^-+\n*distributed_backend=": (
        "lightning_fabric/utilities/distributed.py",
        "distributed_backend=",
    ),
    "Tip:": ("pytorch_lightning/trainer/connectors/*/*.py", "Tip:"),
    "^No CUDA runtime is found": ("torch/utils/cpp_extension.py", "No CUDA runtime is found"),
}
OF_CUDA = {  # a build for CPUs has none of them
    "NCCL communicator",
    "Watchdog caught collective",
    "CUBLAS_STATUS_ALLOC_FAILED",
    r"CUDNN_STATUS_\w*ALLOC\w*_FAILED",
}


def holds(path: Path, words: str) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(words.encode()) >= 0


@pytest.mark.parametrize("text", FOREIGN_TEXTS, ids=lambda text: text.pattern)
def test_the_installed_version_says_it_in_these_words(text: ForeignText) -> None:
    fault = f"the installed version of {text.seen.split()[0]} does not say {text.pattern!r}"
    if text.pattern in SAID:
        message = SAID[text.pattern]()
        assert find_text(text.topic, message), f"{fault}, as {text.seen} did, but {message!r}"
        return
    if text.pattern in OF_CUDA and torch.version.cuda is None:
        pytest.skip("a build for CPUs")
    glob, words = WRITTEN[text.pattern]
    package, _, rest = glob.partition("/")
    spec = find_spec(package)
    assert spec is not None
    [folder] = map(Path, spec.submodule_search_locations or [Path(str(spec.origin)).parent])
    assert any(holds(path, words) for path in folder.glob(rest)), f"{fault}, as {text.seen} did"


def test_each_text_is_asked_for_once() -> None:
    patterns = [text.pattern for text in FOREIGN_TEXTS]
    assert sorted(patterns) == sorted([*SAID, *WRITTEN])


@pytest.mark.parametrize(
    "message",
    [
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server crash?",
        "failed to recv, got 0 bytes",
        "Broken pipe",
        "[rank0]: Socket Timeout",
        "wait timeout after 15000ms, keys: /0 (Timed out waiting for recv)",
    ],
)
def test_messages_of_lost_processes_are_known(message: str) -> None:
    assert is_lost(RuntimeError(message))


def test_other_messages_are_not_of_lost_processes() -> None:
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert find_text("no memory", "") is None
    assert len(texts_on("no memory")) == 4


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_a_full_gpu_is_told_as_one(message: str) -> None:
    assert str(advice(RuntimeError(message))).startswith("not enough memory; make --data.batch")
