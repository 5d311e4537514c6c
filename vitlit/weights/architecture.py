"""The arguments of a ViT, inferred from the names and shapes of weights.

{timm's name: tensor}, what the source tells, what the user gives -> ViT's arguments
"""

import math
import re
from typing import Any

import torch
from torch import Tensor

from vitlit.errors import InputError, first_few
from vitlit.model.vit import ViT
from vitlit.patches import pair
from vitlit.weights.key_mapping import FILTERS_KEY, WeightFormat, positions_with_prefix

# embed_dim -> heads of published models whose heads are not 64 wide: so400m, huge, giant, gigantic
PUBLISHED_NUM_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
DEFAULT_IMG_SIZE = 224  # pixels, if neither positions nor settings tell
FIRST_MLP_KEY = "blocks.0.mlp.fc1.weight"
UNTOLD_POOL = (
    "global_pool token assumed, since the weights have a class token and no fc_norm; if the model "
    "averages its patches, the outputs are wrong: give the folder of the model, whose config.json "
    "tells it, or global_pool avg, class_token true and fc_norm false"
)
KNOWN_KEYS = re.compile(  # of a plain ViT; only for the message that refuses another architecture
    r"(cls_token|reg_token|pos_embed|patch_embed\.proj\.(weight|bias)"
    r"|(fc_norm|norm|head)\.(weight|bias)"
    r"|blocks\.\d+\.((norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)|ls[12]\.gamma))"
)


