"""How Lightning writes and reads checkpoints: durably, and as plain values only.

checkpoint dict -> file with a checksum, the previous one kept; file -> checked dict on the CPU
"""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO, TorchCheckpointIO

from vitlit.errors import InputError, say
from vitlit.files import LAST_FILE
from vitlit.weights import durable_file
from vitlit.weights.checkpoint import LIGHTNING_VERSION, VERSION_KEY, read_content
from vitlit.weights.pretrained import complete_states


class DurableIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files, over :mod:`vitlit.weights.durable_file`."""

    def __init__(self) -> None:
        super().__init__()
        self._written: tuple[int, ...] | None = None  # identity of the last.ckpt that we wrote
        self._folders: set[Path] = set()  # that we wrote into

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        file = Path(path)
        is_last = file.name == LAST_FILE
        if file.parent in self._folders and not file.parent.is_dir():
            say(
                f"{file.parent} was removed during the training; it is created again for "
                f"{file.name}; everything else in the run, such as config.yaml, is lost"
            )
        self._folders.add(file.parent)
        # last.ckpt is replaced while the run depends on it, so the one before stays beside it; a
        # damaged file must not replace that good one.
        keep = is_last and self._is_good(file)
        durable_file.write_durable(file, lambda part: torch.save(checkpoint, part), keep=keep)
        if is_last:
            self._written = durable_file.file_identity(file)

    def _is_good(self, file: Path) -> bool:
        """Whether the present last.ckpt is intact, so that it may replace the kept one.

        A file that this process wrote needs no second reading of its checksum.
        """
        return file.is_file() and (
            durable_file.file_identity(file) == self._written or durable_file.is_intact(file)
        )

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content, on the CPU; other devices copy from there. Always read with weights_only."""
        content = read_content(Path(path), mmap=False)
        # Lightning migrates checkpoints that name an older version or none; ours never need it.
        if not str(content.get(VERSION_KEY)).startswith("2."):
            content[VERSION_KEY] = LIGHTNING_VERSION
        complete_states(content, Path(path))
        return content


def with_durable(plugins: Any) -> list[Any]:
    """The user's plugins and ours. Raises InputError if one of theirs writes checkpoints."""
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        raise InputError(
            "trainer.plugins has another way to write checkpoints; leave it out, since only "
            "those written here have a checksum"
        )
    return [*given, DurableIO()]
