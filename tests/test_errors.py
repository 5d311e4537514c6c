"""Errors name arguments of Python; the command line alone names its options for them."""

import ast
import pickle
import re
import warnings
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

import vitlit
from vitlit import InputError
from vitlit.__main__ import main
from vitlit.cli.advice import advice
from vitlit.cli.options import OWNERS, option_of
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import (
    NonFiniteError,
    check_at_least,
    check_below_one,
    inform,
    message_and_arguments,
    warn,
)
from vitlit.model.attention import Attention
from vitlit.model.vit import ViT
from vitlit.patches import grid_size

FOLDER = Path(vitlit.__file__).parent
TREES = {
    path.relative_to(FOLDER).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(FOLDER.rglob("*.py"))
}
COMMANDS = ("shard", "fit", "pretrain", "test", "predict", "explain", "export", "probe", "anomaly")


def strings(tree: ast.AST) -> Iterator[str]:
    """All texts of a module, its docstrings and the parts of f-strings too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# what speaks of options; SLURM has its own
PROGRAM = ("cli/", "commands/", "repeats/", "training/slurm")


LIBRARY = {name: tree for name, tree in TREES.items() if not name.startswith(PROGRAM)}
INNER = {name: tree for name, tree in LIBRARY.items() if "/" in name}  # not the shared modules


@pytest.mark.parametrize(
    ("trees", "words"),
    [
        (LIBRARY, r"--(model|data)\."),
        (INNER, r"--(out|run|ckpt_path|timeout_seconds|trainer)\b|`vitlit "),
    ],
)
def test_the_library_names_no_option_of_the_command_line(
    trees: dict[str, ast.Module], words: str
) -> None:
    assert len(trees) > 150
    for name, tree in trees.items():
        assert [text for text in strings(tree) if re.search(words, text)] == [], name


def test_text_in_place_of_a_number_is_refused_by_name() -> None:
    wrong: Any = "32"
    for call, argument in (
        (lambda: grid_size(wrong, 4), "img_size"),
        (lambda: grid_size(32, wrong), "patch_size"),
        (lambda: ViT(img_size=wrong), "img_size"),
        (lambda: ViT(depth=wrong), "depth"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.arguments == (argument,)


def test_an_unknown_argument_is_one_of_the_class_that_was_called() -> None:
    with pytest.raises(TypeError, match=r"ImageData has no argument 'workers'; did you mean num_w"):
        PlainImageData(workers=1)


def named_arguments() -> set[str]:
    """Whatever is given as ``argument=`` in words, somewhere in the package."""
    return {
        text
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "argument"
        for text in strings(node.value)
    }


def test_every_argument_that_an_error_names_is_an_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help", "all"])
    known = set(re.findall(r"--[a-z_0-9.]+", capsys.readouterr().out))
    names = named_arguments()
    assert len(names) > 30
    assert {option_of(name) for name in names} - known == set()


def input_errors(tree: ast.AST) -> Iterator[tuple[list[str], bool]]:
    """Of each InputError that a module makes: the words of its message, whether it has argument=.

    Values within the message are left out.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
            text = " … ".join(strings(node.args[0]))
            yield re.findall(r"[\w.]+", text), any(k.arg == "argument" for k in node.keywords)


def test_an_error_that_speaks_of_an_argument_names_it() -> None:
    known = {
        arg for kinds in OWNERS.values() for kind in kinds for arg in signature(kind).parameters
    }
    for name, tree in INNER.items():
        for words, has_argument in input_errors(tree):
            # words without an underscore may be meant otherwise, but not at the start
            spoken_of = known.intersection(words[:1], [word for word in words if "_" in word])
            assert has_argument or not spoken_of, f"{name}: {' '.join(words)}"


