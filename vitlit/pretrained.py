"""Published and own weights, as the state and the arguments of a ViT.

path | folder | name on the hub | best | last -> Weights(state, arguments, mean, std, ...)

timm, Hugging Face, Google (.npz), torchvision and own checkpoints; told apart by content.
``ViT(**weights.arguments)`` with ``weights.state`` computes what the source computed.
"""

import inspect
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit import checkpointing
from vitlit.checkpointing import Loaded
from vitlit.datamodule import ImageData
from vitlit.datasets import IMAGENET_MEAN, IMAGENET_STD, find_class_names
from vitlit.errors import InputError
from vitlit.images import Preprocess, per_channel
from vitlit.patches import pair
from vitlit.vit import ViT
from vitlit.weight_facts import Facts, folder_facts, metadata_facts
from vitlit.weight_files import CONFIG_NAME, WEIGHT_NAMES, download, listed, read_file, unwrap
from vitlit.weight_formats import FILTERS, Translated, positions_with_prefix, translate

HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # published widths whose heads are not 64 wide
OWN = re.compile(r"vit\.patch_embed\.")  # of a checkpoint, whatever its patch embedding
USUAL_SIZE = 224  # pixels, where neither positions nor settings tell


class Weights(NamedTuple):
    """Weights from anywhere.

    state: tensors under ViT's names, float32, complete for ``arguments``; some may be views of
    the file; arguments: of ViT's constructor; mean, std: per channel, of pixels in [0, 1];
    class_names: in the order of the head; each None where the source does not tell;
    notes: what was assumed or dropped; invert: whether pixels p are turned into 1 - p, as for
    ImageData, whose mean is that of the pixels before.
    """

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: list[str] | None
    notes: list[str]
    invert: bool = False


def load_weights(source: str | Path) -> Weights:
    """The weights that ``source`` means, whatever code wrote them.

    source: a file; the folder of a model (config.json beside model.safetensors or
    pytorch_model.bin) or of a run; a name on the Hugging Face hub, ``owner/model`` or
    ``owner/model@revision``; or ``best`` or ``last`` as for checkpoints.
    """
    file, folder = _located(str(source))
    content = read_file(file)
    if _is_own(content.parts):
        return _from_checkpoint(file)
    tensors, notes = unwrap(content.parts, file)
    if facts := metadata_facts(content.metadata):
        _check(tensors, facts.arguments, str(source))
        return Weights(tensors, *facts, [])
    facts = Facts({}) if folder is None else folder_facts(folder)
    return _from_published(translate(tensors, str(source)), facts, str(source), notes)


def load(source: str | Path) -> Loaded:
    """A model ready to use from Python: of a checkpoint, or of weights from anywhere.

    source: as in :func:`load_weights`. Weights without a head give features and no class names.
    """
    file, _ = _located(str(source))
    if _is_own(read_file(file).parts):
        return checkpointing.load(file)
    weights = load_weights(source)
    model = ViT(**weights.arguments)
    model.load_state_dict(weights.state)
    mean = per_channel("mean", list(weights.mean or IMAGENET_MEAN), model.in_chans)
    std = per_channel("std", list(weights.std or IMAGENET_STD), model.in_chans)
    preprocess = Preprocess(model.in_chans, model.img_size, model.img_size, mean, std)
    return Loaded(model.eval(), preprocess, class_names_of(weights))


def class_names_of(weights: Weights) -> list[str]:
    """Those that came with the weights, else ImageNet's for 1,000 classes, else numbers."""
    count = weights.arguments["num_classes"]
    if weights.class_names is None and count == 1000:
        return find_class_names("imagenet", Path())
    return weights.class_names or [str(label) for label in range(count)]


def _located(source: str) -> tuple[Path, Path | None]:
    """The file of the weights and, where it belongs to a model's folder, the folder."""
    if "://" in source:
        raise InputError(f"{source} is an address; download the file and give its path")
    path = Path(source).expanduser()
    if path.is_file():
        is_model = path.name in WEIGHT_NAMES and (path.parent / CONFIG_NAME).is_file()
        return path, path.parent if is_model else None
    if source in ("best", "last"):
        return checkpointing.resolve(source), None
    folder = path if path.is_dir() else download(source)
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name, folder
    if folder != path or (folder / CONFIG_NAME).is_file():
        raise InputError(f"{source} has no {' and no '.join(WEIGHT_NAMES)}; give another model")
    return checkpointing.resolve(source), None


def _is_own(parts: dict[str, Any]) -> bool:
    """Whether it is a checkpoint of ours; Lightning's of other projects lack the name."""
    state = parts.get("state_dict")
    is_lightning = checkpointing.MODEL in parts and checkpointing.DATA in parts
    return is_lightning and isinstance(state, dict) and any(map(OWN.match, state))


def _from_checkpoint(file: Path) -> Weights:
    content = checkpointing.read(file)
    settings = content[checkpointing.MODEL]
    known = inspect.signature(ViT).parameters.keys()
    arguments = {name: value for name, value in settings.items() if name in known}
    tensors, _ = unwrap({"state_dict": content["state_dict"]}, file)
    state = {
        name.removeprefix("vit."): value
        for name, value in tensors.items()
        if name.startswith("vit.")
    }
    _check(state, arguments, str(file))
    data = ImageData(**content[checkpointing.DATA])
    mean, std, names = data.preprocess.mean, data.preprocess.std, list(data.class_names)
    if data.preprocess.invert:
        mean = tuple(1 - value for value in mean)
    return Weights(state, arguments, mean, std, names, [], data.preprocess.invert)


