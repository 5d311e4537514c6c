"""Configurations that come with the package, found by name from any folder.

name or path, as ``--config`` takes it -> path of a file
"""

import difflib
from importlib.resources import files
from pathlib import Path

from vitlit.errors import InputError
from vitlit.files import expanded

CHECKOUT = Path(__file__).parents[2]  # where the package is not installed


def _configs_folder() -> Path:
    try:
        return Path(str(files("vitlit.configs")))
    except ModuleNotFoundError:
        # a source tree: installing makes its configs/ the package vitlit.configs
        return CHECKOUT / "configs"


CONFIGS_FOLDER = _configs_folder()


def shipped_configs() -> list[str]:
    """Names of the shipped configurations; those of published experiments come last."""
    top = sorted(path.name for path in CONFIGS_FOLDER.glob("*.yaml"))
    return top + sorted(
        f"reference/{path.name}" for path in CONFIGS_FOLDER.glob("reference/*.yaml")
    )


def find_config(name: str) -> Path:
    """The file that ``--config name`` means: a path, else the name of a shipped file.

    Raises InputError, with the nearest shipped name, if there is none.
    """
    # The working directory first: a file of the user's hides a shipped one of that name.
    for candidate in (
        expanded(name),
        CONFIGS_FOLDER / name,
        CONFIGS_FOLDER / f"{name}.yaml",
    ):
        if candidate.is_file():
            return candidate
    # Compared without folder and ending. Reversed: of equal stems the first one shown stays.
    stems = {Path(known).stem: known for known in reversed(shipped_configs())}
    near = difflib.get_close_matches(Path(name).stem, stems, n=1, cutoff=0.5)
    hint = f"did you mean {stems[near[0]]}?" if near else "`vitlit` alone lists the shipped ones"
    raise InputError(f"no configuration {name!r}; {hint}")
