"""The shape of the package, read from its source: who imports whom, and how large things are."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vitlit

FOLDER = Path(vitlit.__file__).parent
PACKAGES: dict[str, str] = {  # each package, and those that it may import
    "tasks": "",
    "augment": "",
    "model": "",
    "images": "tasks augment",
    "data": "tasks images augment",
    "explain": "model data tasks images",
    "weights": "model data tasks images",
    "evaluation": "weights model data tasks images",
    "inspection": "data tasks images",
    "deploy": "evaluation weights model data tasks images",
    "prediction": "evaluation weights model data tasks images",
    "features": "prediction evaluation weights model data tasks images",
    "training": "evaluation weights model data tasks images",
    "pretraining": "training evaluation weights model data tasks images",
    "fault_tolerance": "training evaluation weights model data tasks images",
    "cli": "pretraining training evaluation weights model data tasks images augment",
    "commands": "cli fault_tolerance pretraining training features inspection deploy "
    "prediction explain evaluation weights model data tasks images",
}
# for everyone
SHARED = {"errors", "files", "html_page", "messages", "patches", "plotting", "seeding"}
TORCH_ONLY = ("tasks", "augment", "model", "images", "explain")
USES_LIGHTNING = {"explain.attention_pictures"}  # a callback, where nothing else would need one
# of `vitlit --help`
AT_START = ("__init__", "__main__", "cli.overview", "cli.configs", "errors", "messages")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


SOURCES = {
    dotted(path): path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.rglob("*.py"))
    if "configs" not in path.parts
}


TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


@cache
def imports(module: str, *, at_start: bool = False) -> list[str]:
    """Dotted names of all imports, inside functions too; relative ones keep their dots.

    at_start: only those that run when the module is imported.
    """
    found = []
    for node in TREES[module].body if at_start else ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            found += [f"{home}.{alias.name}" for alias in node.names]
    return found


@cache
def own(module: str, *, at_start: bool = False) -> frozenset[str]:
    """The modules of the package that one imports: ``from vitlit.data import x`` and more."""
    found = set()
    for name in imports(module, at_start=at_start):
        parts = name.split(".")
        if parts[0] == "vitlit":
            whole = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.add(next((other for other in whole if other in SOURCES), "__init__"))
    return frozenset(found)


def package(module: str) -> str:
    """The package of a module; its own name, where it is shared by all."""
    return module.split(".")[0]


def reach(name: str, *, at_start: bool = False) -> set[str]:
    """The module and all modules of the package below it.

    at_start: only those that are imported with it.
    """
    found, ahead = set(), {name}
    while ahead:
        module = ahead.pop()
        found.add(module)
        ahead |= own(module, at_start=at_start) - found
    return found


def test_every_module_is_in_a_package_or_shared() -> None:
    assert {package(name) for name in SOURCES} == {"__init__", "__main__", *SHARED, *PACKAGES}


def test_a_package_imports_only_those_below_it() -> None:
    wrong = []
    for name in SOURCES:
        if package(name) in PACKAGES:
            allowed = {package(name), "__init__", *SHARED, *PACKAGES[package(name)].split()}
            wrong += [f"{name}: {one}" for one in own(name) if package(one) not in allowed]
    assert wrong == []


def test_shared_modules_import_only_each_other() -> None:
    assert {name: own(name) - SHARED for name in SHARED if own(name) - SHARED} == {}


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({name: own(name) for name in SOURCES}).prepare()


def test_imports_within_the_package_are_absolute() -> None:
    assert [name for name in SOURCES if any(one.startswith(".") for one in imports(name))] == []


def test_tensor_modules_never_reach_lightning() -> None:
    names = [name for name in SOURCES if package(name) in {*TORCH_ONLY, *SHARED}]
    assert len(names) > 50
    for name in set(names) - USES_LIGHTNING:
        targets = {target for module in reach(name) for target in imports(module)}
        found = [target for target in targets if "lightning" in target.split(".")[0]]
        assert found == [], name


@pytest.mark.parametrize(
    "name", ["commands.without_lightning", "commands.inspect_images", "weights.load"]
)
def test_what_trains_nothing_starts_without_lightning(name: str) -> None:
    slow = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "matplotlib")
    found = reach(name, at_start=True)
    targets = {target for module in found for target in imports(module, at_start=True)}
    assert len(found) > 20
    assert [target for target in targets if target.split(".")[0] in slow] == []


@pytest.mark.parametrize("name", AT_START)
def test_help_imports_nothing_heavy(name: str) -> None:
    heavy = ("torch", "pytorch_lightning", "numpy", "jsonargparse")
    targets = imports(name, at_start=True)
    assert [target for target in targets if target.split(".")[0] in heavy] == []


def test_the_list_of_runs_needs_no_torch() -> None:
    found = reach("commands.runs.list_runs", at_start=True)
    targets = {target for module in found for target in imports(module, at_start=True)}
    heavy = ("torch", "pytorch_lightning", "numpy", "jsonargparse")
    assert [target for target in targets if target.split(".")[0] in heavy] == []


def test_the_init_of_a_package_is_one_docstring() -> None:
    for name, tree in TREES.items():
        if name.endswith(".__init__"):
            assert ast.get_docstring(tree), name
            assert len(tree.body) == 1, name


def test_the_picture_is_small() -> None:
    names = [path for path in FOLDER.iterdir() if path.name not in ("__pycache__", "configs")]
    assert sum(path.is_dir() for path in names) in range(10, 18)
    assert len(list(FOLDER.glob("*.py"))) <= 9


@pytest.mark.parametrize("name", PACKAGES)
def test_folders_have_at_most_16_modules(name: str) -> None:
    """A package with more than one subject has a folder for each, none of which has folders."""
    inner = [path for path in (FOLDER / name).iterdir() if (path / "__init__.py").is_file()]
    for folder in (FOLDER / name, *inner):
        assert len(list(folder.glob("*.py"))) <= 16
    assert not [path for folder in inner for path in folder.glob("*/*.py")]


def test_files_have_at_most_300_lines() -> None:
    assert [name for name, text in SOURCES.items() if len(text.splitlines()) > 300] == []


def test_functions_have_at_most_60_lines() -> None:
    """Counted from the first statement: signatures and docstrings may be long."""
    long = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and body[-1].end_lineno - body[0].lineno + 1 > 60:
                    long.append(f"{name}: {node.name}")
    assert long == []
