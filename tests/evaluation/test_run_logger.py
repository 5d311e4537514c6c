"""Which logger a run gets, of those that a config may ask for."""

from pathlib import Path
from typing import Any

import pytest

from vitlit.evaluation.run_logger import into_run


def test_a_logger_of_another_kind_is_the_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "lightning_logs" / "first"
    mine: Any = object()
    board: Any = None
    for asked in ({}, {"name": "mine"}, {"save_dir": "elsewhere"}):
        assert into_run(mine, asked, run, board) is mine
