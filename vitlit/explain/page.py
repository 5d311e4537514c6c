"""The page of explain: one HTML file that shows where a ViT looks, without network or server.

images (C, H, W), attention maps (L, h, N, N) -> rows of 4-bit levels -> page.html

The parts of the page lie beside this file: page.html, page.css, page.js. Maps travel deflated, in
base64, and the page unpacks those of an image when it is chosen. Each row of a map becomes

    top (uint16)      largest share that goes to a patch, 65535 = all
    best (uint16)     which patch that is
    prefix (uint16)   share of each prefix token, such as the class token, 65535 = all
    levels (4 bits)   share of each patch, 15 = top, two to a byte, the first one in the high half

all little-endian. The rows of a map are its N tokens and, last, the mean over the patches' rows,
in the shares that they have in the pooling;
the maps are those of each block's heads and their mean, the rollout, and the relevance.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitlit.errors import InputError
from vitlit.explain.attribution import Grid
from vitlit.explain.page_figures import colors, image_uri
from vitlit.model.vit import PoolName, ViT

MAX_LEVEL = 15  # the highest of 4 bits
MAX_LEVEL_BYTES = (
    40e6  # bytes of levels; with more, single heads are left out, and the page says so
)
MAX_SQUARE_PIXELS = 128  # pixels across up to which an image is shown in squares
MEAN_ROW = {"one": "mean patch", "whole": "mean over patches"}  # what the page calls the last row
POOLED_ROW = {
    "one": "weighted mean patch",
    "whole": "mean over patches, weighted as in the pooling",
}
Bytes = NDArray[np.uint8]


class Example(NamedTuple):
    """An image and what a model saw in it.

    image: uint8 ``(C, H, W)``, grey or RGB; maps: ``(L, h, N, N)``, rows sum to 1; rollout:
    ``(N, N)``; probabilities: class names and their probabilities, the likeliest first; label:
    the true class, where it is known; relevance: ``(N, N)``, of the first class listed; shares:
    what each patch counts in the pooling, where that is not the same for all.
    """

    name: str
    image: Tensor
    maps: Tensor
    rollout: Tensor
    probabilities: Sequence[tuple[str, float]]
    label: str | None = None
    relevance: Tensor | None = None
    shares: Tensor | None = None


def prefix_names(model: ViT) -> list[str]:
    """What the page calls the model's tokens that are no patches."""
    names = [] if model.cls_token is None else ["class token"]
    return names + [f"register {i}" for i in range(model.num_prefix_tokens - len(names))]


def write_page(
    path: str | Path,
    examples: Sequence[Example],
    *,
    title: str,
    facts: Mapping[str, str],
    grid: Grid,
    prefix: Sequence[str] = ("class token",),
    pool: PoolName = "token",
    figures: Mapping[str, str] | None = None,
) -> None:
    """Write the page; all texts may hold any characters.

    facts: about the model, by their names; grid: patches down and across; prefix: names of the
    tokens before the patches; pool: ``token`` shows the row of the first of them first, ``avg``,
    as in models without prefix tokens, the mean over the patches' rows; figures: headings and the
    HTML below them, as ``page_figures.model_figures``
    makes it.
    """
    _check_examples(examples, grid, len(prefix))
    heads = _kept_heads(examples)
    page = Template(_read_asset("page.html")).substitute(
        title=escape(title),
        style=_read_asset("page.css"),
        script=_read_asset("page.js"),
        data=_json(_describe(examples, heads, grid, prefix, pool)),
        maps="\n".join(_map_block(i, one, len(prefix), heads) for i, one in enumerate(examples)),
        facts="".join(
            f"<div><dt>{escape(name)}</dt><dd><bdi>{escape(value)}</bdi></dd></div>"
            for name, value in facts.items()
        ),
        figures="".join(
            f"<section><h3>{escape(heading)}</h3>{body}</section>"
            for heading, body in (figures or {}).items()
        ),
    )
    # a file name may hold bytes that are no text; they become question marks
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def _read_asset(name: str) -> str:
    return files("vitlit.explain").joinpath(name).read_text(encoding="utf-8")


