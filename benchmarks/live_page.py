"""Frames and answers a second of the exported page while a pen draws on it, on one core.

    python benchmarks/live_page.py            # needs chromium and chromedriver, and Linux

The page is that of a plain ViT of the size of the digits recipe, with random weights: only the time
counts. A real pen of the browser's driver moves every eight milliseconds. Chromium and its driver
are bound to one core; "by processor time" divides by the seconds that they computed, which others
on the machine cannot change.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from vitlit.deploy.export import export_model
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
import browser as chromium

STROKES, POINTS, MILLISECONDS = 5, 250, 8  # between two points
COUNT = """
if (!window.seen) {
  const frame = () => { window.seen.frames += 1; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}
window.seen = { frames: 0, answers: window.vitlit.answers(), begun: performance.now() };
"""
COUNTED = """
const seconds = (performance.now() - window.seen.begun) / 1000;
return [window.seen.frames, window.vitlit.answers() - window.seen.answers, seconds];
"""


def make_page(folder: Path) -> Path:
    """The page of a plain ViT of the size of the digits recipe, which has a convolutional stem."""
    torch.manual_seed(0)
    model = ViT(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=48, depth=3, num_heads=3,
        patch_embed="linear", pos_embed="sincos2d", global_pool="avg",
    )  # fmt: skip
    preprocess = Preprocess(1, (8, 8), (8, 8), (0.3,), (0.38,))
    export_model(model.eval(), preprocess, list("0123456789"), folder / "page", format="web")
    return folder / "page" / "index.html"


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and those that they did."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def processor_seconds() -> float:
    """Seconds that the browser's processes have computed so far."""
    total = 0
    for pid in descendants(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def draw(window: chromium.Browser) -> None:
    """One long stroke back and forth over the paper."""
    left, top, width, height = window.run(
        "const box = document.getElementById('paper').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height];"
    )
    moves = [
        {
            "type": "pointerMove",
            "duration": MILLISECONDS,
            "x": round(left + width * (0.1 + 0.8 * abs((i % 50) / 25 - 1))),
            "y": round(top + height * (0.1 + 0.8 * i / POINTS)),
        }
        for i in range(POINTS)
    ]
    down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
    actions = [moves[0], down, *moves[1:], up]
    source = {"type": "pointer", "id": "mouse", "actions": actions}
    window.call("POST", "/actions", actions=[source])


def main() -> None:
    if missing := chromium.missing():
        raise SystemExit(missing)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the browser's processes inherit it
    with tempfile.TemporaryDirectory() as folder, chromium.browser() as window:
        window.open(make_page(Path(folder)))
        window.wait_for("window.vitlit && window.vitlit.current()")
        draw(window)  # the first strokes are compiled
        print("| frames/s | answers/s | frames/s by processor time | answers/s by processor time |")
        print("|---|---|---|---|")
        for _ in range(STROKES):
            window.run(COUNT)
            before = processor_seconds()
            draw(window)
            spent = processor_seconds() - before
            frames, answers, seconds = window.run(COUNTED)
            print(
                f"| {frames / seconds:.0f} | {answers / seconds:.0f} | {frames / spent:.0f} "
                f"| {answers / spent:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
