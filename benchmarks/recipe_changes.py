"""In what a training differs from the recipe it is measured for, so that no row claims another's.

settings of the run, those of the recipe -> "--trainer.max_epochs 30"
"""

import json
from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]

WEIGHTS, IMAGE_SIZE, COMPILE = "model.pretrained", "data.img_size", "model.compile"

# Not changes of a recipe: seeds, precision and compiling, which the tables have in columns of their
# own; where the images are and how they are called; how many processes read them.
OWN_COLUMNS = {"seed_everything", "data.split_seed", "trainer.precision", COMPILE}
PLACES = {"run", "ckpt_path", "data.data_dir", "data.download", "trainer.default_root_dir"}
SPEED = {"data.num_workers", "data.memory_gb", "trainer.enable_progress_bar"}
AS_FILES = {"data.dataset", "data.img_size", "data.mean", "data.std"}
FILLED_IN = {"checkpoints.monitor", "early_stopping.monitor"}  # names that `fit` completes
IGNORED = OWN_COLUMNS | PLACES | SPEED | AS_FILES | FILLED_IN


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"data": {"flip": True}}`` as ``{"data.flip": True}``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {}
        found.update(inner or {before + name: value})
    return found


def changes(recipe: Settings, run: Settings, weights: str | None = None) -> str:
    """Options that make the recipe this run, sorted by name; empty if it is the recipe itself.

    recipe: as ``vitlit fit --config RECIPE --print_config`` has it, with the run's published
    weights if it started from some, since these have settings of their own; run: as its
    config.yaml; weights: what to call them. A setting that only one of them has counts as null in
    the other.
    """
    old, new = flat(recipe), flat(run)
    names = (old.keys() | new.keys()) - IGNORED
    changed = {name: as_word(new.get(name)) for name in names if old.get(name) != new.get(name)}
    if new.get(WEIGHTS) is not None:
        changed[WEIGHTS] = weights or as_word(new[WEIGHTS])
        if old.get(IMAGE_SIZE) != new.get(IMAGE_SIZE):  # theirs, not that of a set's files
            changed[IMAGE_SIZE] = as_word(new.get(IMAGE_SIZE))
    return " ".join(f"--{name} {value}" for name, value in sorted(changed.items()))


def how_computed(precision: str, settings: Settings) -> str:
    """For the tables: precision and compiling decide speed and rounding, not what is learned."""
    return f"{precision}, compiled" if flat(settings).get(COMPILE) else precision


def as_word(value: object) -> str:
    """As YAML has it: ``true`` and ``null``; lists too."""
    return value if isinstance(value, str) else json.dumps(value)
