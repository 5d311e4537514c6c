"""Private names of other packages: few, in two modules, and there in the installed versions.

The source of every module is read. A name counts as foreign if it starts with one underscore and
the package does not define it itself, or if it belongs to a foreign base class of an own class.
"""

import argparse
import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

import vitlit

MOST = 12
HOMES = {"lightning_internals", "parser_internals"}
PACKAGE = Path(vitlit.__file__).parent
TREES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
PRIVATE = re.compile(r"_(?!_)\w*[a-zA-Z0-9]\w*(?<!__)")
# documented: of os, of namedtuple, and a module of Python's
PUBLIC = {"_exit", "_replace", "_asdict", "_fields", "_make", "_thread"}
BY_STRING = {"getattr", "setattr", "hasattr", "delattr", "__setattr__", "__getattribute__"}


class Foreign(NamedTuple):
    """A private name of another package. holder: makes what has it."""

    library: str
    holder: Callable[[], Any]
    use: str
    without: str


def trainer() -> pl.Trainer:
    return pl.Trainer(
        devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )


def epoch_loop() -> Any:
    return trainer().fit_loop.epoch_loop


LIGHTNING = f"pytorch_lightning {pl.__version__}"
NAMES = {
    "_signal_connector": Foreign(
        LIGHTNING,
        trainer,
        "keeps a Trainer from registering handlers of signals",
        "SIGTERM to one of several processes hangs them all, and SLURM jobs are requeued twice",
    ),
    "_broadcast_sigterm_tensor": Foreign(
        LIGHTNING,
        epoch_loop,
        "keeps a Trainer from broadcasting in each step whether a signal came",
        "each step of training on several devices waits for the device",
    ),
    "_ddp_kwargs": Foreign(
        LIGHTNING,
        DDPStrategy,
        "lets DDP keep gradients in the buckets that it sends",
        "training on several devices holds a second copy of all gradients",
    ),
    "_should_check_val_fx": Foreign(
        LIGHTNING,
        epoch_loop,
        "asks whether a validation follows the batch that a checkpoint was taken after",
        "a resumed training repeats or skips a validation",
    ),
    "_has_run": Foreign(
        LIGHTNING,
        lambda: epoch_loop().val_loop,
        "ends an epoch of which a checkpoint was taken after the last batch",
        "a training that is validated rarely and resumed there trains on one batch too many",
    ),
    "_batches_that_stepped": Foreign(
        LIGHTNING,
        epoch_loop,
        "sets the step that loggers count from",
        "the curves of a resumed training are off by a step",
    ),
    "_amp_foreach_non_finite_check_and_unscale_": Foreign(
        f"torch {torch.__version__}",
        lambda: torch,
        "looks for gradients that are not finite, in one kernel",
        "losses and gradients that are not numbers reach the weights",
    ),
    "_actions": Foreign(
        "argparse of Python's standard library",
        argparse.ArgumentParser,
        "lists the options of a parser",
        "an unknown option brings no suggestion, and --help says what Lightning's options mean "
        "elsewhere",
    ),
}


def is_private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None and name not in PUBLIC


