"""Loads a model for use from Python, from a checkpoint or from published weights.

path | folder | name on the hub | best | last -> ViT, Preprocess, class names
"""

import inspect
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vitlit.data.catalog import IMAGENET_MEAN, IMAGENET_STD
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError
from vitlit.images.framing import PLAIN_FRAMING, padded_with_mean
from vitlit.images.preprocess import Preprocess, per_channel
from vitlit.model.vit import ViT
from vitlit.tasks.known import make_task
from vitlit.weights.adapt import adapt_weights
from vitlit.weights.architecture import UNTOLD_POOL
from vitlit.weights.checkpoint import DATA_KEY, MODEL_KEY, resolve_checkpoint
from vitlit.weights.config_values import without_none
from vitlit.weights.file_reader import read_weight_file
from vitlit.weights.model_config import METADATA_KEY
from vitlit.weights.notes import tell_notes, untold_names, untold_statistics
from vitlit.weights.pretrained import (
    Weights,
    class_names_of,
    is_own,
    load_weights,
    locate_weights,
    read_whole_checkpoint,
)

VIT_PREFIX = "vit."  # of the model's weights in a checkpoint: Classifier.vit


class Loaded(NamedTuple):
    """A model in evaluation mode, the preprocessing of its input, and its class names.

    ``model(preprocess(preprocess.read("cat.jpg")[None]))`` gives logits ``(1, num_classes)``; of
    regression, the number in its unit.
    """

    model: ViT
    preprocess: Preprocess
    class_names: list[str]


def load_checkpoint(path: str | Path) -> Loaded:
    """The model of a checkpoint, for use from Python; ``path`` as in :func:`resolve_checkpoint`.

    Raises InputError if the checkpoint cannot be read, or its weights do not fit its settings.
    """
    content = read_whole_checkpoint(resolve_checkpoint(str(path)))
    arguments = content[MODEL_KEY]
    task = make_task(arguments)
    # the settings are Classifier's, which hold ViT's arguments beside those of the training
    names = inspect.signature(ViT).parameters.keys() & arguments.keys()
    weights = {
        key.removeprefix(VIT_PREFIX): value
        for key, value in content["state_dict"].items()
        if key.startswith(VIT_PREFIX)
    }
    try:
        with torch.device("meta"):  # the values are those of the file: none are drawn
            model = ViT(**{name: arguments[name] for name in names})
        _fill(model, task.self_contained(weights))
        # for preprocessing and class names; reads no image
        data = PlainImageData(**content[DATA_KEY])
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the settings and the weights of {path} do not agree: {reason}; use another checkpoint"
        ) from error
    return Loaded(model.eval(), data.preprocess, data.class_names if model.num_classes else [])


def load(
    source: str | Path,
    *,
    num_heads: int | None = None,
    img_size: int | list[int] | None = None,
    global_pool: Literal["token", "avg"] | None = None,
    class_token: bool | None = None,
    fc_norm: bool | None = None,
) -> Loaded:
    """Load a model for use from Python, from a checkpoint or from published weights.

    source: a file; the folder of a model (config.json beside model.safetensors or
    pytorch_model.bin) or of a run; a name on the Hugging Face hub, ``owner/model`` or
    ``owner/model@revision``; or ``best`` or ``last``. num_heads: number of heads, for weights
    that do not tell it; img_size: of the model, in pixels, one number or (height, width). If it
    fits the positions of the weights they are used unchanged, else they are resampled. global_pool,
    class_token, fc_norm: as in ViT, for weights that do not tell how their tokens are pooled. All
    are for weights of other programs, since a checkpoint knows its own. A model without a head
    gives features, and its class names are empty. Assumptions are logged. Raises InputError if the
    source cannot be read or does not fit the model.
    """
    given = without_none({"num_heads": num_heads, "img_size": img_size})
    pooling = without_none(
        {"global_pool": global_pool, "class_token": class_token, "fc_norm": fc_norm}
    )
    source = str(source)
    file, _ = locate_weights(source)
    content = read_weight_file(file)  # by content: an own checkpoint may have any name
    is_checkpoint = is_own(content.parts)
    stated = [*given, *pooling]
    if stated and (is_checkpoint or METADATA_KEY in content.metadata):
        raise InputError(
            f"{source} was written by vitlit and states its own {' and '.join(stated)}; leave "
            f"{'them' if len(stated) > 1 else 'it'} out"
        )
    if is_checkpoint:
        return load_checkpoint(file)
    # img_size is given too: it tells the grid of positions that are no square
    weights = load_weights(source, given)
    if pooling and UNTOLD_POOL not in weights.notes:
        raise InputError(
            f"{source} tells how its tokens are pooled; leave {', '.join(pooling)} out",
            argument=tuple(pooling),
        )
    check_heads(num_heads, weights, source)
    if global_pool == "avg":  # weights that leave this open have a class token and no fc_norm
        pooling = {"class_token": True, "fc_norm": False} | pooling
    return _make_model(weights, given, pooling)


def check_heads(num_heads: int | None, weights: Weights, source: str) -> None:
    """Refuse a number of heads that contradicts the source: outputs would be wrong."""
    told = weights.arguments["num_heads"]
    if num_heads not in (None, told):
        raise InputError(
            f"num_heads {num_heads} contradicts {source}, which says {told}; leave it out",
            argument="num_heads",
        )


def _fill(model: ViT, state: dict[str, Tensor]) -> None:
    """Give a model on the meta device its values.

    Copies of them: a file may be mapped into memory, and change while the model is used.
    """
    copies = {name: value.clone() for name, value in state.items()}
    model.load_state_dict(copies, assign=True)


def _make_model(weights: Weights, given: dict[str, Any], pooling: dict[str, Any]) -> Loaded:
    """The model for these weights, at the given image size or else at their own.

    pooling: arguments about it, which the weights do not tell.
    """
    notes = [note for note in weights.notes if not (pooling and note == UNTOLD_POOL)]
    size = {"img_size": given["img_size"]} if "img_size" in given else {}
    arguments = weights.arguments | size | pooling
    with torch.device("meta"):  # all values are those of the file, as a rule: none are drawn
        model = ViT(**arguments)
    state, changed = adapt_weights(weights, model)
    if any(value.is_meta for value in state.values()):  # the model's own, such as fixed positions
        with torch.random.fork_rng(devices=[]):
            model = ViT(**arguments)
        state, changed = adapt_weights(weights, model)
    _fill(model, state)
    mean, std = weights.mean, weights.std
    if mean is None or std is None:
        mean, std = (
            per_channel(name, list(values), model.in_chans)
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        notes.append(untold_statistics(mean, std, "ImageNet's"))
    names = class_names_of(weights)
    if names and weights.class_names is None:
        notes.append(untold_names(names))
    tell_notes([*notes, *changed])
    # both sizes are the model's, so that a file is resized once, by bicubic interpolation
    framing = padded_with_mean(weights.framing or PLAIN_FRAMING, mean)
    preprocess = Preprocess(
        model.in_chans, model.img_size, model.img_size, mean, std, framing=framing
    )
    return Loaded(model.eval(), preprocess, names)
