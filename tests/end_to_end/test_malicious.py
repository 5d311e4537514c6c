"""Hostile files, addresses and environments: nothing is executed, nothing is imported."""

import http.server
import io
import os
import pickle
import random
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitlit import load
from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.training import checkpoint_io
from vitlit.weights import checkpoint
from vitlit.weights.pretrained import load_weights

pytestmark = pytest.mark.faults
EVIL = "from pathlib import Path\nPath('imported').touch()\nclass Evil:\n    pass\n"
TRACES = ("imported", "executed")
MODEL = {"img_size": 8, "in_chans": 1, "num_classes": 10, "patch_size": 2, "embed_dim": 16}
MODEL |= {"depth": 1, "num_heads": 2}
STATE = {"callbacks": {}, "loops": {}, "optimizer_states": [], "lr_schedulers": []}


class Payload:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("executed",))


class Import:
    """Imports a module when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__, ("evil_module",))


def content(**changes: Any) -> dict[str, Any]:
    parts = {"state_dict": {}, "hyper_parameters": MODEL, "epoch": 0, "global_step": 0, **STATE}
    return {**parts, "datamodule_hyper_parameters": {"dataset": "digits"}, **changes}


def by_hand(code: bytes) -> bytes:
    """An archive as torch writes them, with a pickle of one's own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def saved(value: Any, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **kwargs)
    return file.getvalue()


def script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    return file.getvalue()


NAMED = {"class_path": "evil_module.Evil", "init_args": {}}
GLOBAL = b"cevil_module\nEvil\n."
CHECKPOINTS: dict[str, Callable[[], bytes]] = {
    "code among the weights": lambda: saved(content(state_dict=Payload())),
    "code in the model's settings": lambda: saved(content(hyper_parameters={"lr": Payload()})),
    "code in the data's settings": lambda: saved(content(datamodule_hyper_parameters=Payload())),
    "code in the state of callbacks": lambda: saved(content(callbacks={"a": Payload()})),
    "an import in the state of the loops": lambda: saved(content(loops={"a": Import()})),
    "a pickle of its own": lambda: by_hand(b"cos\nmkdir\n(S'executed'\ntR."),
    "a class of a module": lambda: by_hand(GLOBAL),
    "eval": lambda: by_hand(b"cbuiltins\neval\n(S'__import__(\"evil_module\")'\ntR."),
    "the format before zip": lambda: saved(
        content(x=Payload()), _use_new_zipfile_serialization=False
    ),
    "a bare pickle": lambda: pickle.dumps(content(x=Payload())),
    "a TorchScript archive": script,
    "a class named by the model's settings": lambda: saved(
        content(hyper_parameters={**MODEL, "optimizer": NAMED})
    ),
    "a class named by the data's settings": lambda: saved(
        content(datamodule_hyper_parameters={"off_last": NAMED})
    ),
}
WEIGHTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "code in a .pth": ("a.pth", lambda: saved({"head.weight": Payload()})),
    "a pickle in a .bin": ("pytorch_model.bin", lambda: pickle.dumps({"a": Payload()})),
    "objects in an .npz": ("a.npz", lambda: objects()),
    "a pickle in a .safetensors": ("a.safetensors", lambda: pickle.dumps(Payload())),
    "a class in a .pt": ("a.pt", lambda: by_hand(GLOBAL)),
}
CONFIGS = {
    "an object": "model: !!python/object/apply:os.mkdir [executed]",
    "a module": "model: !!python/module:evil_module",
    "a callback": "trainer: {callbacks: [{class_path: evil_module.Evil}]}",
    "a logger": "trainer: {logger: {class_path: evil_module.Evil}}",
    "a function": "trainer: {callbacks: {class_path: os.mkdir, init_args: {path: executed}}}",
    "a process": "trainer: {logger: {class_path: subprocess.Popen, init_args: {args: [ls]}}}",
    "a way round": "trainer: {callbacks: {class_path: pytorch_lightning.trainer.trainer.os.mkdir}}",
    "its own permission": "allow_classes_of: evil_module\ntrainer: {callbacks: evil_module.Evil}",
    "a class in a dict": "data: {off_last: {class_path: evil_module.Evil}}",
}


def objects() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.array([Payload()], dtype=object))
    return file.getvalue()


