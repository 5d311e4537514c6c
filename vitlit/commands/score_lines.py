"""The last lines of ``test`` and ``validate``: scores, and what to type next.

scores by name -> lines, each a word in a column of 12 and its text
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from vitlit.files import BEST_FILE, CHECKPOINTS_FOLDER, RUNS_FOLDER, relative_path
from vitlit.messages import counted, labelled, labelled_command
from vitlit.training.runs import RUN_NAME

ACCURACY_GAP = 0.01  # difference from balanced accuracy from which on both are shown
# those of all tasks, of which a model has some
SHOWN_SCORES = ("acc", "acc5", "map", "f1", "mae", "rmse", "r2", "loss")
Metrics = Mapping[str, Tensor | float]  # by name, such as test/acc


def predict_line(weights: str) -> str:
    return labelled_command("next", "vitlit predict", weights, "--data.images FILES_OR_FOLDERS")


def weights_option(checkpoint: str | None, pretrained: str | None) -> str:
    """The option that names the weights in use."""
    if checkpoint is None:
        return f"--model.pretrained {shlex.quote(str(pretrained))}"
    return checkpoint_option(Path(checkpoint))


def checkpoint_option(checkpoint: Path) -> str:
    """--run for the best checkpoint of a run in ./lightning_logs, --ckpt_path for all others."""
    name = short_name(checkpoint)
    place, _, run = name.partition("/")
    if place == RUNS_FOLDER and RUN_NAME.fullmatch(run):
        return f"--run {shlex.quote(run)}"
    return f"--ckpt_path {shlex.quote(name)}"


def score_lines(
    metrics: Metrics, split: str, count: int, weights: str, more: Sequence[str] = ()
) -> list[str]:
    """After ``test`` and ``validate``: scores, the number of images, and how to predict.

    split: prefix of the scores' names; count: images; weights: the option that named them; more:
    lines about the scores.
    """
    names = [f"{split}/{name}" for name in SHOWN_SCORES]
    return [
        labelled("reached", f"{format_scores(metrics, names)}  ({counted(count, 'image')})"),
        *more,
        labelled(
            "weights", weights.replace("--run ", f"--run {RUNS_FOLDER}/", 1).partition(" ")[2]
        ),
        predict_line(weights),
    ]


def format_scores(metrics: Metrics, names: list[str]) -> str:
    """Scores by name; with balanced accuracy if classes are so unequal that it differs."""
    balanced = names[0].replace("/acc", "/balanced_acc")
    if balanced in metrics and _gap(metrics, balanced, names[0]) >= ACCURACY_GAP:
        names = list(dict.fromkeys([names[0], balanced, *names[1:]]))
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)


def _gap(metrics: Metrics, *names: str) -> float:
    """How far two scores are apart."""
    first, second = (float(metrics[name]) for name in names)
    return abs(first - second)


def short_name(checkpoint: Path) -> str:
    """The run of a best.ckpt, whose folder means that file; the file itself for others."""
    is_best = checkpoint.name == BEST_FILE and checkpoint.parent.name == CHECKPOINTS_FOLDER
    return relative_path(checkpoint.parents[1] if is_best else checkpoint)
