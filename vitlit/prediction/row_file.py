"""An array that grows on disk row by row, so that its size is no matter of memory.

rows float32 (k, ...), again and again -> one .npy file (n, ...), which NumPy can map into memory
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

HEADER_BYTES = 128  # of a version 1.0 header with room for any number of rows


class RowFile:
    """A .npy file that rows are appended to; its header is written when it is closed.

    ``np.load(path, mmap_mode="r")`` reads any part of it without the rest. count: rows so far.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._shape: tuple[int, ...] = ()  # of one row
        self._file = path.open("wb")
        self._file.write(bytes(HEADER_BYTES))  # until the number of rows is known

    def add(self, rows: Tensor) -> None:
        """Append rows ``(k, ...)``, all of one shape."""
        self._shape = tuple(rows.shape[1:])
        self._file.write(rows.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())
        self.count += len(rows)

    def close(self) -> None:
        """Write the header: from now on it is an array."""
        if self._file.closed:
            return
        about = {"descr": "<f4", "fortran_order": False, "shape": (self.count, *self._shape)}
        start = np.lib.format.magic(1, 0)
        room = HEADER_BYTES - len(start) - 2  # after two bytes that hold the length of the text
        text = f"{about!s:{room - 1}}\n".encode("ascii")
        with self._file:
            self._file.seek(0)
            self._file.write(start + room.to_bytes(2, "little") + text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
