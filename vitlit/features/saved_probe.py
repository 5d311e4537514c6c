"""A probe that is kept: the backbone and the fitted linear head as one checkpoint.

ViT, its settings, data -> lightning_logs/NAME/checkpoints/best.ckpt, as a training writes them
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitlit.data.datamodule import PlainImageData
from vitlit.data.split_record import RECORD_KEY
from vitlit.errors import InputError
from vitlit.features.probe import Probed
from vitlit.files import BEST_FILE, CHECKPOINTS_FOLDER, PROBE_FILE, whole_folder
from vitlit.model.features import Feature
from vitlit.model.vit import ViT
from vitlit.tasks.known import make_task
from vitlit.weights.checkpoint import (
    DATA_KEY,
    LIGHTNING_VERSION,
    MODEL_KEY,
    TRAINING,
    VERSION_KEY,
)
from vitlit.weights.durable_file import write_durable

SAVED_FILE = BEST_FILE


def check_can_save(run: Path, data: PlainImageData, feature: Feature) -> None:
    """Refuse a name that is taken, and features that are not the input of the model's head."""
    if data.image_paths is not None:
        raise InputError(
            "save keeps a fitted classifier, and images have no classes to fit; leave out one of "
            "the two",
            argument=("save", "images"),
        )
    if feature != Feature():
        raise InputError(
            "save keeps the whole model, whose head takes its own last features; leave out layer "
            "and pool",
            argument=("save", "layer", "pool"),
        )
    if run.exists():
        raise InputError(f"{run} exists; give another name, or remove it", argument="save")


def save_classifier(
    run: Path,
    vit: ViT,
    settings: Mapping[str, Any],
    data: PlainImageData,
    precision: str,
    probed: Probed,
) -> Path:
    """Write the run's best.ckpt, which test, predict, explain and export take.

    vit: with the fitted head; settings: of the model, as a checkpoint keeps them; precision: in
    which it was probed, so that others score it alike; probed: with the thresholds of several
    classes an image. Returns the file.
    """
    own = {"num_classes": vit.num_classes, "class_names": data.class_names}
    own |= {"task": data.task, "loss": None, "target_mean": None, "target_std": None}
    own |= {"thresholds": probed.metrics["linear"].get("thresholds")}
    own |= make_task({"task": data.task}).learned(data.splits["train"].labels)
    content = {
        VERSION_KEY: LIGHTNING_VERSION,
        "epoch": 0,
        "global_step": 0,
        # float32 as in a training, whatever the precision: that only rounds them again
        "state_dict": {
            f"vit.{name}": value.detach().cpu().float() for name, value in vit.state_dict().items()
        },
        MODEL_KEY: {**settings, **own},
        DATA_KEY: dict(data.hparams),
        RECORD_KEY: data.state_dict(),
        TRAINING: {"trainer.precision": precision},
    }
    with whole_folder(run) as part:
        file = part / CHECKPOINTS_FOLDER / SAVED_FILE
        write_durable(file, lambda place: torch.save(content, place))
        text = "A model with the classifier that probe fitted to its features.\n"
        (part / PROBE_FILE).write_text(text, encoding="utf-8")
    return run / CHECKPOINTS_FOLDER / SAVED_FILE
