"""Where weights and images come from: one source of each, and none by accident.

settings of a command, of a checkpoint -> nothing, or the error that names the two that disagree
"""

import inspect
from pathlib import Path
from typing import Any

from vitlit.cli.check_settings import check_against_checkpoint
from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError

ASK_USER = "???"  # in a recipe's model.pretrained: the user has to give it; OmegaConf's mark


def check_one_model(source: str | None, saved: dict[str, Any], path: Path, command: str) -> None:
    """Refuse a checkpoint and other weights together; one of them would be left unused.

    A training that goes on may name the weights that it began with, as a job that is started
    again by the same command does. source: what --model.pretrained asks for; saved: the settings
    of the checkpoint's model.
    """
    kept = saved.get("pretrained")
    if source is None or (command == "fit" and source == kept):
        return
    if command != "fit":
        raise InputError(
            f"model.pretrained {source} and the checkpoint {path} are two models; give {command} "
            f"one of them: leave out --model.pretrained, or --ckpt_path and --run"
        )
    began = "no other weights" if kept is None else kept
    raise InputError(
        f"model.pretrained {source} contradicts {path}, whose training began with {began}; leave "
        f"out --model.pretrained to go on with it, or --ckpt_path (and give another --run) to "
        f"start anew"
    )


def weights_asked_for(model: Any) -> str | None:
    """What --model.pretrained says; nothing where a recipe leaves it to the user."""
    source: str | None = model["pretrained"]
    return None if source == ASK_USER else source


def check_weights_are_given(model: Any) -> None:
    """Refuse to train a recipe of fine-tuning from scratch, which nobody would notice."""
    if model["pretrained"] == ASK_USER:
        raise InputError(
            "this recipe fine-tunes weights that you choose; give --model.pretrained a file, a "
            "model's or a run's folder or a name on the Hugging Face hub"
        )
    if model["freeze_blocks"] and not model["pretrained"]:
        raise InputError(
            f"model.freeze_blocks {model['freeze_blocks']} would keep weights as they are that "
            f"nothing has trained; give --model.pretrained, or leave it out"
        )


def check_checkpoint(settings: Any, saved: dict[str, Any], path: Path, command: str) -> None:
    """Refuse settings that a checkpoint contradicts; where its training began is its own matter.

    settings: those asked for; saved: those of the checkpoint's model.
    """
    settings["model"]["pretrained"] = saved.get("pretrained")
    check_against_checkpoint(settings["model"], saved, path, command)
    _check_image_shape(settings["data"], saved, path)


def _check_image_shape(data: Any, saved: dict[str, Any], path: Path) -> None:
    """A checkpoint's model takes images of one kind; its weights can be made to fit others."""
    for name in ("img_size", "in_chans"):
        asked, has = data[name], saved.get(name)
        if asked is None or has is None or _both_sides(asked) == _both_sides(has):
            continue
        raise InputError(
            f"data.{name} {asked} contradicts {path}, whose model takes {has}; leave out "
            f"--data.{name}, since images are made to fit, or give --model.pretrained {path} in "
            f"place of --ckpt_path, which makes the weights fit"
        )


def _both_sides(value: Any) -> Any:
    """A square's size, given once or twice, as one thing."""
    return list(value) if isinstance(value, list | tuple) else [value, value]


def check_place(settings: Any, command: str) -> None:
    """Refuse a folder of images that was not named: the default is the cache of this package."""
    data = settings["data"]
    default = inspect.signature(ImageData).parameters["data_dir"].default
    places = {Path(place).expanduser().absolute() for place in (default, data["data_dir"])}
    if data["dataset"] != "folder" or len(places) > 1 or data["images"]:
        return
    if command == "explain":
        raise InputError(
            "explain was given no images; give --data.images files or folders, or "
            "--data.data_dir a folder with one folder for each class"
        )
    if command not in ("predict", "export"):
        raise InputError(
            f"{command} was given no folder of images; give --data.data_dir a folder with one "
            f"folder for each class, or --data.dataset another data set"
        )