def infer_arguments(
    state: dict[str, Tensor],
    told: dict[str, Any],
    given: dict[str, Any],
    kind: WeightFormat,
    source: str,
    notes: list[str],
) -> dict[str, Any]:
    """ViT's arguments from names and shapes; completes ``state["pos_embed"]`` in place.

    told: what the source's settings say; given: what the user says, used where the source is
    silent; notes: a line is added for each assumption. Raises InputError if no plain ViT fits.
    """
    width, channels, patch, across = _shape(state, FILTERS_KEY, 4, source)
    if patch != across:
        raise InputError(f"{source} has patches of {patch}x{across} pixels; they must be square")
    if FIRST_MLP_KEY not in state:
        _refuse_other(state, source)
    hidden = _shape(state, FIRST_MLP_KEY, 2, source)[0]
    has_class_token, has_fc_norm = "cls_token" in state, "fc_norm.weight" in state
    registers = _shape(state, "reg_token", 3, source)[1] if "reg_token" in state else 0
    pool = told.get("global_pool")
    # timm's other poolings ("", "map", ...) are no part of a plain ViT: the weights decide then
    if pool not in ("token", "avg") or not has_class_token:
        pool = "avg" if has_fc_norm or not has_class_token else "token"
        # timm's models with norm before the average have the very same weights
        if pool == "token" and kind.name == "timm" and "global_pool" not in given:
            notes.append(UNTOLD_POOL)
    return {
        "img_size": _img_size(state, (told, given), patch, kind, source, notes),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": _shape(state, "head.weight", 2, source)[0] if "head.weight" in state else 0,
        "embed_dim": width,
        "depth": _depth(state),
        "num_heads": _num_heads(told, given, width, notes),
        "mlp_ratio": _ratio(hidden, width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "pos_embed": "learn" if "pos_embed" in state else "none",
        "global_pool": pool,
        # None where it follows from global_pool, so that it changes if the user changes that
        "class_token": None if has_class_token == (pool == "token") else has_class_token,
        "reg_tokens": registers,
        "fc_norm": None if has_fc_norm == (pool == "avg") else has_fc_norm,
        # the first value of LayerScale is lost in training; any number makes ViT have the parameter
        "init_values": told.get("init_values", 1e-5) if "blocks.0.ls1.gamma" in state else None,
    }


def _shape(state: dict[str, Tensor], name: str, ndim: int, source: str) -> list[int]:
    """The shape of a tensor; refuses a tensor that is missing, empty or of other dimensions."""
    if name not in state or state[name].ndim != ndim or 0 in state[name].shape:
        raise InputError(f"{source} has no usable {name}; it is cut short or of another model")
    return list(state[name].shape)


def _depth(state: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio from which ViT computes exactly ``hidden`` again."""
    ratio = hidden / width
    # ViT truncates width * ratio, which may round to just below hidden; half a unit more does not
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _num_heads(
    told: dict[str, Any], given: dict[str, Any], width: int, notes: list[str]
) -> int | Any:
    """The heads as told or given; no shape shows them, so else those of published models."""
    for known in (told, given):
        if known.get("num_heads") is not None:
            return known["num_heads"]
    # ViT, DeiT and DINO have heads 64 wide
    num_heads = PUBLISHED_NUM_HEADS.get(width, max(1, width // 64))
    notes.append(
        f"num_heads {num_heads} assumed, as in published models of width {width}, since the "
        f"weights do not tell; if it is another number, the outputs are wrong: give num_heads"
    )
    return num_heads


def _img_size(
    state: dict[str, Tensor],
    known: tuple[dict[str, Any], dict[str, Any]],
    patch: int,
    kind: WeightFormat,
    source: str,
    notes: list[str],
) -> int | list[int]:
    """Image size in pixels: as told or given if that fits the positions, else that of a square."""
    told, given = (values.get("img_size") for values in known)
    if "pos_embed" not in state:
        # weights with rotary positions have no table either, and would load but compute nonsense
        if known[0].get("pos_embed") != "none":
            _refuse_other(state, source)
        size = told if told is not None else given
        if size is None:
            notes.append(
                f"img_size {DEFAULT_IMG_SIZE} assumed; without positions the weights fit any"
            )
        return DEFAULT_IMG_SIZE if size is None else size
    _shape(state, "pos_embed", 3, source)
    for size in (told, given):
        grid = _grid(size, patch)
        if grid is not None and _complete_positions(state, *grid):
            if size is not told:
                _note_given(grid, patch, notes)
            return _grid_pixels(*grid, patch)
    if told is not None:
        notes.append(f"the image size {told} in the model's settings does not fit its positions")
    side = _square_side(state, patch, kind, source, given)
    prefix = state["pos_embed"].shape[1] - side**2  # before rows of zeros are added
    _complete_positions(state, side, side)
    alone = "" if prefix or "cls_token" not in state else ", with none for the class token"
    notes.append(
        f"img_size {side * patch} assumed: the positions fit a square of {side}x{side} "
        f"patches{alone}"
    )
    return side * patch


def _grid(size: Any, patch: int) -> tuple[int, int] | None:
    """Patches down and across of an image size in pixels; None for less than one patch."""
    if size is None:
        return None
    high, wide = pair(size)
    return (high // patch, wide // patch) if min(high, wide) >= patch else None


def _grid_pixels(high: int, wide: int, patch: int) -> int | list[int]:
    return high * patch if high == wide else [high * patch, wide * patch]


def _complete_positions(state: dict[str, Tensor], high: int, wide: int) -> bool:
    """Give each prefix token a row in the positions if they fit the grid; returns whether."""
    class_token, registers = _prefix_counts(state)
    complete = positions_with_prefix(
        state["pos_embed"], patches=high * wide, class_token=class_token, reg_tokens=registers
    )
    if complete is not None:
        state["pos_embed"] = complete
    return complete is not None


def _prefix_counts(state: dict[str, Tensor]) -> tuple[int, int]:
    """Class tokens (0 or 1) and registers."""
    return int("cls_token" in state), state["reg_token"].shape[1] if "reg_token" in state else 0


def _note_given(grid: tuple[int, int], patch: int, notes: list[str]) -> None:
    """Tell that a given rectangle was used where a square would have fitted too."""
    count, side = math.prod(grid), math.isqrt(math.prod(grid))
    if grid[0] != grid[1] and side**2 == count:
        notes.append(
            f"img_size {_grid_pixels(*grid, patch)} taken for the weights' own: their {count} "
            f"positions are read as {grid[0]}x{grid[1]} patches, though {side}x{side} fits too"
        )


def _square_side(
    state: dict[str, Tensor], patch: int, kind: WeightFormat, source: str, given: Any
) -> int:
    """Side in patches of the square grid that the positions belong to.

    A class token is assumed to have a position, unless the weights point to a model that gives it
    none: by registers, by LayerScale (DeiT III) or by the format of Google's big_vision.
    """
    rows, (class_token, registers) = state["pos_embed"].shape[1], _prefix_counts(state)
    patches = rows - class_token - registers
    counts = [patches]  # in the order tried: numbers of patches if all, one or no prefix tokens
    if registers:  # have positions; DINOv2 gives none to registers
        counts.append(rows - class_token)
    if registers or "blocks.0.ls1.gamma" in state or not kind.class_positions:
        counts.append(rows)
    for count in counts:
        if count > 0 and math.isqrt(count) ** 2 == count:
            return math.isqrt(count)
    side = math.isqrt(rows)  # for the hint: a square if the class token had no position
    other = f" ({side * patch} if the class token has no position)" if side**2 == rows else ""
    tried = "" if given is None else f", and do not fit img_size {given} either"
    raise InputError(
        f"the {rows} positions of {source} are no square grid: they are {patches} patches of "
        f"{patch}x{patch} pixels beside the class token and registers{tried}; give the image size "
        f"of the weights, img_size '[H,W]'{other}, or the folder of the model, whose config.json "
        f"tells it",
        argument="img_size",
    )


def _refuse_other(state: dict[str, Tensor], source: str) -> None:
    """Refuse another architecture by the names that are foreign and those that are missing."""
    foreign = [name for name in state if not KNOWN_KEYS.fullmatch(name)]
    wanted = {"blocks.0.mlp": FIRST_MLP_KEY, "learned positions (pos_embed)": "pos_embed"}
    lacks = " and no ".join(what for what, name in wanted.items() if name not in state)
    if not foreign:
        raise InputError(f"{source} has no {lacks}; it is cut short or of another model")
    raise InputError(
        f"{source} is of another architecture than this Vision Transformer: it has "
        f"{first_few(foreign)}, but no {lacks}; give weights of a plain ViT, DeiT or DINO"
    )


def check_weights(state: dict[str, Tensor], arguments: dict[str, Any], source: str) -> None:
    """Refuse weights that are not exactly those of the model that the arguments describe."""
    depth = _depth(state)
    if arguments.get("depth", depth) != depth:  # before a model of any depth is built
        raise InputError(
            f"{source} has {depth} blocks, but says depth {arguments['depth']}; it is damaged, "
            f"use another"
        )
    try:
        # shapes alone: a broken file may describe a model that no memory holds
        with torch.device("meta"):
            wanted = {name: value.shape for name, value in ViT(**arguments).state_dict().items()}
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{source} describes an impossible model: {reason}") from error
    missing = wanted.keys() - state.keys()
    unknown = [name for name in state if name not in wanted]
    if unknown:
        raise InputError(
            f"{source} has parts that this Vision Transformer lacks: {first_few(unknown)}"
        )
    if missing:
        raise InputError(f"{source} lacks {first_few(sorted(missing))}; is it complete?")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise InputError(
                f"{name} of {source} has shape {list(state[name].shape)}, but its other parts "
                f"need {list(shape)}"
            )


def check_finite(state: dict[str, Tensor], source: str) -> None:
    """Refuse weights that hold NaN or infinity, by the name of the first tensor."""
    for name, value in state.items():
        if bad := int(value.numel() - value.isfinite().sum()):
            raise InputError(
                f"{name} of {source} holds {bad} numbers that are NaN or infinite; the weights are "
                f"broken: use others"
            )
