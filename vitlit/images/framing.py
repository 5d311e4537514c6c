"""How an image is fitted to a model's input: what is kept, stretched, cut off or padded.

(h, w) of an image, (H, W) of the input -> (h', w') to resize it to, of which the centre is taken
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from vitlit.errors import InputError

Fit = Literal["cover", "squash", "letterbox"]
Interpolation = Literal["bicubic", "bilinear"]
Size = tuple[int, int]  # height, width
MIN_CROP_FRACTION = 0.1  # published weights have 0.8 to 1; a tiny one would resize to a huge image


@dataclass(frozen=True)
class Framing:
    """How images are fitted; the defaults are those of models that are trained from scratch.

    fit: cover scales the image until it covers the input and cuts off what is outside; squash
    stretches it to the input; letterbox scales it until it lies inside, and pads. crop_fraction:
    the image is fitted to an input larger by this factor, of which the centre is cut out. fill:
    colour 0..255 of the padding, one for each channel.
    """

    fit: Fit = "cover"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bicubic"
    fill: tuple[int, ...] = (0,)

    def check(self) -> None:
        """Raise InputError for an unknown word, and a crop_fraction that leaves next to nothing."""
        for name, known in (("fit", Fit), ("interpolation", Interpolation)):
            if getattr(self, name) not in get_args(known):
                words = ", ".join(get_args(known))
                message = f"unknown {name} {getattr(self, name)!r}; known: {words}"
                raise InputError(message, argument=name)
        if not MIN_CROP_FRACTION <= self.crop_fraction <= 1:
            raise InputError(
                f"crop_fraction {self.crop_fraction} is not from {MIN_CROP_FRACTION} to 1; 1 cuts "
                f"no margin off",
                argument="crop_fraction",
            )

    def fitted_to(self, size: Size) -> Size:
        """What an image is fitted to before the centre ``size`` is cut out."""
        # as in timm; the small summand undoes the rounding of a fraction such as 378 / 384
        height, width = (math.floor(side / self.crop_fraction + 1e-6) for side in size)
        return height, width

    def resized(self, shape: Size, size: Size) -> Size:
        """The size that an image of ``shape`` is resized to, for an input of ``size``."""
        (rows, cols), (height, width) = shape, self.fitted_to(size)
        if self.fit == "squash":
            return height, width
        # the side that has the smaller scale is cut or padded, the other one fits exactly
        fits_height = rows * width <= cols * height
        if self.fit == "letterbox":
            if fits_height:
                return max(1, round(rows * width / cols)), width
            return height, max(1, round(cols * height / rows))
        # rounded down as by torchvision's Resize
        return (height, cols * height // rows) if fits_height else (rows * width // cols, width)

    def describe(self, size: Size) -> str:
        """In words, for an input of ``size``."""
        high, wide = self.fitted_to(size)
        how = {
            "cover": f"scaled to cover {high}x{wide}",
            "squash": f"stretched to {high}x{wide}",
            "letterbox": f"scaled to fit into {high}x{wide}",
        }
        last = ", then the centre cut out"
        if self.fit == "letterbox":
            colour = ", ".join(map(str, self.fill))
            last = f", then padded with the colour {colour}{last if size != (high, wide) else ''}"
        elif self.fit == "squash" and size == (high, wide):
            last = ""
        return f"{how[self.fit]}, {self.interpolation} and antialiased{last}"


PLAIN_FRAMING = Framing()


def padded_with_mean(framing: Framing, mean: tuple[float, ...]) -> Framing:
    """The same for a model whose pixels in [0, 1] have this mean: padding is 0 once normalised."""
    if framing.fit != "letterbox":  # a colour that is not used must not part two caches
        return framing
    return replace(framing, fill=tuple(round(255 * min(max(value, 0.0), 1.0)) for value in mean))
