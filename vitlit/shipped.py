"""Configurations that come with the package, found by name from any folder."""

import difflib
from importlib.resources import files
from pathlib import Path

from vitlit.errors import InputError

HERE = Path(str(files("vitlit.configs")))


def shipped() -> list[str]:
    """Names of the shipped configurations, those of published experiments last."""
    top = sorted(path.name for path in HERE.glob("*.yaml"))
    return top + sorted(f"reference/{path.name}" for path in HERE.glob("reference/*.yaml"))


def find_config(name: str) -> Path:
    """The file that ``--config name`` means: a path, else the name of a shipped file."""
    for candidate in (Path(name).expanduser(), HERE / name, HERE / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    near = difflib.get_close_matches(name, shipped(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`vitlit` alone lists those that are shipped"
    raise InputError(f"no configuration {name!r}; {hint}")
