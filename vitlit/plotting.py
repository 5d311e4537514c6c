"""Words above a picture, within the room there is: its name, its true class, what was predicted.

name, classes, probability -> one or two lines, cut in the middle where they are too long
"""

from pathlib import PurePath

from vitlit.images.image_io import printable

MIN_CLASS_SHARE = 0.4  # of the room, for the true class beside a long name


def text_width(text: str, size: float) -> float:
    """Points across of one line in matplotlib's font, of ``size`` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(
        text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    )


def cut_text(text: str, room: float, size: float) -> str:
    """The text, or its two ends around an ellipsis, at most ``room`` points across."""
    found = text_width(text, size)
    kept = len(text) if found <= room else int(len(text) * room / found)
    while kept > 2 and text_width(_both_ends(text, kept), size) > room:
        kept -= 1
    return _both_ends(text, kept)


def _both_ends(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def name_line(name: str, label: str | None, room: float, size: float) -> str:
    """``cat.png, true class cat``, or of these what is known.

    name: a file, of which folders are left out, or other words; empty where there is none.
    """
    name = printable(PurePath(name).name)
    if label is None:
        return cut_text(name, room, size)
    before = "true class " if not name else ", true class "
    left = room - text_width(before, size)
    label = cut_text(
        printable(label), max(MIN_CLASS_SHARE * left, left - text_width(name, size)), size
    )
    return cut_text(name, left - text_width(label, size), size) + before + label


def verdict_line(
    predicted: str, probability: float, is_right: bool | None, room: float, size: float
) -> str:
    """``predicted dog (0.71), wrong``; is_right: None where the true class is not known."""
    after = f" ({probability:.2f})" + {None: "", True: ", right", False: ", wrong"}[is_right]
    left = room - text_width("predicted " + after, size)
    return f"predicted {cut_text(printable(predicted), left, size)}{after}"
