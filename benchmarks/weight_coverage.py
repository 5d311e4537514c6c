"""Which of timm's published ViT-like weights the one ViT of this package holds.

Walks timm's registry of ViT-like families. Each architecture is built with its own width and image
size, but few blocks and random weights, saved as timm saves a model for the hub, and loaded by
``vitlit.load``; then the outputs for the same images are compared. An architecture is *held* if
they agree (of a distilled DeiT, which averages two heads, the class token), *refused* if ``load``
says in a sentence why it cannot hold it, and *wrong* otherwise. It counts as often as timm
publishes weights for it.

    pip install -e '.[test]'
    python benchmarks/weight_coverage.py --write  # into weight_coverage.md, ten minutes
    python benchmarks/weight_coverage.py --only dinov3  # architectures whose names contain this
"""

import argparse
import logging
import tempfile
import warnings
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import measure
import timm
import torch
from timm.models import save_for_hf

from vitlit.errors import InputError
from vitlit.weights.load import load

FAMILIES = ("vision_transformer", "eva", "beit", "deit", "vision_transformer_relpos")
LEFT_OUT = "naflexvit (images of any grid), vision_transformer_hybrid (a ResNet before the blocks)"
LIMIT = 1e-4  # of the relative distance
DEPTH = 1  # blocks of each architecture


class Outcome(NamedTuple):
    """What became of an architecture; detail: the distance, or the sentence that refused it."""

    family: str
    name: str
    tags: int
    outcome: str
    detail: str


def tags_of(name: str) -> int:
    """Published sets of weights of an architecture."""
    return sum(tag.partition(".")[0] == name for tag in timm.list_pretrained(f"{name}*"))


def few_blocks(name: str) -> Any:
    """The architecture with random weights, none of them zero, and few blocks."""
    torch.manual_seed(0)
    # Sapiens2 lists a number for each of its blocks: one for all, which divides any
    shared = {"num_kv_heads": 1} if "sapiens2" in name else {}
    model = timm.create_model(name, depth=DEPTH, **shared)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def outcome_of(family: str, name: str, folder: Path) -> Outcome:
    tags = tags_of(name)
    theirs = few_blocks(name)
    images = torch.randn(1, 3, *theirs.patch_embed.img_size)
    save_for_hf(theirs, folder, safe_serialization=True)
    try:
        ours = load(folder).model
    except InputError as error:
        return Outcome(family, name, tags, "refused", str(error).replace(str(folder), name))
    # 384 pixels are no multiple of 14: timm drops the rest, and ours takes the 378 that are left
    rows, columns = ours.img_size
    found = ours(images[..., :rows, :columns])
    # A distilled DeiT averages two heads, and is held as its class token, without either
    is_headless = "distilled" in name
    expected = theirs.forward_features(images)[:, 0] if is_headless else theirs(images)
    if found.shape != expected.shape:
        return Outcome(family, name, tags, "wrong", f"{found.shape} in place of {expected.shape}")
    distance = float((found - expected).norm() / expected.norm())
    return Outcome(family, name, tags, "held" if distance <= LIMIT else "wrong", f"{distance:.1e}")


def walk(only: str) -> list[Outcome]:
    found = []
    for family in FAMILIES:
        for name in timm.list_models(module=family):
            if only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found.append(outcome_of(family, name, Path(folder)))
            print(*found[-1], flush=True)
    return found


def table(head: list[str], rows: list[list[Any]]) -> str:
    cells = [head, ["---"] * len(head), *([str(cell) for cell in one] for one in rows)]
    return "\n".join(measure.row(one) for one in cells)


def report(found: list[Outcome]) -> str:
    rows = []
    for family in dict.fromkeys(one.family for one in found):
        counts: Counter[str] = Counter()
        for one in found:
            if one.family == family:
                counts[one.outcome] += one.tags
        total = sum(counts.values())
        rows.append([family, total, counts["held"], counts["refused"], counts["wrong"]])
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 5))])
    counts_table = table(["family", "weights", "held", "refused", "wrong"], rows)
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in found:
        if one.outcome == "refused":
            reasons[one.detail.replace(one.name, "").strip()].append(f"{one.name} ({one.tags})")
    refused = [[", ".join(names), reason] for reason, names in reasons.items()]
    return (
        f"{counts_table}\n\nLeft out: {LEFT_OUT}.\n\n"
        f"{table(['refused (weights)', 'reason'], refused)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="architectures whose names contain this")
    parser.add_argument("--write", action="store_true", help="write weight_coverage.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    found = walk(args.only)
    text = report(found)
    print(f"\n{text}")
    if args.write:
        head = f"# Published weights\n\n{datetime.now(UTC):%Y-%m-%d}, {measure.packages()}\n\n"
        command = "`python benchmarks/weight_coverage.py --write`\n\n"
        (Path(__file__).with_suffix(".md")).write_text(f"{head}{command}{text}\n")


if __name__ == "__main__":
    main()
