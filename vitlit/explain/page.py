"""The page of explain: one HTML file that shows where a ViT looks, without network or server.

images (C, H, W), attention maps (L, h, N, N) -> rows of 4-bit levels -> index.html

The parts of the page lie beside this file: page.html, page.css, page.js. Maps are deflated and
encoded in base64, and the page unpacks those of an image when it is chosen. Each row of a map
becomes

    top (uint16)      largest share that goes to a patch, 65535 = all
    best (uint16)     which patch that is
    prefix (uint16)   share of each prefix token, such as the class token, 65535 = all
    levels (4 bits)   share of each patch, 15 = top, two to a byte, the first one in the high half

all little-endian. The rows of a map are those of its N tokens and, last, the mean over the
patches' rows, weighted as in the pooling. The maps are those of each block's heads and their
mean, then the rollout, then the relevance. ``readRow`` of page.js reads this layout.
"""

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError
from vitlit.explain.page_figures import colors
from vitlit.html_page import (
    Bytes,
    facts_part,
    html_json,
    page_head,
    picture_uri,
    read_asset,
    shows_squares,
)
from vitlit.model.arguments import PoolName
from vitlit.model.vit import ViT
from vitlit.patches import Grid

MAX_LEVEL = 15  # the highest of 4 bits
MAX_LEVEL_BYTES = 40e6  # with more levels, single heads are left out, and the page says so
MEAN_ROW = {"one": "mean patch", "whole": "mean over patches"}  # what the page calls the last row
POOLED_ROW = {
    "one": "weighted mean patch",
    "whole": "mean over patches, weighted as in the pooling",
}


class Example(NamedTuple):
    """An image and what a model saw in it.

    image: uint8 ``(C, H, W)``, grey or RGB; maps: ``(L, h, N, N)``, rows sum to 1; rollout:
    ``(N, N)``; probabilities: class names and their probabilities, the most probable first, after
    the classes that are given if an image may have several;
    label: the true class, None if not known; relevance: ``(N, N)``, for the first class listed;
    given: of several or no classes for each image, those that the model gives, as label has them;
    shares: weights of the tokens in the pooling, ``(N,)``, None if the patches' are equal;
    answer: of a model that gives a number in place of classes, in words.
    """

    name: str
    image: Tensor
    maps: Tensor
    rollout: Tensor
    probabilities: Sequence[tuple[str, float]]
    label: str | None = None
    relevance: Tensor | None = None
    shares: Tensor | None = None
    answer: str | None = None
    given: str | None = None


def prefix_names(model: ViT) -> list[str]:
    """The page's names for the tokens that are not patches, in the order of the tokens."""
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
    """Write the page; all texts may contain any characters.

    facts: about the model, by name; grid: patches down and across; prefix: names of the tokens
    before the patches; pool: decides the row shown at first: the first prefix token's with
    ``token``, else, and without prefix tokens, the mean over the patches' rows; figures: headings
    and the HTML below them, from ``page_figures.model_figures``. Raises InputError if there is no
    example, if their shapes differ, or if maps hold NaN.
    """
    _check_examples(examples, grid, len(prefix))
    heads = _kept_heads(examples)
    style = read_asset("explain/page.css")
    page = Template(read_asset("explain/page.html")).substitute(
        head=page_head(title, style, scripts="script-src 'unsafe-inline'; "),
        title=escape(title),
        script=read_asset("explain/page.js"),
        data=html_json(_describe(examples, heads, grid, prefix, pool)),
        maps="\n".join(_map_block(i, one, len(prefix), heads) for i, one in enumerate(examples)),
        facts=facts_part(facts),
        figures="".join(
            f"<section><h3>{escape(heading)}</h3>{body}</section>"
            for heading, body in (figures or {}).items()
        ),
    )
    # bytes of a file name that are not UTF-8 become question marks
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def _check_examples(examples: Sequence[Example], grid: Grid, prefix: int) -> None:
    """Refuse examples of different shapes: the page reads all maps by one layout."""
    if not examples:
        raise InputError("no image to explain; give at least one")
    depth, heads = examples[0].maps.shape[:2]
    tokens = prefix + grid[0] * grid[1]
    for one in examples:
        if one.maps.shape != (depth, heads, tokens, tokens):
            raise InputError(
                f"the maps of {one.name} are {tuple(one.maps.shape)}, but {depth} blocks, {heads} "
                f"heads, {prefix} prefix tokens and {grid[0]}x{grid[1]} patches are expected; "
                f"explain images of one model together"
            )
        # NaN would become an arbitrary level, and no valid JSON
        given = [one.maps, one.rollout, torch.tensor([p for _, p in one.probabilities])]
        given += [] if one.relevance is None else [one.relevance]
        if not all(bool(values.isfinite().all()) for values in given):
            raise InputError(
                f"the attention for {one.name} is not finite; the training diverged, "
                f"explain an earlier checkpoint"
            )


