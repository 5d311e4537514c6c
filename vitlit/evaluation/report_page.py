"""The page of a test report: one HTML file that shows the scores, without network or script.

content of metrics.json, confused pairs (p,), reliability, pictures of mistakes -> index.html

All texts may contain any characters: names of classes and files come from anyone.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.evaluation.calibration import CONFIDENCE_BINS, Reliability
from vitlit.evaluation.scores import Confusion
from vitlit.html_page import facts_part, image_element, page_head, read_asset

MAX_CLASS_ROWS = 100  # of the table of classes; of more, those that are recognised least
LONG_NAME = 3  # letters from which on a heading of the matrix is turned
PLOT, EDGE = 300, 40  # side of the plot of calibration in units of its SVG, and room for its labels
SCORE_NAMES = {
    "balanced_acc": "balanced accuracy",
    "acc5": "top-5 accuracy",
    "f1": "mean F1",
    "loss": "loss",
    "ece": "calibration error",
}


class Mistake(NamedTuple):
    """An image with a wrong answer: float ``(C, H, W)`` in [0, 1], its file or "", both classes."""

    image: Tensor
    file: str
    true: str
    predicted: str
    probability: float


class PageContent(NamedTuple):
    """What the page shows.

    metrics: as in metrics.json; kept: classes whose confusion is shown, int64 ``(k,)``; mistakes:
    the most confident ones of all ``mistake_count``; calibration: in words; curves: reliability as
    it is and, if there is one, with the temperature.
    """

    title: str
    metrics: Mapping[str, Any]
    class_names: Sequence[str]
    confusion: Confusion
    kept: Tensor
    mistakes: Sequence[Mistake]
    mistake_count: int
    calibration: str
    curves: Sequence[Reliability]


FOOTER = (
    "The interval is Wilson's, of 95 %. Calibration error is the mean difference of confidence and "
    f"accuracy over {CONFIDENCE_BINS} bins of confidence, weighted by their images (Guo et al., "
    "2017). The files beside this page hold all numbers: metrics.json, mistakes.csv and, for small "
    "sets, probabilities.npz."
)


class Section(NamedTuple):
    """A part of a page: a word that names it in the HTML, its heading, and its HTML."""

    key: str
    heading: str
    html: str


def write_report_page(path: Path, content: PageContent) -> None:
    """Write the page of a classifier."""
    metrics = content.metrics
    mistakes = mistake_parts(content.mistakes, content.mistake_count)
    calibration = calibration_parts(content.calibration, content.curves)
    sections = [
        Section("score", "Score", score_part(metrics["scores"])),
        Section("mistakes", "Mistakes", "".join(mistakes)),
        Section("confusion", "Which classes are confused", "".join(confusion_parts(content))),
        Section("classes", "Classes", "".join(class_parts(metrics["classes"]))),
        Section("calibration", "Calibration", "".join(calibration)),
    ]
    write_page(path, content.title, metrics, sections, footer=FOOTER)


def write_page(
    path: Path,
    title: str,
    metrics: Mapping[str, Any],
    sections: Sequence[Section],
    *,
    footer: str,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page of a report on any task.

    metrics: as in metrics.json; footer: HTML; facts: more than data, split, images and weights.
    """
    of = metrics["of"]
    told = {"data": of["dataset"], "split": of["split"], **(facts or {})}
    told |= {"images": f"{metrics['scores']['images']:,}", "weights": of["weights"]}
    page = Template(read_asset("evaluation/report_page.html")).substitute(
        head=page_head(title, read_asset("evaluation/report_page.css")),
        title=escape(title),
        facts=facts_part(told),
        note=f'<p class="notice">{escape(metrics["note"])}</p>' if metrics["note"] else "",
        sections="\n".join(
            f'<section aria-labelledby="{one.key}-title">\n<h2 id="{one.key}-title">{one.heading}'
            f"</h2>\n{one.html}\n</section>"
            for one in sections
        ),
        footer=footer,
    )
    # bytes of a file name that are not UTF-8 become question marks
    path.write_text(page, encoding="utf-8", errors="replace")


def score_part(scores: Mapping[str, Any]) -> str:
    """Accuracy, its interval as a bar, and the other scores."""
    low, high = scores["acc_interval"]
    others = {text: f"{scores[name]:.4f}" for name, text in SCORE_NAMES.items() if name in scores}
    return (
        f'<p class="big">{scores["acc"]:.4f}</p>'
        f"<p>accuracy; 95 % interval from {low:.4f} to {high:.4f}</p>"
        f'<div class="range" aria-hidden="true"><span style="left:{100 * low:.2f}%;'
        f'width:{100 * (high - low):.2f}%"></span><b style="left:{100 * scores["acc"]:.2f}%"></b>'
        f'</div><div class="ends aside" aria-hidden="true"><span>0</span><span>1</span></div>'
        f'<dl class="facts">{facts_part(others)}</dl>'
    )


def mistake_parts(mistakes: Sequence[Mistake], count: int) -> Iterator[str]:
    """The pictures of wrong answers, each with its file and both classes."""
    if not mistakes:
        yield "<p>None: every image was classified correctly.</p>"
        return
    which = "All" if len(mistakes) == count else f"The {len(mistakes)} most confident of"
    yield f"<p>{which} {count:,} mistakes, the most confident first.</p>"
    yield '<ul class="mistakes">'
    for one in mistakes:
        words = (
            f"true <bdi>{escape(one.true)}</bdi>, <em>predicted <bdi>{escape(one.predicted)}</bdi>"
            f"</em> ({one.probability:.2f})"
        )
        yield picture_part(one.image, words, one.file)
    yield "</ul>"


