"""What all pages share: their style, a head that loads nothing, and pictures inside the HTML.

facts by name -> items of a list; image (C, H, W) -> ``<img>``; values -> JSON in HTML
"""

import base64
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
MAX_SQUARE_PIXELS = 128  # up to this width or height the pixels of an image are shown as squares
# Colours and type of every page, before the style of its own; in light and in dark.
PAGE_STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f4f5f7; --ink: #1b1e23; --soft: #5a616b; --line: #d5d9df;
  --accent: #0072b2; --warm: #d55e00; --warning: #a84300;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --panel: #1f242a; --ink: #e8eaed; --soft: #a3abb5; --line: #3a414a;
    --accent: #6cb6e8; --warm: #f0894a; --warning: #f0894a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 66rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .7rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; }
.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: 0; font-size: .9rem; }
.facts div { display: flex; gap: .45rem; min-width: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.notice { padding: .7rem 1rem; border-left: 4px solid var(--warm); background: var(--panel); }
.aside { color: var(--soft); font-size: .875rem; }
svg text { fill: var(--soft); font-size: 12px; }
svg .x { text-anchor: middle; }
svg .y { text-anchor: end; dominant-baseline: middle; }
svg .grid { stroke: var(--line); }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; font-weight: normal; }
th { color: var(--soft); }
"""
PAGE_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src {images}; style-src 'unsafe-inline'; {scripts}\
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>"""


def read_asset(name: str) -> str:
    """The text of a part of a page, a file beside our modules: ``explain/page.css`` and so on."""
    return files("vitlit").joinpath(name).read_text(encoding="utf-8")


def page_head(title: str, style: str, *, scripts: str = "", images: str = "data:") -> str:
    """The head of a page that loads nothing from anywhere, in HTML.

    title: shown by the browser; style: the page's own, after :data:`PAGE_STYLE`; scripts and
    images: what its security policy allows besides, ``"script-src 'unsafe-inline'; "`` and so on.
    """
    return PAGE_HEAD.format(
        title=escape(title), style=PAGE_STYLE + style, scripts=scripts, images=images
    )


def facts_part(facts: Mapping[str, str]) -> str:
    """The items of a list of facts, in HTML."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd><bdi>{escape(value)}</bdi></dd></div>"
        for name, value in facts.items()
    )


def html_json(values: Any) -> str:
    """JSON in ASCII, safe inside HTML whatever names it contains."""
    text = json.dumps(values, separators=(",", ":"))
    # a name such as </script> would end the element; escaped, JSON reads the same
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def image_uri(pixels: Bytes, kind: str = "png") -> str:
    """Pixels ``(H, W, C)`` -> a URI that contains the image: data:image/png;base64,..."""
    # inside the page, whose security policy allows no other images
    from PIL import Image

    stream = BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(stream, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def shows_squares(image: Tensor) -> bool:
    """Whether an image ``(C, H, W)`` is so small that its pixels are shown as squares."""
    return max(image.shape[1:]) <= MAX_SQUARE_PIXELS


def picture_uri(image: Tensor) -> str:
    """An image, uint8 ``(C, H, W)``, as a URI that contains it: grey or RGB, others in grey."""
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    if pixels.shape[2] not in (1, 3):
        pixels = pixels.mean(axis=2, keepdims=True).astype("uint8")
    # enlarged squares would show the artefacts of JPEG
    return image_uri(pixels, "png" if shows_squares(image) else "jpeg")


def image_element(image: Tensor) -> str:
    """An ``<img>`` of an image ``(C, H, W)`` in [0, 1]."""
    square = ' class="square"' if shows_squares(image) else ""
    return f'<img alt=""{square} src="{picture_uri((image * 255).round().byte())}">'
