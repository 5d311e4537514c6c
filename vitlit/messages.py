"""Lines for people: a word in a column of 12, then text that fits into 80 columns.

word, text -> lines
"""

import os
import re
import sys
import textwrap
from typing import TextIO

LINE_WIDTH, WORD_WIDTH = 80, 12
MIN_WIDTH = 20  # columns of a terminal in which lines are broken
KEPT_SPACE = "\x00"  # at which no line breaks


def labelled(word: str, text: str) -> str:
    """``word`` in its column and the text beside it, broken at spaces into lines of 80 columns.

    A path that is longer stays whole, and so do words in brackets, such as ``(359 images)``.
    """
    whole = re.sub(r"\([^()]*\)", lambda found: found[0].replace(" ", KEPT_SPACE), text)
    return textwrap.fill(
        whole,
        LINE_WIDTH,
        initial_indent=f"{word:{WORD_WIDTH}}",
        subsequent_indent=" " * WORD_WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(KEPT_SPACE, " ")


def filled(text: str) -> str:
    """Text in lines of 80 columns, those after the first indented by two; long words stay whole."""
    return textwrap.fill(
        text,
        LINE_WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def fitted(text: str, stream: TextIO | None = None) -> str:
    """Text for standard error, or ``stream``: in a terminal broken at its width, else as it is, for
    ``grep``.

    A line that goes on is indented by two more; commands in backquotes and long words stay whole.
    """
    width = terminal_width(stream or sys.stderr)
    if not width:
        return text
    whole = re.sub(r"`[^`\n]*`", lambda found: found[0].replace(" ", KEPT_SPACE), text)
    lines = [_broken(line, width) for line in whole.split("\n")]
    return "\n".join(lines).replace(KEPT_SPACE, " ")


def _broken(line: str, width: int) -> str:
    """The line, in several lines if it is longer than ``width``."""
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")))
    return textwrap.fill(
        line.lstrip(" "),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def terminal_width(stream: TextIO | None) -> int:
    """Columns of the terminal that shows the stream; 0 if it is a file, a pipe or none."""
    if stream is None or not stream.isatty():
        return 0
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a stream of another program, without a handle of the system
        return LINE_WIDTH
    return columns if columns >= MIN_WIDTH else LINE_WIDTH  # 0: unknown, as within some editors


def print_error(text: str) -> None:
    """Print a message to standard error, fitted to the terminal, at once."""
    # Names of classes and files come from anyone, and a terminal obeys control characters in them.
    letters = (c if c.isprintable() or c in "\n\t\xa0" else ascii(c)[1:-1] for c in fitted(text))
    print("".join(letters), file=sys.stderr, flush=True)


def labelled_command(word: str, *parts: str) -> str:
    """A command that a shell takes as it is printed, broken between its parts if need be."""
    lines = [f"{word:{WORD_WIDTH}}{parts[0]}"]
    for part in parts[1:]:
        # 2: a space and the backslash that continues a line
        if len(lines[-1]) + 1 + len(part) + 2 > LINE_WIDTH:
            lines[-1] += " \\"
            lines.append(" " * (WORD_WIDTH + 2) + part)
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)


def shorten(name: str, maximum: int) -> str:
    """The name, or its two ends around an ellipsis: at most ``maximum`` letters in all."""
    end = (maximum - 1) // 2
    return name if len(name) <= maximum else f"{name[: maximum - 1 - end]}…{name[-end:]}"


def counted(number: int, noun: str) -> str:
    """The number and its noun, in the plural unless it is one: 1 image, 1,200 classes."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"


def short_number(value: float) -> str:
    """Three digits and a unit: 950, 85.6 k, 2.86 M, 35.1 G."""
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * factor:  # 999.6 k would be 1e+03 k
            return f"{value / factor:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"


def short_time(seconds: float) -> str:
    """Minutes and seconds, 1:48; hours, 2:01:48; or days, 3 d 02 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, left = divmod(hours, 24)
    if days:
        return f"{days} d {left:02} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
