"""Shipped configurations are found, installed or not."""

import subprocess
import sys
from pathlib import Path

from vitlit.cli.configs import shipped_configs

ROOT = Path(__file__).parents[2]


def test_a_source_tree_that_is_not_installed_has_its_configs() -> None:
    # -S: without the packages of the environment, among which this one may be
    command = [sys.executable, "-S", "-m", "vitlit"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    shown = {word for word in result.stdout.split() if word.endswith(".yaml")}
    assert shown == set(shipped_configs()) | {"digits.yaml"}
