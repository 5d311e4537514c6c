"""Which runs of pytest may see a GPU: those that ask for the tests marked ``gpu``."""

import re

NEGATED = re.compile(r"\bnot\s*(\w+|\([^()]*\))")


def selects_gpu(expression: str) -> bool:
    """Whether option -m of pytest selects tests because they are marked ``gpu``."""
    return re.search(r"\bgpu\b", NEGATED.sub("", expression)) is not None