@pytest.mark.parametrize(
    ("argument", "option"),
    [
        ("patch_size", "--model.patch_size"),
        ("lr", "--model.lr"),
        ("img_size", "--data.img_size"),  # the model has one too, which follows from the data's
        ("class_names", "--data.class_names"),
        ("mixup", "--data.mixup"),
        ("max_epochs", "--trainer.max_epochs"),
        ("every_minutes", "--checkpoints.every_minutes"),
        ("skip", "--nonfinite.skip"),
        ("ema.decay", "--ema.decay"),
        ("seed_everything", "--seed_everything"),
        ("out", "--out"),
    ],
)
def test_the_option_of_an_argument_is_found_by_who_takes_it(argument: str, option: str) -> None:
    assert option_of(argument) == option


def test_an_error_names_one_argument_or_several() -> None:
    with pytest.raises(
        InputError, match="change patch_size, such as to 4, or pass another img_size"
    ) as caught:
        grid_size(8, 3)
    assert caught.value.arguments == ("patch_size", "img_size")
    with pytest.raises(InputError) as caught:
        Attention(dim=16, num_heads=3)
    assert caught.value.arguments == ("num_heads", "embed_dim")
    assert InputError("too small", argument="lr").arguments == ("lr",)
    assert InputError("no such file").arguments == ()


def test_checks_of_numbers_name_their_argument() -> None:
    with pytest.raises(InputError, match="depth 0 is too small; give 1 or more") as caught:
        check_at_least(1, width=2, depth=0)
    assert caught.value.arguments == ("depth",)
    with pytest.raises(InputError, match=r"momentum 1 is not in \[0, 1\)") as caught:
        check_below_one(momentum=1)
    assert caught.value.arguments == ("momentum",)


def test_an_error_keeps_its_arguments_on_the_way_between_processes() -> None:
    again = pickle.loads(pickle.dumps(InputError("lr 0 is not positive", argument="lr")))
    assert (str(again), again.arguments) == ("lr 0 is not positive", ("lr",))


class Failing(Dataset[int]):
    """Raises the error that it is given, whatever it is asked for."""

    def __init__(self, error: InputError) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    "names",
    [(), ("images",), pytest.param(("batch_size", "num_workers"), marks=pytest.mark.slow)],
    ids=str,
)
def test_an_error_of_a_process_that_loads_says_what_it_would_say_here(
    names: tuple[str, ...],
) -> None:
    error = InputError("3 of 4 images cannot be read; mend them", argument=names)
    loader = DataLoader(Failing(error), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(InputError) as caught:
        list(loader)
    assert advice(caught.value) == str(error)
    assert message_and_arguments(caught.value) == (str(error), names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--model.patch_size=3",
            "patch_size 3 does not divide the image size 8x8; change patch_size, such as to 4, or "
            "pass another img_size (--model.patch_size, --data.img_size)",
        ),
        ("--model.depth=0", "depth 0 is too small; give 1 or more (--model.depth)"),
        (
            "--data.rotation=-1",
            "rotation -1.0 is not from 0 to 180 degrees; give such an angle (--data.rotation)",
        ),
        ("--ema.decay=2", "ema.decay 2.0 is not in [0, 1); give another (--ema.decay)"),
        (
            '--data.off_last={"flip":0.5} --trainer.max_epochs=-1 --trainer.max_steps=3',
            "off_last {'flip': 0.5} needs to know the final epoch; give max_epochs "
            "(--trainer.max_epochs)",
        ),
    ],
)
def test_the_command_line_adds_its_options_to_one_sentence(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config=digits.yaml", *words.split()]) == 2
    assert capsys.readouterr().err.endswith(f"vitlit: {message}\n")


def test_a_training_that_fails_names_its_options_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: list[str]) -> None:
        raise NonFiniteError("the loss is not finite; lower lr", argument="lr")

    monkeypatch.setattr("vitlit.commands.with_lightning.run_command", fail)
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == "vitlit: the loss is not finite; lower lr (--model.lr)\n"


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),  # the first process of the second node
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_one_process_of_all_speaks(
    variables: dict[str, str],
    speaks: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    inform("a line")
    assert caplog.messages == (["a line"] if speaks else [])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn("careful")
    assert [str(one.message) for one in found] == (["careful"] if speaks else [])


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="weight_decay nan is too small"):
        check_at_least(0, weight_decay=float("nan"))