def _kept_heads(examples: Sequence[Example]) -> int:
    """The number of heads shown singly: all, or 0 if the page would become too large."""
    maps = examples[0].maps
    # two levels to a byte, hence the half
    return 0 if len(examples) * maps.numel() / 2 > MAX_LEVEL_BYTES else maps.shape[1]


def _describe(
    examples: Sequence[Example], heads: int, grid: Grid, prefix: Sequence[str], pool: PoolName
) -> dict[str, Any]:
    """Everything that the script needs, except for the maps."""
    return {
        "grid": grid,
        "prefix": list(prefix),
        "mean": POOLED_ROW if pool in ("seq", "map") else MEAN_ROW,
        # the row shown at first: of the class token, or the mean, which follows the N tokens
        "home": 0 if prefix and pool == "token" else len(prefix) + grid[0] * grid[1],
        "blocks": len(examples[0].maps),
        "heads": heads,
        "colors": colors(np.linspace(0, 1, MAX_LEVEL + 1))[:, :3].tolist(),
        "examples": [_describe_one(one) for one in examples],
    }


def _describe_one(one: Example) -> dict[str, Any]:
    _, height, width = one.image.shape
    return {
        "name": one.name,
        "image": picture_uri(one.image),
        "size": [width, height],
        "small": shows_squares(one.image),
        "probabilities": [[name, round(float(p), 5)] for name, p in one.probabilities],
        "label": one.label,
        "given": one.given,
        "answer": one.answer,
        "relevance": one.relevance is not None,
    }


def _map_block(number: int, example: Example, prefix: int, heads: int) -> str:
    """The maps of one image, as text that the browser ignores until the script unpacks it."""
    rows = b"".join(
        pack_rows(matrices, prefix, example.shares, has_any_sum=has_any_sum).tobytes()
        for matrices, has_any_sum in _matrices(example, heads)
    )
    deflate = zlib.compressobj(strategy=zlib.Z_FILTERED)  # 7 % smaller if rows are like noise
    text = base64.b64encode(deflate.compress(rows) + deflate.flush()).decode("ascii")
    return f'<script type="text/plain" id="maps-{number}">{text}</script>'


def _matrices(example: Example, heads: int) -> Iterator[tuple[Tensor, bool]]:
    """Maps ``(M, N, N)``, part by part in the order of the page; whether rows have any sum."""
    for maps in example.maps:
        maps = maps.detach().float().cpu()
        yield torch.cat([maps[:heads], maps.mean(dim=0, keepdim=True)]), False
    yield example.rollout.detach().float().cpu()[None], False
    if example.relevance is not None:
        yield without_own(example.relevance.detach().float().cpu())[None], True


def without_own(relevant: Tensor) -> Tensor:
    """Relevance ``(..., N, N)`` minus the identity, by which each token is relevant to itself.

    In means over the patches' rows, the identity would hide everything else.
    """
    # clamped: rounding may leave the diagonal a little below 1
    return (relevant - torch.eye(relevant.shape[-1]).to(relevant)).clamp(min=0)


def pack_rows(
    matrices: Tensor, prefix: int, pooled: Tensor | None = None, *, has_any_sum: bool = False
) -> Bytes:
    """Matrices ``(M, N, N)`` of shares -> uint8 ``(M, N+1, bytes)``, rows as in the module's text.

    A level is accurate to half a step: 1/30 of the largest share in its row. pooled: weights
    ``(N,)`` of the rows in the mean, the last row; None for the mean over the patches. has_any_sum:
    rows, and their mean, are divided by their sums.
    """
    if pooled is None:
        mean = matrices[:, prefix:].mean(dim=1, keepdim=True)
    else:
        mean = (pooled.to(matrices) @ matrices)[:, None]
    rows = torch.cat([matrices, mean], dim=1)
    if has_any_sum:  # after the mean, in which a row counts as much as it holds
        rows = F.normalize(rows, p=1, dim=2)
    patches = rows[..., prefix:]
    top, best = patches.max(dim=2, keepdim=True)
    # clamped: a row may be all zeros, as relevance is if nothing supports the class
    levels = (patches / top.clamp(min=torch.finfo(top.dtype).tiny) * MAX_LEVEL).round()
    halves = F.pad(levels.byte(), (0, levels.shape[2] % 2)).numpy()  # an even number of levels
    shares = torch.cat([top, rows[..., :prefix]], dim=2).clamp(0, 1).mul(65535).round().numpy()
    # "<u2": the page reads little-endian numbers, whatever machine wrote them
    numbers = np.insert(shares, 1, best[..., 0].numpy(), axis=2).astype("<u2")
    pairs = halves[..., ::2] << 4 | halves[..., 1::2]
    return np.concatenate([numbers.view(np.uint8), pairs], axis=2)
