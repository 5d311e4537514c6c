"""A .npy file that grows row by row."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from vitlit.prediction.row_file import RowFile


@pytest.mark.parametrize("sizes", [[3], [2, 0, 5], [1] * 20])
def test_the_file_holds_what_was_added(sizes: list[int], tmp_path: Path) -> None:
    rows = torch.randn(sum(sizes), 4, 5).double()
    with RowFile(tmp_path / "a.npy") as file:
        for part in torch.split(rows, sizes):
            file.add(part)
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.float().numpy())


def test_an_error_leaves_the_rows_so_far(tmp_path: Path) -> None:
    with suppress(ValueError), RowFile(tmp_path / "a.npy") as file:
        file.add(torch.ones(2, 3))
        raise ValueError
    assert np.load(tmp_path / "a.npy").shape == (2, 3)


def test_nothing_is_an_empty_array(tmp_path: Path) -> None:
    with RowFile(tmp_path / "a.npy"):
        pass
    assert np.load(tmp_path / "a.npy").shape == (0,)
