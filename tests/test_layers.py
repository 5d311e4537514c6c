"""The shape of the package, read from its source: imports only go down, files stay small."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vitlit

FOLDER = Path(vitlit.__file__).parent
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
LAYERS = [
    {
        "__init__",
        "errors",
        "patches",
        "positions",
        "seeding",
        "optim",
        "decoding",
        "shipped",
        "commands",
    }
    | {"metrics", "significance", "losses", "probing", "precision"}
    | {"durable", "plain_yaml", "wakeup", "commands"}
    | {"lightning_internals", "parser_internals", "foreign_texts"},
    {"augment", "operations", "policies", "attention", "blocks", "sampler", "mixing", "embedding"}
    | {"images", "locality", "pooling"},
    {"transform"},
    {"readers", "cache", "datasets", "bad_images", "labels"},
    {"vit", "splits", "division", "datamodule"},
    {"checkpointing", "interpret", "figures", "page_figures", "page", "explain"}
    | {"titles", "history_figure"}
    | {"pretrained", "adaptation", "weight_files", "weight_facts", "weight_formats"}
    | {"weight_arguments", "loading"}
    | {"export", "naming_choice", "namings", "traits"}
    | {"evaluation", "evaluation_figures", "features", "inference"}
    | {"comparison", "probe", "report_content"},
    {"classifier", "scoring"},
    {"bar", "callbacks", "history", "hooks", "parser", "settings", "sources", "summary", "trainer"}
    | {"report", "feature_writer", "runs", "kept", "options", "origins", "starting"}
    | {"resume", "stopping", "heartbeat", "nonfinite", "guards", "preflight"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
WITHOUT_LIGHTNING = [
    "vit",
    "blocks",
    "attention",
    "patches",
    "positions",
    "seeding",
    "optim",
    "images",
    "decoding",
]
WITHOUT_LIGHTNING += ["augment", "operations", "policies", "mixing"]
WITHOUT_LIGHTNING += ["transform", "readers", "cache", "interpret", "figures", "page_figures"]
WITHOUT_LIGHTNING += ["page", "explain", "titles", "history_figure"]
WITHOUT_LIGHTNING += ["significance", "evaluation", "evaluation_figures", "features", "losses"]
WITHOUT_LIGHTNING += ["probing", "precision", "embedding", "locality", "pooling", "traits"]


def imports(source: str) -> Iterator[str]:
    """Dotted names of all imports, inside functions too; relative ones keep their dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            yield from (f"{home}.{alias.name}" for alias in node.names)


def own(source: str) -> set[str]:
    """The modules of the package that a source imports: ``from vitlit import x`` may mean both."""
    parts = [name.split(".") for name in imports(source)]
    paths = [path[1:] for path in parts if path[0] == "vitlit"]
    return {path[0] if path and path[0] in SOURCES else "__init__" for path in paths}


def reach(name: str) -> set[str]:
    """The module and all modules of the package below it."""
    found, ahead = set(), {name}
    while ahead:
        module = ahead.pop()
        found.add(module)
        ahead |= own(SOURCES[module]) - found
    return found


def test_every_module_has_a_layer() -> None:
    assert set(SOURCES) == set(LAYER)


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_down_or_stay_in_their_layer(name: str) -> None:
    assert [other for other in own(SOURCES[name]) if LAYER[other] > LAYER[name]] == []


@pytest.mark.parametrize("name", sorted(LAYERS[0]))
def test_the_lowest_layer_imports_only_errors_and_texts(name: str) -> None:
    assert own(SOURCES[name]) <= ({"errors", "foreign_texts"} if name != "foreign_texts" else set())


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({name: own(text) for name, text in SOURCES.items()}).prepare()


@pytest.mark.parametrize("name", SOURCES)
def test_imports_within_the_package_are_absolute(name: str) -> None:
    assert [target for target in imports(SOURCES[name]) if target.startswith(".")] == []


@pytest.mark.parametrize("name", WITHOUT_LIGHTNING)
def test_tensor_modules_never_reach_lightning(name: str) -> None:
    targets = {target for module in reach(name) for target in imports(SOURCES[module])}
    assert [target for target in targets if "lightning" in target.split(".")[0]] == []


@pytest.mark.parametrize("name", SOURCES)
def test_files_have_at_most_300_lines(name: str) -> None:
    assert len(SOURCES[name].splitlines()) <= 300


@pytest.mark.parametrize("name", SOURCES)
def test_functions_have_at_most_60_lines(name: str) -> None:
    """Counted from the first statement: signatures and docstrings may be long."""
    long = []
    for node in ast.walk(ast.parse(SOURCES[name])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body and body[-1].end_lineno - body[0].lineno + 1 > 60:
                long.append(node.name)
    assert long == []
