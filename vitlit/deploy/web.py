"""A model as one HTML file that computes its answers itself: draw, or open a picture.

Portable, Preprocess -> index.html: settings as JSON, weights deflated in base64, JavaScript

web_model.js computes the forward pass, web_page.js shows it. Weights are the model's parameters in
the order of ``tensors``, as little-endian numbers of which all first bytes come first, then all
second ones, and so on: the bytes that hold the exponents deflate well together. ``numbersOf`` of
web_model.js reads this layout, as ``read_web`` does here.
"""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlit.deploy.portable import Portable
from vitlit.deploy.programs import Program
from vitlit.errors import InputError
from vitlit.html_page import facts_part, html_json, page_head, read_asset
from vitlit.images.framing import Framing
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

WEB_NAME = "index.html"
MAX_PARAMETERS = 12_000_000  # a page of 25 MB; a plain forward pass then takes seconds
# Up to here float32, in which a page has no more than 5 MB; float16 beyond.
MAX_FLOAT32_PARAMETERS = 1_000_000
# of logits, relative to the largest; float16 keeps 11 bits of each weight
MAX_HALF_DIFFERENCE = 1e-2
NOISE_SEED = 20  # of the picture by which a page checks itself
SHOWN_KINDS = {"float16": "16-bit weights", "float32": "32-bit weights"}


def check_web(portable: Portable) -> None:
    """Refuse by name what the page's code does not compute. Raises InputError."""
    told = portable.arguments
    count = sum(value.numel() for value in portable.model.parameters())
    refused = {
        f"attention {told['attention']}": told["attention"] not in ("softmax", "lsa"),
        f"rope {told['rope']}": told["rope"] != "none",
        f"global_pool {told['global_pool']}": told["global_pool"] == "map",
        f"{told['in_chans']} channels": told["in_chans"] not in (1, 3),
        "no head": not portable.class_names,
        f"{count / 1e6:.1f} million parameters, more than {MAX_PARAMETERS / 1e6:.0f} million": (
            count > MAX_PARAMETERS
        ),
    }
    if names := [name for name, is_refused in refused.items() if is_refused]:
        raise InputError(
            f"format web has no models with {' and '.join(names)}; give format onnx, which holds "
            f"any model and also runs in browsers",
            argument="format",
        )


def write_web(portable: Portable, preprocess: Preprocess, path: Path) -> Program:
    """Write the page; the model as it is read back from it."""
    check_web(portable)
    state = portable.model.state_dict()
    count = sum(value.numel() for value in state.values())
    kind = "float32" if count <= MAX_FLOAT32_PARAMETERS else "float16"
    settings = _settings(portable, preprocess, kind, state)
    packed = _packed(state, kind)
    model = _model_of(settings, packed)
    settings["check"] = {"seed": NOISE_SEED, "logits": _noise_logits(model, portable, preprocess)}
    page = Template(read_asset("deploy/web.html")).substitute(
        head=page_head(
            "Try the model",
            read_asset("deploy/web.css"),
            scripts="script-src 'unsafe-inline' blob:; worker-src blob:; ",
            images="data: blob:",
        ),
        settings=html_json(settings),
        weights=base64.b64encode(packed).decode("ascii"),
        model=read_asset("deploy/web_model.js"),
        page=read_asset("deploy/web_page.js"),
        facts=_facts(portable, count, kind),
    )
    path.write_text(page, encoding="utf-8")
    return read_web(path)


def _settings(
    portable: Portable, preprocess: Preprocess, kind: str, state: dict[str, Tensor]
) -> dict[str, Any]:
    """All that the page needs beside the weights."""
    framing: Framing = preprocess.framing
    return {
        "arguments": portable.arguments,
        "mean": portable.mean,
        "std": portable.std,
        "framing": {
            "fit": framing.fit,
            "crop_fraction": framing.crop_fraction,
            "interpolation": framing.interpolation,
            "fill": framing.fill,
        },
        "source_size": preprocess.source_size,
        "img_size": preprocess.img_size,
        "class_names": portable.class_names,
        "numbers": kind,
        "tensors": [[name, value.numel()] for name, value in state.items()],
    }


def _packed(state: dict[str, Tensor], kind: str) -> bytes:
    """The deflated weights; raises InputError for weights that float16 cannot hold."""
    values = torch.cat([value.flatten() for value in state.values()]).numpy()
    with np.errstate(over="ignore"):
        numbers = values.astype(f"<{np.dtype(kind).str[1:]}")
    if not np.isfinite(numbers).all():
        raise InputError(
            "weights beyond 65504 do not fit into the 16-bit numbers of format web; give format "
            "onnx",
            argument="format",
        )
    planes = numbers.view(np.uint8).reshape(len(numbers), -1).T
    return zlib.compress(planes.tobytes(), 9)


def _facts(portable: Portable, count: int, kind: str) -> str:
    """The model in a few words, as items of a list."""
    told = portable.arguments
    size = "×".join(map(str, portable.input_size[1:]))
    of_all = {
        "classes": str(len(portable.class_names)),
        "input": f"{size}, {'grey' if told['in_chans'] == 1 else 'colour'}",
        "patches": f"{told['patch_size']}×{told['patch_size']} pixels",
        "blocks": f"{told['depth']} of {told['num_heads']} heads",
        "parameters": f"{count:,}, {SHOWN_KINDS[kind]}",
    }
    return facts_part(of_all)


def read_web(path: Path) -> Program:
    """The model that a page holds, from its settings and weights."""
    text = path.read_text(encoding="utf-8")
    return _model_of(web_settings(text), base64.b64decode(_part(text, "weights")))


def web_settings(text: str) -> dict[str, Any]:
    """The settings in the text of a page."""
    found: dict[str, Any] = json.loads(_part(text, "settings"))
    return found


def _part(text: str, name: str) -> str:
    found = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None, name
    return found[1]


def _model_of(settings: dict[str, Any], packed: bytes) -> ViT:
    kind = np.dtype(settings["numbers"])
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(kind.itemsize, -1)
    numbers = np.ascontiguousarray(planes.T).view(f"<{kind.str[1:]}")[:, 0]
    values = torch.from_numpy(numbers.astype(np.float32))
    with torch.device("meta"):
        model = ViT(**settings["arguments"])
    parts = torch.split(values, [count for _, count in settings["tensors"]])
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    named = zip((name for name, _ in settings["tensors"]), parts, strict=True)
    model.load_state_dict({name: part.view(shapes[name]) for name, part in named}, assign=True)
    return model.eval()


@torch.no_grad()
def _noise_logits(model: ViT, portable: Portable, preprocess: Preprocess) -> list[float]:
    """Logits for the picture of noise by which the page checks itself."""
    height, width = preprocess.source_size
    pixels = torch.tensor(list(noise(NOISE_SEED, portable.model.in_chans * height * width)))
    images = pixels.to(torch.uint8).view(1, -1, height, width)
    # not inverted: the sign is in the weights
    plain = replace(preprocess, mean=portable.mean, invert=False)
    found: list[float] = model(plain(images))[0].tolist()
    return found


def noise(seed: int, count: int) -> list[int]:
    """Pixels 0..255 that any language computes alike, by a linear congruential generator."""
    state, found = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32  # Numerical Recipes, section 7.1
        found.append(state >> 24)
    return found
