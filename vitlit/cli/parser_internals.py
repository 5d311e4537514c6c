"""Every private name of the argument parsers that the package uses, and what each one buys.

parser -> its options

The counterpart of `lightning_internals.py`, under the same test.
"""

import argparse


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a parser, each with its name ``dest`` and its ``help``.

    Neither argparse (CPython issue 144932 asks for it) nor jsonargparse lists them;
    ``get_defaults`` has the names without those that have no default, and no help.
    """
    return parser._actions