def is_own(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "vitlit"


def stored(tree: ast.AST) -> Iterator[str]:
    """Names that a source gives to functions, classes, variables and attributes of ``self``."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name


@cache
def names_of(base: type) -> frozenset[str]:
    """Private names of a class, those that its methods give to ``self`` among them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
    except (OSError, TypeError):  # written in C
        return frozenset(filter(is_private, vars(base)))
    return frozenset(filter(is_private, [*vars(base), *stored(tree)]))


def inherited(module: str, tree: ast.AST) -> Iterator[str]:
    """Names of foreign base classes that own classes define, set or read."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        kind = getattr(importlib.import_module(module), node.name, None)
        if kind is None:
            continue
        bases = [base for base in kind.__mro__ if not is_own(base.__module__)]
        foreign = frozenset().union(*map(names_of, bases))
        used = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
        used |= {name.id for child in node.body for name in ast.walk(child) if is_target(name)}
        used |= {
            child.attr
            for child in ast.walk(node)
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name | ast.Call)
        }
        yield from used & foreign


def is_target(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def strings(tree: ast.AST) -> Iterator[str]:
    """Strings that name an attribute: in getattr and its like, or compared with a name."""
    for node in ast.walk(tree):
        found: list[ast.expr] = []
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in BY_STRING:
                found = node.args
            case ast.Compare(ops=[ast.Eq() | ast.NotEq()]):
                found = [node.left, *node.comparators]
            case ast.Subscript():
                found = [node.slice]
        yield from (
            one.value
            for one in found
            if isinstance(one, ast.Constant) and isinstance(one.value, str)
        )


def imported(tree: ast.AST) -> Iterator[str]:
    """Private parts of the paths that a source imports from other packages."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                paths = [alias.name for alias in node.names]
            case ast.ImportFrom(module=module):
                paths = [f"{module}.{alias.name}" for alias in node.names]
            case _:
                continue
        yield from (part for path in paths if not is_own(path) for part in path.split("."))


OWN = {name for tree in TREES.values() for name in stored(tree)}


def foreign_names(module: str) -> set[str]:
    tree = TREES[module]
    reached = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    given = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    found = ({*reached, *given, *strings(tree)} - OWN) | {*imported(tree)}
    return set(filter(is_private, found | {*inherited(module, tree)}))


def test_two_modules_alone_use_private_names_of_other_packages() -> None:
    others = [module for module in TREES if module.rpartition(".")[2] not in HOMES]
    assert {module: names for module in others if (names := foreign_names(module))} == {}


def test_private_names_of_other_packages_are_few_and_all_described_here() -> None:
    found = set().union(*map(foreign_names, TREES))
    assert found == set(NAMES)
    assert len(found) <= MOST


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_is_still_there(name: str) -> None:
    library, holder, use, without = NAMES[name]
    assert hasattr(holder(), name), (
        f"{library} has no {name}, by which vitlit {use}. Without it {without}."
    )


@pytest.mark.parametrize("module", [name for name in TREES if name.rpartition(".")[2] in HOMES])
def test_what_uses_a_private_name_says_why(module: str) -> None:
    for node in TREES[module].body:
        names = {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}
        if isinstance(node, ast.FunctionDef) and names & set(NAMES):
            assert len((ast.get_docstring(node) or "").split()) > 20, node.name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\ntorch._foreach_lerp_([], [], 1)", {"_foreach_lerp_"}),
        ("from torch._dynamo import config", {"_dynamo"}),
        ("from torch.optim.lr_scheduler import _LRScheduler", {"_LRScheduler"}),
        ("def f(trainer): trainer._skipped = 1", {"_skipped"}),
        ("def f(trainer): return getattr(trainer, '_skipped')", {"_skipped"}),
        ("def f(trainer): vars(trainer)['_skipped'] = 1", {"_skipped"}),
        ("class A:\n    def f(self): self._mine = 1; return self._mine", set()),
        ("import os\nos._exit(1)", set()),
    ],
)
def test_private_names_are_found(
    source: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TREES, "ast", ast.parse(source))  # a module without the classes of it
    monkeypatch.setitem(globals(), "OWN", {*stored(TREES["ast"])})
    assert foreign_names("ast") == expected


def test_private_names_of_foreign_bases_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
    class JSONDecoder:
        def _get_formatter(self):
            self._mine = 1
            return self._subparsers
    """
    own = type("JSONDecoder", (argparse.ArgumentParser,), {"__module__": "vitlit"})
    monkeypatch.setattr("json.JSONDecoder", own)
    tree = ast.parse(textwrap.dedent(source))
    assert {*inherited("json", tree)} == {"_get_formatter", "_subparsers"}
