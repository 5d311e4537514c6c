"""How Lightning writes and reads checkpoints here: durably, and as plain values alone."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO, TorchCheckpointIO

from vitlit.errors import InputError
from vitlit.weights import durable_file
from vitlit.weights.checkpoint import LAST_FILE, LIGHTNING_VERSION, VERSION_KEY, _read_content


class DurableIO(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints here: durably, and as plain values alone."""

    def __init__(self) -> None:
        super().__init__()
        self._written: tuple[int, ...] | None = None  # the mark of the last.ckpt of this process

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        file = Path(path)
        is_last = file.name == LAST_FILE
        keep = is_last and self._is_good(file)
        durable_file.write_durable(file, lambda part: torch.save(checkpoint, part), keep=keep)
        if is_last:
            self._written = durable_file.file_identity(file)

    def _is_good(self, file: Path) -> bool:
        """Whether it may take the place of the one before, which is good; what we wrote may."""
        return file.is_file() and (
            durable_file.file_identity(file) == self._written or durable_file.is_intact(file)
        )

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content, on the CPU; other devices copy from there. ``weights_only`` is always on."""
        content = _read_content(Path(path), mmap=False)
        if not str(content.get(VERSION_KEY)).startswith("2."):  # older ones would be migrated
            content[VERSION_KEY] = LIGHTNING_VERSION
        return content


def with_durable(plugins: Any) -> list[Any]:
    """Lightning's plugins, the user's and ours."""
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        raise InputError(
            "trainer.plugins has another way to write checkpoints; leave it out, since only "
            "those written here have a checksum"
        )
    return [*given, DurableIO()]
