"""Programs of torch.export are read as they were written, and never run anything else."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import CNN_MEAN, CNN_SIZE, CNN_STD, DIGITS, changed, save_program, small_cnn

from vitlit.errors import InputError
from vitlit.training.exported_program import load_program

Edit = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return small_cnn()


@pytest.fixture(scope="module")
def program(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_program(model, tmp_path_factory.mktemp("program") / "cnn.pt2")


def test_a_program_answers_as_its_model(program: Path, model: torch.nn.Module) -> None:
    found = load_program(program)
    images = torch.randn(5, *CNN_SIZE)
    torch.testing.assert_close(found.on(torch.device("cpu"))(images), model(images))
    assert found.class_names == DIGITS
    assert (found.preprocess.in_chans, *found.preprocess.img_size) == tuple(CNN_SIZE)
    assert (found.preprocess.mean, found.preprocess.std) == (tuple(CNN_MEAN), tuple(CNN_STD))


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.mkdir, (self.folder / "executed",))  # type: ignore[return-value]


def edit(place: str, value: Any) -> Edit:
    """Puts ``value`` at the first key of that name, at any depth of the JSON."""

    def put(content: Any) -> bool:
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, one in list(items):
            if key == place:
                content[key] = value
                return True
            if isinstance(one, dict | list) and put(one):
                return True
        return False

    def change(before: bytes) -> bytes:
        content = json.loads(before)
        assert put(content)
        return json.dumps(content).encode()

    return change


def pickled(folder: Path) -> bytes:
    file = io.BytesIO()
    torch.save(Payload(folder), file)
    return file.getvalue()


TREE = '[1, {"type": "os.path", "context": "x", "children_spec": []}]'
CODE = "__import__('pathlib').Path({!r}).mkdir()"
ATTACKS: dict[str, Callable[[Path], dict[str, Edit]]] = {
    "size": lambda trace: {"model.json": edit("expr_str", CODE.format(str(trace / "executed")))},
    "guard": lambda trace: {"model.json": edit("guards_code", [CODE.format("executed")])},
    "target": lambda trace: {"model.json": edit("target", "torch.hub.load")},
    "operator": lambda trace: {"model.json": edit("target", "_operator.methodcaller")},
    "name": lambda trace: {"model.json": edit("name", "x): pass\nimport os #")},
    "symbol": lambda trace: {"model.json": edit("expr_str", "Symbol('s').__class__")},
    "tree": lambda trace: {"model.json": edit("in_spec", TREE)},
    "pickled weight": lambda trace: {
        "model_weights_config.json": edit("use_pickle", True),
        "weight_0": lambda old: pickled(trace),
    },
    "pickled inputs": lambda trace: {"sample_inputs/model.pt": lambda old: pickled(trace)},
    "old weights": lambda trace: {"data/weights/model.pt": lambda old: pickled(trace)},
    "library": lambda trace: {"data/aotinductor/model/a.so": lambda old: b"\x7fELF"},
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_program_that_could_run_code_is_refused(
    attack: str, program: Path, tmp_path: Path
) -> None:
    path = changed(program, tmp_path / "evil.pt2", ATTACKS[attack](tmp_path))
    with pytest.raises(InputError, match=r"evil\.pt2"):
        load_program(path)
    assert [file.name for file in tmp_path.iterdir()] == ["evil.pt2"]


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attack", ["size", "pickled weight", "pickled inputs"])
def test_torch_itself_would_run_it(attack: str, program: Path, tmp_path: Path) -> None:
    """Else the refusals above would prove nothing."""
    path = changed(program, tmp_path / "evil.pt2", ATTACKS[attack](tmp_path))
    with suppress(Exception):  # what follows does not matter once the code has run
        torch.export.load(path)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            dict.fromkeys(("class_names", "input_size", "mean", "std")),
            "does not describe its classes",
        ),
        ({"mean": None}, "does not describe its classes"),
        ({"input_size": [3, 12]}, "does not describe its classes"),
        ({"std": [0.1, 0.1, 0.0]}, "does not describe its classes"),
        ({"std": [0.1]}, "does not describe its classes"),
        ({"class_names": []}, "has no classes"),
    ],
)
def test_what_a_program_has_to_tell_is_asked_for(
    facts: dict[str, Any], message: str, program: Path, tmp_path: Path
) -> None:
    told = {"class_names": DIGITS, "input_size": CNN_SIZE, "mean": CNN_MEAN, "std": CNN_STD}
    told = {name: value for name, value in (told | facts).items() if value is not None}
    new = {"metadata.json": lambda old: json.dumps(told).encode()}
    path = changed(program, tmp_path / "cnn.pt2", new)
    with pytest.raises(InputError, match=f"{message}.*") as caught:
        load_program(path)
    if "tell" in message:
        assert "torch.export.save(program, FILE" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_no_program_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt2"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.pt2"):
        load_program(path)