def picture_part(image: Tensor, words: str, file: str) -> str:
    """An item of a list: an image ``(C, H, W)`` in [0, 1], words in HTML, and its file or ""."""
    name = f"<br><bdi>{escape(file)}</bdi>" if file else ""
    return f"<li>{image_element(image)}{words}{name}</li>"


def confusion_parts(content: PageContent) -> Iterator[str]:
    """The matrix of counts; shares are spread out, so that a single mistake is seen."""
    names = [escape(content.class_names[i]) for i in content.kept.tolist()]
    total = len(content.class_names)
    if len(names) < total:
        yield f"<p>{len(names)} of {total} classes, those with the most mistakes.</p>"
    yield '<p class="aside">Rows are true classes, columns predicted ones.</p>'
    yield '<div class="wide" tabindex="0" role="region" aria-labelledby="confusion-title">'
    yield '<table class="confusion"><thead><tr><td></td>'
    is_long = max(map(len, names)) > LONG_NAME
    for name in names:
        turned = f'<span class="long"><bdi>{name}</bdi></span>' if is_long else name
        yield f'<th scope="col">{turned}</th>'
    yield "</tr></thead><tbody>"
    counts = content.confusion.among(content.kept)
    shares = counts / content.confusion.of_true[content.kept, None].clamp(min=1)
    for row in range(len(names)):
        yield f'<tr><th scope="row"><bdi>{names[row]}</bdi></th>'
        for col in range(len(names)):
            count, share = int(counts[row, col]), float(shares[row, col])
            kind = "right" if row == col else "wrong"
            about = f"true {names[row]}, predicted {names[col]}: {count}"
            mixed = f'class="{kind}" style="--share:{100 * share ** (1 / 3):.0f}%" title="{about}"'
            yield f"<td {mixed}>{count}</td>" if count else "<td></td>"
        yield "</tr>"
    yield "</tbody></table></div>"


def class_parts(classes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A row for each class: its images, and how many of them were recognised."""
    rows = list(classes.items())
    if len(rows) > MAX_CLASS_ROWS:
        rows = sorted(rows, key=lambda row: (row[1]["images"] == 0, row[1]["recall"]))
        rows = rows[:MAX_CLASS_ROWS]
        yield f"<p>The {MAX_CLASS_ROWS} of {len(classes)} classes with the lowest recall.</p>"
    yield '<div class="wide" tabindex="0" role="region" aria-labelledby="classes-title">'
    yield '<table class="classes"><thead><tr><th scope="col">class</th>'
    headings = ("images", "recall", "", "precision", "F1")
    yield "".join(f'<th scope="col">{text}</th>' for text in headings) + "</tr></thead><tbody>"
    for name, one in rows:
        width = f"{100 * one['recall']:.1f}%"
        yield (
            f'<tr><th scope="row"><bdi>{escape(name)}</bdi></th><td>{one["images"]:,.0f}</td>'
            f'<td>{one["recall"]:.3f}</td><td><span class="bar" aria-hidden="true">'
            f'<span style="width:{width}"></span></span></td>'
            f"<td>{one['precision']:.3f}</td><td>{one['f1']:.3f}</td></tr>"
        )
    yield "</tbody></table></div>"


def plot_parts(label: str, below: str, ticks: Mapping[float, str], *, edge: int) -> Iterator[str]:
    """The start of a square plot in SVG, without its end: grid, words at both axes, diagonal.

    below: of the horizontal axis; ticks: by their place, 0 at the lower end and 1 at the upper one;
    edge: room for one at the left, and for half of one at the right.
    """
    width = PLOT + edge + edge // 2
    yield f'<svg viewBox="0 0 {width} {PLOT + 52}" role="img" aria-label="{label}">'
    for share, text in ticks.items():
        x, y = edge + PLOT * share, PLOT * (1 - share) + 8
        yield f'<line class="grid" x1="{edge}" x2="{edge + PLOT}" y1="{y:g}" y2="{y:g}"/>'
        yield f'<text class="y" x="{edge - 6}" y="{y:g}">{text}</text>'
        yield f'<text class="x" x="{x:g}" y="{PLOT + 24}">{text}</text>'
    yield f'<line class="ideal" x1="{edge}" y1="{PLOT + 8}" x2="{edge + PLOT}" y2="8"/>'
    yield f'<text class="x" x="{edge + PLOT / 2:g}" y="{PLOT + 46}">{below}</text>'


def calibration_parts(words: str, curves: Sequence[Reliability]) -> Iterator[str]:
    """The sentence, and accuracy by confidence: dots whose area grows with their images."""
    yield f"<p>{escape(words[:1].upper() + words[1:])}.</p>"
    ticks = {i / 5: f"{i / 5:.1f}" for i in range(6)}
    yield from plot_parts("Accuracy by confidence", "confidence", ticks, edge=EDGE)
    for name, bins in zip(("before", "after"), curves, strict=False):
        most = float(bins.images.max().clamp(min=1))
        for i in torch.nonzero(bins.images)[:, 0].tolist():
            x, y = EDGE + PLOT * float(bins.confidence[i]), 8 + PLOT * (1 - float(bins.accuracy[i]))
            radius = (6 + 60 * float(bins.images[i]) / most) ** 0.5
            yield f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
    yield "</svg>"
    keys = ["without temperature", "with temperature"][: len(curves)]
    colours = ("--accent", "--warm")
    for colour, text in zip(colours, keys, strict=False):
        key = f'<span class="key" style="background:var({colour})"></span>'
        yield f'<span class="aside">{key}{text}</span>'
    yield '<p class="aside">Accuracy (upward) by confidence; on the dashed line both are equal.</p>'
