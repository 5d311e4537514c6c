"""Preprocessing as steps of an ONNX graph, in ONNX's own text format.

image uint8 (h, w, 3) -> images float (1, C, H, W), normalised

The steps are those of images/image_io.py and images/preprocess.py; all sizes are computed from the
shape of the picture, while the program runs. Names begin with pp_, which no model's have.
"""

import re

from vitlit.deploy.portable import Portable
from vitlit.images.image_io import MAX_SURPLUS
from vitlit.images.preprocess import Preprocess


def preprocessing_text(portable: Portable, preprocess: Preprocess) -> str:
    """image (h, w, 3) -> images (1, C, H, W), in ONNX's text format."""
    (height, width), channels = preprocess.img_size, portable.model.in_chans
    steps = [
        *_middle(preprocess),
        *_planes(channels),
        *_resized_size(preprocess),
        *_fitted(preprocess, channels),
        *_normalised(portable, preprocess),
    ]
    body = "\n".join(f"  {step}" for step in [*_constants(preprocess, " ".join(steps)), *steps])
    return (
        f"\npreprocessing (uint8[height, width, 3] image)"
        f" => (float[1, {channels}, {height}, {width}] images)\n{{\n{body}\n}}"
    )


def numbers(kind: str, *values: float) -> str:
    """A constant: a vector of these values."""
    return f"Constant <value = {kind}[{len(values)}] {{{', '.join(map(repr, values))}}}> ()"


def _constants(preprocess: Preprocess, steps: str) -> list[str]:
    """Those that the steps use: ONNX Runtime warns of others."""
    high, wide = preprocess.framing.fitted_to(preprocess.source_size)
    height, width = preprocess.source_size
    named = {"zero": 0, "one": 1, "two": 2, "three": 3, "h_out": height, "w_out": width}
    named |= {"high": high, "wide": wide, "surplus": MAX_SURPLUS}
    return [
        f"pp_{name} = {numbers('int64', value)}"
        for name, value in named.items()
        if re.search(rf"\bpp_{name}\b", steps)
    ]


def _middle(preprocess: Preprocess) -> list[str]:
    """The middle of a picture that is far longer than the input: image_io._without_ends."""
    sides = ["pp_rows = Shape <start = 0, end = 1> (image)"]
    sides += ["pp_cols = Shape <start = 1, end = 2> (image)"]
    if preprocess.framing.fit != "cover":
        return [*sides, "pp_part = Identity (image)"]
    return [
        *sides,
        *_surplus("rows", "cols", "h_out", "w_out"),
        *_surplus("cols", "rows", "w_out", "h_out"),
        "pp_start = Concat <axis = 0> (pp_cut_rows, pp_cut_cols)",
        "pp_end_rows = Sub (pp_rows, pp_cut_rows)",
        "pp_end_cols = Sub (pp_cols, pp_cut_cols)",
        "pp_end = Concat <axis = 0> (pp_end_rows, pp_end_cols)",
        "pp_axes = Concat <axis = 0> (pp_zero, pp_one)",
        "pp_part = Slice (image, pp_start, pp_end, pp_axes)",
    ]


def _surplus(long: str, short: str, long_out: str, short_out: str) -> list[str]:
    """What is cut off at each end: half of what exceeds MAX_SURPLUS inputs side by side."""
    return [
        f"pp_{long}_product = Mul (pp_{short}, pp_{long_out})",
        f"pp_{long}_more = Sub (pp_{short_out}, pp_one)",
        f"pp_{long}_up = Add (pp_{long}_product, pp_{long}_more)",
        f"pp_{long}_fit = Div (pp_{long}_up, pp_{short_out})",  # rounded up
        f"pp_{long}_most = Mul (pp_{long}_fit, pp_surplus)",
        f"pp_{long}_over = Sub (pp_{long}, pp_{long}_most)",
        f"pp_{long}_extra = Max (pp_{long}_over, pp_zero)",
        f"pp_cut_{long} = Div (pp_{long}_extra, pp_two)",
    ]


def _planes(channels: int) -> list[str]:
    """Channels first; grey by Pillow's integers, before anything is resized."""
    if channels == 3:
        found = ["pp_chw = Transpose <perm = [2, 0, 1]> (pp_part)"]
        return [*found, "pp_planes = Unsqueeze (pp_chw, pp_zero)"]
    return [
        "pp_wide_ints = Cast <to = 6> (pp_part)",  # int32
        f"pp_luma = {numbers('int32', 19595, 38470, 7471)}",
        "pp_weighted = Mul (pp_wide_ints, pp_luma)",
        "pp_sum = ReduceSum <keepdims = 0> (pp_weighted, pp_two)",
        f"pp_half = {numbers('int32', 32768)}",
        "pp_rounding = Add (pp_sum, pp_half)",
        f"pp_shift = {numbers('int32', 65536)}",
        "pp_grey_ints = Div (pp_rounding, pp_shift)",
        "pp_grey = Cast <to = 2> (pp_grey_ints)",  # uint8
        "pp_front = Concat <axis = 0> (pp_zero, pp_one)",
        "pp_planes = Unsqueeze (pp_grey, pp_front)",
    ]


