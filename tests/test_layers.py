"""The shape of the package, read from its source: who imports whom, and how large things are."""

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
    """The modules of the package that a source imports: ``from vitlit.data import x`` and more."""
    found = set()
    for name in imports(source):
        parts = name.split(".")
        if parts[0] == "vitlit":
            whole = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.add(next((module for module in whole if module in SOURCES), "__init__"))
    return found


def package(module: str) -> str:
    """The package of a module; its own name, where it is shared by all."""
    return module.split(".")[0]


def reach(name: str) -> set[str]:
    """The module and all modules of the package below it."""
    found, ahead = set(), {name}
    while ahead:
        module = ahead.pop()
        found.add(module)
        ahead |= own(SOURCES[module]) - found
    return found


def test_every_module_is_in_a_package_or_shared() -> None:
    assert {package(name) for name in SOURCES} == {"__init__", "__main__", *SHARED, *PACKAGES}


@pytest.mark.parametrize("name", [name for name in SOURCES if package(name) in PACKAGES])
def test_a_package_imports_only_those_below_it(name: str) -> None:
    allowed = {package(name), "__init__", *SHARED, *PACKAGES[package(name)].split()}
    assert {other for other in own(SOURCES[name]) if package(other) not in allowed} == set()


@pytest.mark.parametrize("name", sorted(LAYERS[0]))
def test_the_lowest_layer_imports_only_errors_and_texts(name: str) -> None:
    assert own(SOURCES[name]) <= ({"errors", "foreign_texts"} if name != "foreign_texts" else set())


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({name: own(text) for name, text in SOURCES.items()}).prepare()


@pytest.mark.parametrize("name", SOURCES)
def test_imports_within_the_package_are_absolute(name: str) -> None:
    assert [target for target in imports(SOURCES[name]) if target.startswith(".")] == []


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name in SOURCES
        if package(name) in {*TORCH_ONLY, *SHARED} and name not in USES_LIGHTNING
    ),
)
def test_tensor_modules_never_reach_lightning(name: str) -> None:
    targets = {target for module in reach(name) for target in imports(SOURCES[module])}
    assert [target for target in targets if "lightning" in target.split(".")[0]] == []


@pytest.mark.parametrize("name", AT_START)
def test_help_imports_nothing_heavy(name: str) -> None:
    heavy = ("torch", "pytorch_lightning", "numpy", "jsonargparse")
    targets = list(imports(SOURCES[name], at_start=True))
    assert [target for target in targets if target.split(".")[0] in heavy] == []


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith(".__init__")])
def test_the_init_of_a_package_is_one_docstring(name: str) -> None:
    [node] = ast.parse(SOURCES[name]).body
    assert ast.get_docstring(ast.parse(SOURCES[name]))
    assert isinstance(node, ast.Expr)


def test_the_picture_is_small() -> None:
    names = [path for path in FOLDER.iterdir() if path.name not in ("__pycache__", "configs")]
    assert sum(path.is_dir() for path in names) in (10, 11)
    assert sum(path.is_file() for path in names) <= 8


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_have_at_most_16_modules(name: str) -> None:
    assert len(list((FOLDER / name).glob("*.py"))) <= 16


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