@pytest.fixture(autouse=True)
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder on the import path with a module to be imported; no trace is left in the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evil_module.py").write_text(EVIL)
    yield
    assert "evil_module" not in sys.modules
    assert not [name for name in TRACES if Path(name).exists()]


ALSO_RESUMED = ("code in the model's settings", "a bare pickle")  # of the others, when slow


@pytest.mark.parametrize(
    ("command", "kind"),
    [("test", kind) for kind in CHECKPOINTS]
    + [
        pytest.param("fit", kind, marks=[] if kind in ALSO_RESUMED else pytest.mark.slow)
        for kind in CHECKPOINTS
    ],
)
def test_a_hostile_checkpoint_is_refused(
    command: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.ckpt").write_bytes(CHECKPOINTS[kind]())
    assert main([command, "--ckpt_path=a.ckpt", "--trainer.max_epochs=1"]) == 2
    message = capsys.readouterr().err.strip()
    assert message.splitlines()[-1].startswith("vitlit:")
    assert "a.ckpt" in message
    with pytest.raises(InputError, match=r"a\.ckpt"):
        load("a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt"):
        load_weights("a.ckpt")


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights_are_refused(kind: str) -> None:
    name, make = WEIGHTS[kind]
    Path(name).write_bytes(make())
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_weights(name)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_hostile_config_is_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(CONFIGS[kind])
    assert main(["fit", "--config=digits.yaml", "--config=a.yaml"]) == 2
    assert "Traceback" not in capsys.readouterr().err


ENVIRONMENTS = (
    {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"},
)


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=len)
def test_the_environment_cannot_make_code_run(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Path("a.ckpt").write_bytes(CHECKPOINTS["code in the state of callbacks"]())
    assert main(["test", "--ckpt_path=a.ckpt"]) == 2
    with pytest.raises(InputError):
        checkpoint_io.DurableIO().load_checkpoint("a.ckpt", weights_only=False)
    with pytest.raises(InputError):
        load_weights("a.ckpt")


def test_the_environment_cannot_name_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("VITLIT_FIT__TRAINER__CALLBACKS", "evil_module.Evil")
    monkeypatch.setenv("PL_FIT__TRAINER__CALLBACKS", "evil_module.Evil")
    assert main(["fit", "--config=digits.yaml", "--trainer.precision=16-true"]) == 2


def test_a_flag_cannot_make_code_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.ckpt").write_bytes(CHECKPOINTS["code in the state of callbacks"]())
    assert main(["test", "--ckpt_path=a.ckpt", "--weights_only=false"]) == 2


def test_an_address_is_never_asked() -> None:
    asked: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.ckpt"
        assert main(["test", f"--ckpt_path={address}"]) == 2
        assert main(["fit", "--config=digits.yaml", f"--ckpt_path={address}"]) == 2
        assert main(["fit", "--config=digits.yaml", f"--model.pretrained={address}"]) == 2
        assert main(["fit", f"--config={address}"]) == 2
        with pytest.raises(InputError):
            checkpoint_io.DurableIO().load_checkpoint(address)
        server.shutdown()
    assert asked == []


def test_no_flipped_bit_of_a_checkpoint_loads_silently() -> None:
    good = content(state_dict={"vit.head.weight": torch.randn(10, 16)})
    path = Path("a.ckpt")
    checkpoint_io.DurableIO().save_checkpoint(good, path)
    data, rng = path.read_bytes(), random.Random(0)
    assert checkpoint.read_checkpoint(path)["hyper_parameters"] == MODEL
    for bit in rng.sample(range(8 * len(data)), 200):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"a\.ckpt"):
            checkpoint.read_checkpoint(path)


def test_a_package_is_imported_where_the_command_line_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class is refused then for what it is, not for where it is from."""
    Path("good_module.py").write_text(
        "from pathlib import Path\nfrom pytorch_lightning import Callback\n"
        "class Good(Callback):\n"
        "    def setup(self, trainer, pl_module, stage):\n        Path('ran').touch()\n"
    )
    args = ["--config=digits.yaml", "--config=debug.yaml", "--trainer.callbacks=good_module.Good"]
    assert main(["fit", *args]) == 2
    assert not Path("ran").exists()
    assert main(["fit", *args, "--allow_classes_of=good_module"]) == 0
    assert Path("ran").exists()
    assert main(["fit", *args]) == 2  # allowed for that command alone