def _json(values: Any) -> str:
    """JSON in ASCII that no name in it can turn into HTML."""
    text = json.dumps(values, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _check_examples(examples: Sequence[Example], grid: Grid, prefix: int) -> None:
    if not examples:
        raise InputError("no image to explain; give at least one")
    depth, heads = examples[0].maps.shape[:2]
    tokens = prefix + grid[0] * grid[1]
    for one in examples:
        if one.maps.shape != (depth, heads, tokens, tokens):
            raise InputError(
                f"the maps of {one.name} are {tuple(one.maps.shape)}, and {depth} blocks, {heads} "
                f"heads, {prefix} prefix tokens and {grid[0]}x{grid[1]} patches are expected; "
                f"explain images of one model together"
            )
        given = [one.maps, one.rollout, torch.tensor([p for _, p in one.probabilities])]
        given += [] if one.relevance is None else [one.relevance]
        if not all(bool(values.isfinite().all()) for values in given):
            raise InputError(
                f"the attention for {one.name} is not finite; the training diverged, "
                f"explain an earlier checkpoint"
            )


def _kept_heads(examples: Sequence[Example]) -> int:
    """All heads, or none where the page would become too large; their mean is always there."""
    maps = examples[0].maps
    return 0 if len(examples) * maps.numel() / 2 > MAX_LEVEL_BYTES else maps.shape[1]


def _describe(
    examples: Sequence[Example], heads: int, grid: Grid, prefix: Sequence[str], pool: PoolName
) -> dict[str, Any]:
    """All that the script needs, the maps excepted."""
    return {
        "grid": grid,
        "prefix": list(prefix),
        "mean": POOLED_ROW if pool == "seq" else MEAN_ROW,
        "home": 0 if prefix and pool == "token" else len(prefix) + grid[0] * grid[1],
        "blocks": len(examples[0].maps),
        "heads": heads,
        "colors": colors(np.linspace(0, 1, MAX_LEVEL + 1))[:, :3].tolist(),
        "examples": [_describe_one(one) for one in examples],
    }


def _describe_one(one: Example) -> dict[str, Any]:
    _, height, width = one.image.shape
    is_small = max(height, width) <= MAX_SQUARE_PIXELS
    pixels = one.image.permute(1, 2, 0).contiguous().cpu().numpy()
    return {
        "name": one.name,
        "image": image_uri(pixels, "png" if is_small else "jpeg"),
        "size": [width, height],
        "small": is_small,
        "probabilities": [[name, round(float(p), 5)] for name, p in one.probabilities],
        "label": one.label,
        "relevance": one.relevance is not None,
    }


def _map_block(number: int, example: Example, prefix: int, heads: int) -> str:
    """The maps of one image, as a block of data that the page keeps closed until it needs it."""
    rows = b"".join(
        pack_rows(matrices, prefix, example.shares).tobytes()
        for matrices in _matrices(example, heads)
    )
    deflate = zlib.compressobj(strategy=zlib.Z_FILTERED)  # 7 % less where rows are like noise
    text = base64.b64encode(deflate.compress(rows) + deflate.flush()).decode("ascii")
    return f'<script type="text/plain" id="maps-{number}">{text}</script>'


def _matrices(example: Example, heads: int) -> Iterator[Tensor]:
    """Maps ``(M, N, N)``, part by part in the order of the page."""
    for maps in example.maps:
        maps = maps.detach().float().cpu()
        yield torch.cat([maps[:heads], maps.mean(dim=0, keepdim=True)])
    yield example.rollout.detach().float().cpu()[None]
    if example.relevance is not None:
        relevance = without_own(example.relevance.detach().float().cpu())
        yield F.normalize(relevance, p=1, dim=1)[None]


def without_own(relevant: Tensor) -> Tensor:
    """Relevance ``(..., N, N)`` less the identity, by which each token speaks for itself.

    A class token has no place in the image; in means over patches the identity would hide the rest.
    """
    return (relevant - torch.eye(relevant.shape[-1]).to(relevant)).clamp(min=0)


def pack_rows(matrices: Tensor, prefix: int, pooled: Tensor | None = None) -> Bytes:
    """Matrices ``(M, N, N)`` of shares -> ``(M, N+1, bytes)``, the rows as the module says.

    A level is right to half a step: 1/30 of the largest share in its row. pooled: the shares of
    the patches' rows in the last one, where they differ.
    """
    looking = matrices[:, prefix:]
    if pooled is None:
        mean = looking.mean(dim=1, keepdim=True)
    else:
        mean = (pooled.to(looking) @ looking)[:, None]
    rows = torch.cat([matrices, mean], dim=1)
    patches = rows[..., prefix:]
    top, best = patches.max(dim=2, keepdim=True)
    levels = (patches / top.clamp(min=torch.finfo(top.dtype).tiny) * MAX_LEVEL).round()
    halves = F.pad(levels.byte(), (0, levels.shape[2] % 2)).numpy()  # an even number
    shares = torch.cat([top, rows[..., :prefix]], dim=2).clamp(0, 1).mul(65535).round().numpy()
    numbers = np.insert(shares, 1, best[..., 0].numpy(), axis=2).astype("<u2")
    pairs = halves[..., ::2] << 4 | halves[..., 1::2]
    return np.concatenate([numbers.view(np.uint8), pairs], axis=2)
