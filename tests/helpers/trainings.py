"""Short trainings of the digits, and whether two ended alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
PLAIN = "--model.patch_embed=linear"  # where digits.yaml has a convolutional stem
SHORT = ["--trainer.limit_train_batches=6", "--trainer.limit_val_batches=2"]
SHORT += ["--trainer.log_every_n_steps=2"]
EVERY_STEP = "--checkpoints.every_n_steps=1"
RUN = [
    "fit",
    "--config=digits.yaml",
    "--trainer.accelerator=cpu",
    EVERY_STEP,
    *QUIET,
    *SMALL,
    *SHORT,
]
EPOCHS = "--trainer.max_epochs=3"


def newest_run() -> Path:
    return max(Path("lightning_logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        for name in sorted(content, key=str):
            yield from leaves(content[name])
    elif isinstance(content, list | tuple):
        for item in content:
            yield from leaves(item)
    else:
        yield content


def same(first: Any, second: Any) -> bool:
    """Whether all tensors and numbers are equal bit for bit."""
    pairs = list(zip(leaves(first), leaves(second), strict=True))
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        for one, other in pairs
    )


STATE = ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state")
STATE += ("averaging_state", "global_step", "position")
