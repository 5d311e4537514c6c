"""What a command starts from: a checkpoint, published weights, or nothing.

settings without it -> their defaults that follow from it -> settings that must agree with it
"""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from vitlit.cli.check_settings import (
    check_against_weights,
    check_average,
    data_of_checkpoint,
    starting_points,
)
from vitlit.cli.from_weights import given_arguments, note_statistics, origins, small_depth
from vitlit.cli.parser import LINKED
from vitlit.cli.sources import check_checkpoint, check_one_model, weights_asked_for
from vitlit.data.datamodule import ImageData
from vitlit.data.split_builder import seen_note
from vitlit.training import saved_settings
from vitlit.training.classifier import Classifier
from vitlit.weights import checkpoint
from vitlit.weights.pretrained import load_weights


class FromCheckpoint:
    """A checkpoint, whose settings are the defaults.

    first: settings of the command as they are without it. words: that the command line lacks.
    """

    words: tuple[str, ...] = ()
    note = ""  # about the images that are scored

    def __init__(self, path: Path, first: Any, command: str) -> None:
        self.path, self.first, self.command = path, first, command
        self.content = checkpoint.read_checkpoint(path)
        self.model = self.content[checkpoint.MODEL_KEY]
        check_one_model(weights_asked_for(first["model"]), self.model, path, command)
        self.kept = saved_settings.training_settings_of(self.content) if command == "fit" else {}
        self.precision = checkpoint.trained_precision(self.content)

    def defaults(self) -> dict[str, Any]:
        """By dotted name."""
        data = data_of_checkpoint(self.content[checkpoint.DATA_KEY], self.first, self.command)
        return {**by_dotted_name(self.first, model=self.model, data=data), **self.kept}

    def check(self, settings: Any, run: Path | None) -> None:
        """Refuse settings that contradict it; say which are its own. run: the one meant by name."""
        check_checkpoint(settings, self.model, self.path, self.command)
        if self.command != "fit":
            self._note_seen(settings["data"])
            return
        saved_settings.check_held_out(self.content, settings["data"], self.path)
        check_average(settings["ema"], self.content, self.path)
        saved_settings.check_can_go_on(self.content, settings, run, self.path)
        saved_settings.tell_saved(self.kept, self.first, settings, self.path)
        saved_settings.tell_changed(self.content, settings, self.path)

    def _note_seen(self, data: Any) -> None:
        """Say where images that are scored may be among those that the model was trained on."""
        split = {"validate": "val", "probe": "test"}.get(self.command, data["split"])
        if self.command in ("test", "validate", "probe") and not data["images"]:
            self.note = seen_note(data, self.content[checkpoint.DATA_KEY], split)
        if self.note and split != "train":  # whose scores are called train/acc
            rank_zero_warn(f"{self.path}: {self.note}")

    def fill(self, model: Classifier, data: ImageData) -> None:
        """Nothing: the trainer loads checkpoints."""


class FromWeights:
    """Published weights, which give the architecture, and classes and pixels where they tell.

    source: a file, folder or name; first: settings of the command as they are without them; args:
    the command line. words: that it lacks.
    """

    note = ""
    precision = None  # of their training, which no file of weights tells

    def __init__(self, source: str, first: Any, command: str, args: list[str]) -> None:
        self.first, self.command = first, command
        self.where = origins(args)
        self.weights = load_weights(source, given_arguments(first, self.where))
        self.words = tuple(small_depth(self.weights, self.where))
        self.headless = command != "fit" and not self.weights.arguments["num_classes"]

    def defaults(self) -> dict[str, Any]:
        """By dotted name."""
        model, data = starting_points(self.weights, self.first, self.command)
        return by_dotted_name(self.first, model=model, data=data)

    def check(self, settings: Any, run: Path | None) -> None:
        """Refuse settings that the weights cannot be made to fit."""
        check_against_weights(settings, self.weights, self.where, self.command)

    def fill(self, model: Classifier, data: ImageData) -> None:
        """Put the weights into the model, which then has its own copy."""
        note_statistics(self.weights, data, self.where)
        if self.headless:
            model.vit.remove_head()
        model.load_pretrained(self.weights)
        del self.weights


def start_from(
    path: Path | None, first: Any, command: str, args: list[str]
) -> FromCheckpoint | FromWeights | None:
    """The checkpoint at ``path``, or else what --model.pretrained names, if anything."""
    if path is not None:
        return FromCheckpoint(path, first, command)
    source = weights_asked_for(first["model"])
    return FromWeights(source, first, command, args) if source else None


def by_dotted_name(known: Any, **groups: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name, without those that follow from others, or that nothing knows."""
    values = {f"{group}.{name}": value for group in groups for name, value in groups[group].items()}
    return {name: values[name] for name in values if name in known and name not in LINKED}
