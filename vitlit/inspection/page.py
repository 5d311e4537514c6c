"""The page of an inspection: one HTML file that shows the findings, without network or script.

Findings, pictures -> index.html

All texts may contain any characters: names of classes and files come from anyone.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.files import printable
from vitlit.html_page import (
    MAX_SQUARE_PIXELS,
    facts_part,
    image_element,
    image_uri,
    page_head,
    read_asset,
)
from vitlit.inspection.duplicates import MAX_BITS
from vitlit.inspection.findings import Finding, Findings
from vitlit.inspection.sheets import mosaic

MAX_SIDE = 320  # of a picture in the page, in pixels; larger ones are reduced
MAX_CARDS, MAX_ROWS = 48, 100  # pictures of a kind, and rows of a table


class Example(NamedTuple):
    """An image of a training batch: as it is, as the model gets it, and its target in words."""

    original: Tensor
    augmented: Tensor
    target: str


class PageContent(NamedTuple):
    """What the page shows. facts: below the title; findings: to act on, then to know; statistics:
    lines to paste into a config; classes: pictures ``(k, C, H, W)`` of each class; examples: of the
    first training batch; no_batch: why there are none, else empty."""

    title: str
    facts: Mapping[str, str]
    sentences: Sequence[Finding]
    statistics: str
    found: Findings
    classes: Mapping[str, Tensor]
    examples: Sequence[Example]
    no_batch: str


def write_inspection_page(path: Path, content: PageContent) -> None:
    """Write the page."""
    targets = content.found.targets
    parts = {
        "Duplicates": duplicate_parts(content.found),
        "Doubtful labels": label_parts(content.found),
        "Files that cannot be read": unread_parts(content.found),
        f"Images by {targets.column} and split": count_parts(content.found),
        "Sizes and colours": file_parts(content.found),
        "Mean and standard deviation": iter([f"<pre>{escape(content.statistics)}</pre>"]),
        f"Some images {targets.rows_are}": class_parts(content.classes, targets.column),
        "The first training batch": batch_parts(content.examples, content.no_batch),
    }
    sections = []
    for number, (heading, lines) in enumerate(parts.items()):
        body = "\n".join(lines)
        if body:
            sections.append(_section(f"part-{number}", heading, body))
    page = Template(read_asset("inspection/page.html")).substitute(
        head=page_head(content.title, read_asset("inspection/page.css")),
        title=escape(content.title),
        facts=facts_part(content.facts),
        findings="\n".join(finding_parts(content.sentences)),
        sections="\n".join(sections),
        bits=MAX_BITS,
        rule=targets.rule,
    )
    # bytes of a file name that are not UTF-8 become question marks
    path.write_text(page, encoding="utf-8", errors="replace")


def finding_parts(sentences: Sequence[Finding]) -> Iterator[str]:
    """A section of what to act on, and one of what is good to know."""
    act, know = ([one.text for one in sentences if one.level == level] for level in ("act", "know"))
    nothing = "<p>Nothing: no unreadable file, no image in two splits, no doubtful label.</p>"
    yield _section("act-title", "What to act on", _sentence_list(act, "act") if act else nothing)
    if know:
        yield _section("know-title", "What to know", _sentence_list(know, "know"))


def _sentence_list(texts: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="findings {kind}">{items}</ul>'


def _section(name: str, heading: str, body: str) -> str:
    """A part of the page under its heading, both HTML; name: of the heading in the HTML."""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>\n{body}\n</section>'


def picture(image: Tensor) -> str:
    """An image element; image: ``(C, H, W)`` in [0, 1]."""
    longest = max(image.shape[-2:])
    if longest > MAX_SIDE:
        scale = MAX_SIDE / longest
        size = [max(1, round(side * scale)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    return image_element(image)


def _cards(cards: Sequence[tuple[Sequence[Tensor], str]]) -> Iterator[str]:
    yield '<ul class="cards">'
    for images, words in cards:
        pictures = "".join(map(picture, images))
        yield f'<li><div class="pictures">{pictures}</div>{words}</li>'
    yield "</ul>"


def _image(found: Findings, image: int) -> Tensor:
    return found.inventory.pixels_of(image).float() / 255


def _about(found: Findings, image: int) -> str:
    own = found.inventory
    return (
        f"{own.split_of(image)}, <bdi>{escape(own.label_of(image))}</bdi>: "
        f"<bdi>{escape(own.name_of(image))}</bdi>"
    )


def duplicate_parts(found: Findings) -> Iterator[str]:
    """The pairs, those between splits first."""
    pairs = found.duplicates
    if not pairs:
        return
    if len(pairs) > MAX_CARDS:
        yield f"<p>{MAX_CARDS} of {len(pairs):,} pairs; all of them are in duplicates.csv.</p>"
    own, cards = found.inventory, []
    for pair in pairs[:MAX_CARDS]:
        images = [_image(found, image) for image in pair[:2]]
        words = escape(pair.kind)
        if own.split[pair.first] != own.split[pair.second]:
            words = f"<em>{words}, in two splits</em>"
        if not own.has_same_label(pair.first, pair.second):
            words += f" <em>with two {found.targets.noun}s</em>"
        lines = [words, _about(found, pair.first), _about(found, pair.second)]
        cards.append((images, "<br>".join(lines)))
    yield from _cards(cards)


def label_parts(found: Findings) -> Iterator[str]:
    """Each doubtful image beside its nearest neighbour."""
    check = found.labels
    if check.reason:
        yield f"<p>Labels were not checked: {escape(check.reason)}.</p>"
    if not check.doubts:
        return
    if len(check.doubts) > MAX_CARDS:
        yield f"<p>{MAX_CARDS} of {len(check.doubts):,}; all of them are in labels.csv.</p>"
    cards = []
    for doubt in check.doubts[:MAX_CARDS]:
        images = [_image(found, image) for image in (doubt.image, doubt.neighbours[0])]
        theirs = escape(found.targets.doubt_words(doubt))
        words = f"<br>its {len(doubt.neighbours)} nearest are <em><bdi>{theirs}</bdi></em>"
        cards.append((images, _about(found, doubt.image) + words))
    yield from _cards(cards)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> Iterator[str]:
    """A table of cells that are HTML already; the first of each row is its heading."""
    yield f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="{kind}">'
    heads = "".join(f'<th scope="col">{text}</th>' for text in headings)
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for first, *cells in rows:
        yield f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def unread_parts(found: Findings) -> Iterator[str]:
    """The files that cannot be read, with the reason."""
    unread = found.inventory.unread
    if not unread:
        return
    rows = [
        (
            f"<bdi>{escape(printable(one.file.path))}</bdi>",
            f"<td>{escape(one.split)}</td>",
            f'<td class="text">{escape(one.file.reason)}</td>',
        )
        for one in unread[:MAX_ROWS]
    ]
    yield from _table(("file", "split", "reason"), rows, "words")
    if len(unread) > MAX_ROWS:
        yield f"<p>{MAX_ROWS} of {len(unread):,}; all of them are in unreadable.csv.</p>"


def count_parts(found: Findings) -> Iterator[str]:
    """A row for each class, or for each part of the range of numbers; a 0 is marked."""
    own = found.inventory
    names, counts = found.targets.counts()
    order = range(len(names))
    if len(order) > MAX_ROWS:
        order = counts.sum(dim=1).argsort(stable=True)[:MAX_ROWS].tolist()  # type: ignore[assignment]
        yield f"<p>The {MAX_ROWS} smallest of {len(names):,} classes.</p>"
    rows = [("all", *(f"<td>{total:,}</td>" for total in own.sizes()))]
    for i in order:
        cells = (
            f'<td class="none">{count}</td>' if not count else f"<td>{count:,}</td>"
            for count in counts[i].tolist()
        )
        rows.append((f"<bdi>{escape(names[i])}</bdi>", *cells))
    yield from _table((found.targets.column, *own.split_names), rows)
    if quantiles := found.targets.quantiles():
        shares = next(iter(quantiles.values()))
        lines = [
            (name.replace("_", " "), *(f"<td>{one[name]:.6g}</td>" for one in quantiles.values()))
            for name in shares
        ]
        yield from _table((f"{found.targets.column}s", *quantiles), lines)


def file_parts(found: Findings) -> Iterator[str]:
    """Formats, colours and sizes of the files."""
    facts = list(found.facts.values())
    if not facts:
        yield "<p>The images of this set come as arrays, all of one size.</p>"
        return
    sides = torch.tensor([(one.height, one.width) for one in facts])
    low, middle, high = sides.amin(0).tolist(), sides.median(0).values.tolist(), sides.amax(0)
    rows = [
        (name, *(f"<td>{value:,}</td>" for value in (low[i], middle[i], int(high[i]))))
        for i, name in enumerate(("height", "width"))
    ]
    yield from _table(("pixels", "smallest", "median", "largest"), rows)
    kinds: dict[str, int] = {}
    for one in facts:
        name = f"{one.format}, {one.kind}"
        kinds[name] = kinds.get(name, 0) + 1
    ordered = sorted(kinds.items(), key=lambda row: -row[1])
    yield from _table(
        ("format and colours", "files"),
        [(escape(name), f"<td>{count:,}</td>") for name, count in ordered],
    )


def class_parts(classes: Mapping[str, Tensor], column: str) -> Iterator[str]:
    """A row of pictures for each class; column: the heading of their names."""
    rows = [
        (f"<bdi>{escape(name)}</bdi>", f"<td>{picture_row(images)}</td>")
        for name, images in classes.items()
    ]
    if rows:
        yield from _table((column, "training images"), rows, "sheet")


def picture_row(images: Tensor) -> str:
    """Pictures ``(k, C, H, W)`` as one image element."""
    height = images.shape[2]
    if height > MAX_SQUARE_PIXELS:
        size = [round(side * MAX_SQUARE_PIXELS / height) for side in images.shape[-2:]]
        images = F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
    pixels = (mosaic(images, len(images)) * 255).round().byte().permute(1, 2, 0)
    source = image_uri(pixels.contiguous().numpy(), "png" if height <= 64 else "jpeg")
    return f'<img alt="" class="square" src="{source}">'


def batch_parts(examples: Sequence[Example], reason: str) -> Iterator[str]:
    """Images as they are beside what the model gets, with the targets."""
    if reason:
        yield f"<p>There is none: {escape(reason)}.</p>"
        return
    yield "<p>Left: the image. Right: what the model gets of it, with its target.</p>"
    cards = [
        ((one.original, one.augmented), f"<bdi>{escape(one.target)}</bdi>") for one in examples
    ]
    yield from _cards(cards)