def _from_published(translated: Translated, facts: Facts, source: str, notes: list[str]) -> Weights:
    state, kind = translated.state, translated.format
    notes = notes + translated.notes
    told = {"norm_eps": kind.norm_eps, "act": kind.act} | facts.arguments
    if translated.num_heads is not None:
        told["num_heads"] = translated.num_heads
    arguments: dict[str, Any] = told | _inferred(state, told, source, notes)
    for name in ("norm_eps", "act"):
        if name not in facts.arguments:
            notes.append(f"{name} {told[name]} assumed, as {kind.name}'s models have")
    _check(state, arguments, source)
    channels, classes = arguments["in_chans"], arguments["num_classes"]
    mean, std = _of_length(channels, facts.mean), _of_length(channels, facts.std)
    if mean is None or std is None:
        mean, std = _of_length(channels, kind.mean), _of_length(channels, kind.std)
    if mean is None:
        notes.append("the weights do not tell the mean and std of the images they were trained on")
    names = facts.class_names if facts.class_names and len(facts.class_names) == classes else None
    return Weights(state, arguments, mean, std, names, notes)


def _of_length(count: int, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return values if values is not None and len(values) == count else None


def _shape(state: dict[str, Tensor], name: str, ndim: int, source: str) -> list[int]:
    if name not in state or state[name].ndim != ndim or 0 in state[name].shape:
        raise InputError(f"{source} has no usable {name}; it is cut short or of another model")
    return list(state[name].shape)


def _inferred(
    state: dict[str, Tensor], told: dict[str, Any], source: str, notes: list[str]
) -> dict[str, Any]:
    """ViT's arguments from names and shapes; completes ``state["pos_embed"]`` in place."""
    width, channels, patch, across = _shape(state, FILTERS, 4, source)
    if patch != across:
        raise InputError(f"{source} has patches of {patch}x{across} pixels; they must be square")
    hidden = _shape(state, "blocks.0.mlp.fc1.weight", 2, source)[0]
    has_class_token, has_fc_norm = "cls_token" in state, "fc_norm.weight" in state
    registers = _shape(state, "reg_token", 3, source)[1] if "reg_token" in state else 0
    pool = told.get("global_pool")
    if pool not in ("token", "avg") or not has_class_token:
        pool = "avg" if has_fc_norm or not has_class_token else "token"
    num_heads = told.get("num_heads")
    if num_heads is None:
        num_heads = HEADS.get(width, max(1, width // 64))
        notes.append(
            f"num_heads {num_heads} assumed, as published models of width {width} have; "
            f"the weights do not tell"
        )
    return {
        "img_size": _img_size(state, told, patch, source, notes),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": _shape(state, "head.weight", 2, source)[0] if "head.weight" in state else 0,
        "embed_dim": width,
        "depth": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "num_heads": num_heads,
        "mlp_ratio": _ratio(hidden, width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "pos_embed": "learn" if "pos_embed" in state else "none",
        "global_pool": pool,
        # unset where they follow from global_pool, so that they follow another one too
        "class_token": None if has_class_token == (pool == "token") else has_class_token,
        "reg_tokens": registers,
        "fc_norm": None if has_fc_norm == (pool == "avg") else has_fc_norm,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in state else None,
    }


def _ratio(hidden: int, width: int) -> float:
    """The ratio from which ViT computes ``hidden`` again, whatever the rounding."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _img_size(
    state: dict[str, Tensor], told: dict[str, Any], patch: int, source: str, notes: list[str]
) -> int | list[int]:
    """Image size in pixels: as told where that fits the positions, else of a square grid."""
    size = told.get("img_size")
    if "pos_embed" not in state:
        if told.get("pos_embed") != "none":  # not to be taken for rotary positions
            raise InputError(f"{source} has no learned positions, which the model needs")
        if size is None:
            notes.append(f"img_size {USUAL_SIZE} assumed; without positions the weights fit any")
        return USUAL_SIZE if size is None else size
    rows = _shape(state, "pos_embed", 3, source)[1]
    class_token = int("cls_token" in state)
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    counts = (rows - class_token - registers, rows - class_token, rows)
    grids = [(math.isqrt(count), math.isqrt(count)) for count in counts if count > 0]
    if size is not None:
        high, wide = pair(size)
        grids.insert(0, (high // patch, wide // patch))
    for high, wide in grids:
        complete = positions_with_prefix(
            state["pos_embed"], patches=high * wide, class_token=class_token, reg_tokens=registers
        )
        if complete is not None and high * wide:
            state["pos_embed"] = complete
            return high * patch if high == wide else [high * patch, wide * patch]
    raise InputError(
        f"the {rows} positions of {source} are no square grid; give the folder of the model, "
        f"whose config.json tells the image size"
    )


def _check(state: dict[str, Tensor], arguments: dict[str, Any], source: str) -> None:
    """Refuse weights that are not exactly those of the model that the arguments describe."""
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if arguments.get("depth", depth) != depth:  # before a model of any depth is built
        raise InputError(f"{source} has {depth} blocks, but says depth {arguments['depth']}")
    try:
        with torch.device("meta"):
            wanted = {name: value.shape for name, value in ViT(**arguments).state_dict().items()}
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{source} describes a model that cannot be: {reason}") from error
    missing = wanted.keys() - state.keys()
    unknown = [name for name in state if name not in wanted]
    if unknown:
        raise InputError(
            f"{source} has parts that this Vision Transformer has not: {listed(unknown)}"
        )
    if missing:
        raise InputError(f"{source} lacks {listed(sorted(missing))}; is it complete?")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise InputError(
                f"{name} of {source} is {list(state[name].shape)}, where its other parts need "
                f"{list(shape)}"
            )
