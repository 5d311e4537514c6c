"""The commands, one line each: for `vitlit` alone, and for the help of each.

Nothing here may import torch or Lightning: that would take seconds, and this takes 0.07.
"""

import json
from importlib.resources import files

COMMANDS = {
    "fit": "train a model; `vitlit fit PHOTOS` on a folder of your own images",
    "inspect": "look at your data before training: duplicates, labels, files",
    "pretrain": "learn from images without labels; `vitlit pretrain PHOTOS`",
    "validate": "score a checkpoint on its validation split",
    "test": "score a checkpoint on its test split (--data.split train|val|test)",
    "compare": "score several checkpoints on the same images, and test whether they differ",
    "predict": "classify your images, and write predictions.csv",
    "probe": "measure features with k-NN and a linear classifier; find the nearest images",
    "anomaly": "find images that differ from normal ones, and show where",
    "explain": "show what a model looks at: a page, figures and arrays",
    "export": "write a model for other programs, or a web page that runs it",
    "shard": "write a folder of images as tar files, for sets of millions",
    "runs": "list your runs: differing settings, best epoch, how to continue",
}

# Those that can work without Lightning; the others train.
QUICK_COMMANDS = ("validate", "test", "predict", "explain", "export", "compare", "probe", "anomaly")
TRAINING_COMMANDS = ("fit", "pretrain")
DISTRIBUTED_COMMANDS = (*TRAINING_COMMANDS, "validate", "test", "predict")  # by several processes
HELP_FILE = "help.json"  # made by vitlit/commands/short_help.py


def wants_series(args: list[str]) -> bool:
    """Whether ``fit`` is asked for several trainings; --print_config asks for none."""
    names = {word.partition("=")[0] for word in args}
    wants = bool(names & {"--folds", "--repeats"})
    return args[0] == "fit" and wants and "--print_config" not in names


def command_help(command: str) -> str:
    """What `vitlit COMMAND --help` prints: the most used options, and examples."""
    text = (files("vitlit.cli") / HELP_FILE).read_text(encoding="utf-8")
    return str(json.loads(text)[command])


def overview() -> str:
    """What `vitlit` alone prints: the commands and the shipped configs."""
    from vitlit import __version__
    from vitlit.cli.configs import shipped_configs

    commands = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    return (
        f"vitlit {__version__}: Vision Transformers for your own images\n\n"
        f"commands (`vitlit COMMAND --help` lists the options):\n{commands}\n\n"
        f"shipped configs, for --config from any folder:\n  "
        + "\n  ".join(shipped_configs())
        + "\n\n"
        "start with: vitlit fit --config digits.yaml"
    )
