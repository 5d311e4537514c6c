"""Two processes that run many commands together: to start a pair takes longer than a command.

``python pair.py COMMANDS.json`` is one of the two; ``run_pair`` starts both.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

NUMBERS = "01"


class Command(NamedTuple):
    """What ``main`` is given, and the folder in which it works."""

    args: list[str]
    folder: str


def run_pair(
    commands: dict[str, Command], folder: Path, environment: dict[str, str], ports: list[str]
) -> None:
    """Run them all in two processes; the first one's words are in ``NAME.out`` and ``NAME.err``.

    ports: a free one for each command, that none meets what is left of the one before.
    """
    file = folder / "commands.json"
    file.write_text(json.dumps([list(commands.items()), ports]))
    shared = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"TORCHELASTIC_RUN_ID": "pair", "GROUP_RANK": "0"}  # as torchrun would
    pair = [
        subprocess.Popen(
            [sys.executable, __file__, str(file)],
            env=environment | shared | {"RANK": number, "LOCAL_RANK": number},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in NUMBERS
    ]
    said = [process.communicate(timeout=600)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n".join(said)


def _run(name: str, args: list[str]) -> None:
    from vitlit.__main__ import main

    is_first = os.environ["RANK"] == NUMBERS[0]
    with contextlib.ExitStack() as stack:
        if is_first:
            out, err = (
                stack.enter_context(Path(f"{name}.{end}").open("w")) for end in ("out", "err")
            )
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
        status = main(args)
    assert status == 0, (name, status)


if __name__ == "__main__":
    here = Path(sys.argv[1]).parent
    commands, ports = json.loads(Path(sys.argv[1]).read_text())
    for (name, (args, folder)), port in zip(commands, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        os.chdir(folder)
        _run(str(here / name), args)
