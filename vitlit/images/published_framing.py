"""How published weights had their images fitted, in the words of timm and transformers.

timm's pretrained_cfg | transformers' preprocessor_config.json <-> Framing
"""

from typing import Any, get_args

from vitlit.errors import InputError
from vitlit.images.framing import MIN_CROP_FRACTION, Fit, Framing, Interpolation, Size

TIMM_MODES: dict[str, Fit] = {"center": "cover", "squash": "squash", "border": "letterbox"}
TIMM_CROP_FRACTION = 0.875  # where the settings name none
RESAMPLING: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# Older files give one number as the size, which these processors read as the shorter side.
SHORTER_SIDE_KINDS = ("CLIP", "ChineseCLIP", "Bit", "LevitImage")
# Of processors that name no resampling: these have bilinear, others bicubic.
BILINEAR_KINDS = ("ViT", "DINOv3ViT")


def framing_of_timm(settings: dict[str, Any]) -> Framing:
    """What timm's ``create_transform`` does for these settings; Lanczos becomes bicubic."""
    fraction = settings.get("crop_pct") or TIMM_CROP_FRACTION
    mode = TIMM_MODES.get(str(settings.get("crop_mode")), "cover")
    bilinear = settings.get("interpolation") == "bilinear"
    return Framing(mode, _fraction(fraction, "crop_pct"), "bilinear" if bilinear else "bicubic")


def framing_of_processor(settings: dict[str, Any]) -> Framing | None:
    """What an image processor of transformers does; None if the settings do not say it."""
    kind = str(settings.get("image_processor_type", settings.get("feature_extractor_type", "")))
    size, crop = settings.get("size"), settings.get("crop_size")
    if settings.get("do_resize") is False or size is None:
        return None
    is_shorter = isinstance(size, dict) and "shortest_edge" in size
    is_shorter |= isinstance(size, int) and kind.startswith(SHORTER_SIDE_KINDS)
    side, cut = _side(size), _side(crop)
    if side is None:
        return None
    fraction = 1.0
    if cut is not None and settings.get("do_center_crop", True):
        fraction = _fraction(min(1.0, cut / side), "crop_size / size")
    usual: Interpolation = "bilinear" if kind.startswith(BILINEAR_KINDS) else "bicubic"
    number = settings.get("resample")
    resampling = RESAMPLING.get(number, "bicubic") if type(number) is int else usual
    return Framing("cover" if is_shorter else "squash", fraction, resampling)


def framing_of_words(settings: dict[str, Any]) -> Framing | None:
    """The framing that :func:`framing_words` wrote; None if there is none."""
    fits = [fit for fit in get_args(Fit) if fit == settings.get("fit")]
    ways = [way for way in get_args(Interpolation) if way == settings.get("interpolation")]
    if not fits or not ways:
        return None
    fraction = _fraction(settings.get("crop_fraction", 1.0), "crop_fraction")
    return Framing(fits[0], fraction, ways[0])


def framing_words(framing: Framing) -> dict[str, Any]:
    """The settings of ImageData that give this framing."""
    return {
        "fit": framing.fit,
        "crop_fraction": framing.crop_fraction,
        "interpolation": framing.interpolation,
    }


def timm_settings(framing: Framing) -> dict[str, Any]:
    """The part of timm's pretrained_cfg from which it does the same."""
    modes = {fit: mode for mode, fit in TIMM_MODES.items()}
    return {
        "crop_pct": framing.crop_fraction,
        "crop_mode": modes[framing.fit],
        "interpolation": framing.interpolation,
    }


def processor_settings(framing: Framing, size: Size) -> dict[str, Any]:
    """The part of a preprocessor_config.json from which transformers does the same.

    CLIP's processor cuts out the centre. No processor of a square's kind covers a rectangle, and
    none pads: such images are stretched.
    """
    high, wide = framing.fitted_to(size)
    shape = {"height": size[0], "width": size[1]}
    is_cut = framing.fit == "cover" and size[0] == size[1]
    kind = "CLIPImageProcessor" if is_cut else "ViTImageProcessor"
    target: dict[str, Any] = {"shortest_edge": high} if is_cut else {"height": high, "width": wide}
    if framing.crop_fraction < 1 and not is_cut:
        kind = "DeiTImageProcessor"  # which stretches, then cuts out the centre
    crop = {"do_center_crop": True, "crop_size": shape} if kind != "ViTImageProcessor" else {}
    numbers = {name: number for number, name in RESAMPLING.items()}
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": target,
        **crop,
        "resample": numbers[framing.interpolation],
    }


def processor_difference(framing: Framing, size: Size) -> str | None:
    """What :func:`processor_settings` cannot tell, in words; None if they tell all."""
    if framing.fit == "squash" or (framing.fit == "cover" and size[0] == size[1]):
        return None
    return (
        f"no image processor of transformers prepares images as in training ("
        f"{framing.describe(size)}); preprocessor_config.json stretches them instead"
    )


def _fraction(value: Any, name: str) -> float:
    """The value as a fraction; raises InputError for any other."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not MIN_CROP_FRACTION <= value <= 1:
        raise InputError(
            f"{name} {value!r} in the settings of the weights is not a number from "
            f"{MIN_CROP_FRACTION} to 1; fix the file"
        )
    return float(value)


def _side(size: Any) -> int | None:
    """A side in pixels of a processor's size, None if it tells none."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return size if type(size) is int and size > 0 else None
