"""The short help of each command: one screen, without torch, and as the parser says."""

import json
import subprocess
import sys

import pytest

from vitlit.__main__ import main
from vitlit.cli.overview import COMMANDS, command_help
from vitlit.commands.short_help import EXAMPLES, OPTIONS, short_help

# prints the modules that were imported after the help
PROBE = (
    "import sys\nfrom vitlit.__main__ import main\nstatus = main(sys.argv[1:])\n"
    "print(sorted({'torch', 'numpy', 'jsonargparse', 'pytorch_lightning'} & {*sys.modules}))\n"
    "sys.exit(status)"
)


@pytest.mark.parametrize(
    "command",
    [
        name if name in ("fit", "predict") else pytest.param(name, marks=pytest.mark.slow)
        for name in COMMANDS
    ],
)
def test_the_help_file_is_what_the_parser_says(command: str) -> None:
    assert command_help(command) == short_help(command), "run: python -m vitlit.commands.short_help"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_short_help_has_at_most_ten_options_and_two_examples(command: str) -> None:
    text = command_help(command)
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert options == [f"--{name}" for name in OPTIONS[command].split()]
    fewest = {"runs": 2, "shard": 5}.get(command, 6)  # of few options there are no six
    assert fewest <= len(set(options)) == len(options) <= 10
    assert len(EXAMPLES[command]) == 2
    assert all(f"\n  vitlit {words}\n" in text for words in EXAMPLES[command])
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("words", [["predict", "--help"], ["fit", "-h"]])
def test_help_of_a_command_imports_nothing_heavy(words: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=True
    )
    assert found.stdout == f"{command_help(words[0])}\n[]\n"
    assert found.stderr == ""


def test_help_takes_a_command_as_git_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "predict"]) == 0
    assert capsys.readouterr().out == f"{command_help('predict')}\n"
    with pytest.raises(SystemExit):
        main(["help", "predict", "all"])
    assert "--model.patch_embed" in capsys.readouterr().out
    assert main(["help", "predit"]) == 2
    assert "did you mean predict?" in capsys.readouterr().err


def test_the_help_file_has_all_commands_and_no_others() -> None:
    from importlib.resources import files

    text = (files("vitlit.cli") / "help.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == list(COMMANDS)
