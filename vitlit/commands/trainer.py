"""Lightning's Trainer with four more commands."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from vitlit.commands.own_commands import Commands

OWN_COMMANDS = ("explain", "export", "compare", "probe")  # those that Lightning lacks


class Trainer(Commands, pl.Trainer):
    """Adds explain, export, compare and probe to Lightning's fit, validate, test and predict."""

    @property
    def root_device(self) -> torch.device:  # type: ignore[override]
        """The device of this process."""
        return self.strategy.root_device

    @property
    def root(self) -> str:  # type: ignore[override]
        """The folder that holds lightning_logs, in which other commands than fit begin."""
        return str(Path(self.default_root_dir).parent)
