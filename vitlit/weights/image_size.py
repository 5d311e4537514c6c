"""The image size of weights, from their positions and from what is told.

positions (1, R, D), settings -> pixels
"""

import math
from typing import Any

from torch import Tensor

from vitlit.errors import InputError
from vitlit.patches import pair
from vitlit.weights.key_mapping import positions_with_prefix
from vitlit.weights.weight_formats import WeightFormat

DEFAULT_IMG_SIZE = 224  # pixels, if neither positions nor settings tell


def image_size(
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
        size = told if told is not None else given
        if size is None:
            notes.append(
                f"img_size {DEFAULT_IMG_SIZE} assumed; without positions the weights fit any"
            )
        return DEFAULT_IMG_SIZE if size is None else size
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
        f"the {rows} positions of {source} form no square grid: they are {patches} patches of "
        f"{patch}x{patch} pixels beside the class token and registers{tried}; give the image size "
        f"of the weights as img_size, height and width{other}, or the folder of the model, whose "
        f"config.json states it",
        argument="img_size",
    )
