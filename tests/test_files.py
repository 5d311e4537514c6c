"""Names that are free, and files that are whole or not there."""

from pathlib import Path

from vitlit.files import free_path


def test_a_free_name_counts_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert free_path(path) == path
    path.touch()
    assert free_path(path) == tmp_path / "a-2.csv"
    (tmp_path / "a-2.csv").touch()
    assert free_path(path) == tmp_path / "a-3.csv"