def _resized_size(preprocess: Preprocess) -> list[str]:
    """The size to resize to, as in Framing.resized: pp_size (rows, cols)."""
    if preprocess.framing.fit == "squash":
        return ["pp_size = Concat <axis = 0> (pp_high, pp_wide)"]
    lines = [
        "pp_all_rows = Shape <start = 2, end = 3> (pp_planes)",
        "pp_all_cols = Shape <start = 3, end = 4> (pp_planes)",
        "pp_tall = Mul (pp_all_rows, pp_wide)",
        "pp_broad = Mul (pp_all_cols, pp_high)",
        "pp_fits_height = LessOrEqual (pp_tall, pp_broad)",
    ]
    if preprocess.framing.fit == "cover":  # rounded down
        lines += ["pp_new_cols = Div (pp_broad, pp_all_rows)"]
        lines += ["pp_new_rows = Div (pp_tall, pp_all_cols)"]
        by_height, by_width = "pp_high, pp_new_cols", "pp_new_rows, pp_wide"
    else:
        lines += _rounded_quotient("rows", "pp_tall", "pp_all_cols")
        lines += _rounded_quotient("cols", "pp_broad", "pp_all_rows")
        by_height, by_width = "pp_new_rows, pp_wide", "pp_high, pp_new_cols"
    return [
        *lines,
        f"pp_by_height = Concat <axis = 0> ({by_height})",
        f"pp_by_width = Concat <axis = 0> ({by_width})",
        "pp_size = Where (pp_fits_height, pp_by_height, pp_by_width)",
    ]


def _rounded_quotient(name: str, above: str, below: str) -> list[str]:
    """pp_new_{name}: at least 1, halves to the even number as in Python."""
    return [
        f"pp_{name}_above = Cast <to = 11> ({above})",  # float64
        f"pp_{name}_below = Cast <to = 11> ({below})",
        f"pp_{name}_quotient = Div (pp_{name}_above, pp_{name}_below)",
        f"pp_{name}_near = Round (pp_{name}_quotient)",
        f"pp_{name}_whole = Cast <to = 7> (pp_{name}_near)",  # int64
        f"pp_new_{name} = Max (pp_{name}_whole, pp_one)",
    ]


def _fitted(preprocess: Preprocess, channels: int) -> list[str]:
    """pp_fitted: float (1, C, H, W) of source_size; resized, padded, the centre cut out."""
    mode = {"bicubic": "cubic", "bilinear": "linear"}[preprocess.framing.interpolation]
    lines = [
        f"pp_lead = {numbers('int64', 1, channels)}",
        "pp_sizes = Concat <axis = 0> (pp_lead, pp_size)",
        f'pp_small = Resize <mode = "{mode}", cubic_coeff_a = -0.5, antialias = 1, '
        f'coordinate_transformation_mode = "half_pixel", exclude_outside = 1> '
        f"(pp_planes, , , pp_sizes)",
        "pp_resized = Cast <to = 1> (pp_small)",  # float32
        "pp_out = Concat <axis = 0> (pp_h_out, pp_w_out)",
        "pp_spatial = Concat <axis = 0> (pp_two, pp_three)",
    ]
    padded = "pp_resized"
    if preprocess.framing.fit == "letterbox":
        padded = "pp_padded"
        colours = [float(value) for value in preprocess.framing.fill]
        lines += [
            "pp_missing = Sub (pp_out, pp_size)",
            f"pp_none = {numbers('int64', 0, 0)}",
            "pp_margin = Max (pp_missing, pp_none)",
            "pp_pad_start = Div (pp_margin, pp_two)",
            "pp_pad_end = Sub (pp_margin, pp_pad_start)",
            "pp_pads = Concat <axis = 0> (pp_none, pp_pad_start, pp_none, pp_pad_end)",
            f"pp_fill_row = {numbers('float', *colours)}",
            f"pp_fill_shape = {numbers('int64', 1, len(colours), 1, 1)}",
            "pp_fill = Reshape (pp_fill_row, pp_fill_shape)",
            "pp_above = Sub (pp_resized, pp_fill)",  # so that padding with 0 is the colour
            "pp_wider = Pad (pp_above, pp_pads)",
            "pp_padded = Add (pp_wider, pp_fill)",
        ]
    return [
        *lines,
        f"pp_whole = Shape <start = 2, end = 4> ({padded})",
        "pp_spare = Sub (pp_whole, pp_out)",
        "pp_spare_float = Cast <to = 1> (pp_spare)",
        f"pp_halves = {numbers('float', 0.5)}",
        "pp_middle = Mul (pp_spare_float, pp_halves)",
        "pp_offset = Round (pp_middle)",  # halves to the even number, as in Python
        "pp_from = Cast <to = 7> (pp_offset)",
        "pp_to = Add (pp_from, pp_out)",
        f"pp_fitted = Slice ({padded}, pp_from, pp_to, pp_spatial)",
    ]


def _normalised(portable: Portable, preprocess: Preprocess) -> list[str]:
    """images: of img_size, resized once more if files are read in another size, normalised."""
    height, width = preprocess.img_size
    channels = portable.model.in_chans
    lines = ["pp_sized = Identity (pp_fitted)"]
    if preprocess.source_size != preprocess.img_size:
        lines = [
            f"pp_model_size = {numbers('int64', 1, channels, height, width)}",
            'pp_sized = Resize <mode = "linear", antialias = 1, exclude_outside = 1, '
            'coordinate_transformation_mode = "half_pixel"> (pp_fitted, , , pp_model_size)',
        ]
    scale = [1 / (255 * value) for value in portable.std]
    shift = [-mean / std for mean, std in zip(portable.mean, portable.std, strict=True)]
    return [
        *lines,
        f"pp_scale_row = {numbers('float', *scale)}",
        f"pp_shift_row = {numbers('float', *shift)}",
        f"pp_shape = {numbers('int64', 1, channels, 1, 1)}",
        "pp_scale = Reshape (pp_scale_row, pp_shape)",
        "pp_add = Reshape (pp_shift_row, pp_shape)",
        "pp_scaled = Mul (pp_sized, pp_scale)",
        "images = Add (pp_scaled, pp_add)",
    ]
