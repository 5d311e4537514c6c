"""Small pages of explain for tests, and what they have to show."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlit.explain.attribution import rollout
from vitlit.explain.page import Example, write_page
from vitlit.explain.page_figures import model_figures

GRID, DEPTH, HEADS = (2, 3), 2, 3
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">'
NAMES = [HOSTILE, "a \"quoted\" & 'single'", "שלום 你好 🐈", "\udcff.png"]


def example(
    *,
    prefix: int = 1,
    grid: tuple[int, int] = GRID,
    depth: int = DEPTH,
    heads: int = HEADS,
    size: tuple[int, int] = (8, 12),
    **changes: Any,
) -> Example:
    tokens = prefix + grid[0] * grid[1]
    maps = torch.randn(depth, heads, tokens, tokens).mul(2).softmax(dim=-1)
    made = Example(
        name="cat.png",
        image=torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        maps=maps,
        rollout=rollout(maps[:, None])[0],
        probabilities=[("cat", 0.75), ("dog", 0.25)],
        label="dog",
        relevance=torch.rand(tokens, tokens) + torch.eye(tokens),
    )
    return made._replace(**changes)


def write(path: Path, examples: list[Example], **changes: Any) -> str:
    given: dict[str, Any] = {"title": "a title", "facts": {"model": "tiny"}, "grid": GRID}
    write_page(path, examples, **{**given, **changes})
    return path.read_text(encoding="utf-8")


def shown(one: Example, prefix: int) -> Tensor:
    """What the page's matrices stand for, ``(M, N+1, N)``, made one by one."""
    matrices = []
    for block in one.maps:
        matrices += [*block, block.mean(dim=0)]
    matrices.append(one.rollout)
    rows = [torch.cat([m, m[prefix:].mean(dim=0)[None]]) for m in matrices]
    if one.relevance is not None:
        without = one.relevance - torch.eye(len(one.relevance))
        rows.append(torch.cat([without, without[prefix:].mean(dim=0)[None]]))
        rows[-1] = rows[-1] / rows[-1].sum(dim=1, keepdim=True)
    return torch.stack(rows)


def hostile_page(path: Path) -> str:
    examples = [
        example(name=name, label=name, probabilities=[(name, 0.5), ("dog", 0.5)]) for name in NAMES
    ]
    return write(path, examples, title=HOSTILE, facts={HOSTILE: HOSTILE}, prefix=[HOSTILE])


def all_figures() -> dict[str, str]:
    return model_figures(
        distance=torch.rand(DEPTH, HEADS) * 20,
        uniform=11.5,
        similarity=torch.rand(6, *GRID),
        filters=torch.randn(9, 3, 4, 4),
    )
