"""Training side by side: ours through Lightning, transformers' ViT in a plain loop of torch."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from transformers import ViTForImageClassification

from vitlit import ImageData
from vitlit.data.batch import Batch
from vitlit.deploy.export import export_model
from vitlit.training.classifier import Classifier

STEPS, WARMUP, RATE = 100, 10, 4e-3


class Watched(Classifier):
    """Keeps the images that each step got, as they were before they became patches."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen.append((batch.x, batch.y, loss.item()))
        return loss


def their_losses(model: torch.nn.Module, batches: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    rise = LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP - 1)
    fall = CosineAnnealingLR(optimizer, STEPS - WARMUP)
    schedule = SequentialLR(optimizer, [rise, fall], [WARMUP])
    losses = []
    for images, labels, _ in batches:
        loss = F.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return torch.tensor(losses)


@pytest.mark.first
@pytest.mark.filterwarnings("ignore")  # of a trainer without logger and checkpoints
def test_a_hundred_losses_equal_those_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = ImageData(patch_size=2, patchify=False, batch_size=96)
    model = Watched(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=48, depth=2, num_heads=4,
        lr=RATE, optimizer="adam", weight_decay=0.0, warmup_steps=WARMUP, norm_eps=1e-12,
    )  # fmt: skip
    torch.nn.init.normal_(model.vit.head.weight, std=0.02)
    folder = export_model(
        model.vit, data.preprocess, model.class_names, tmp_path / "out", naming="huggingface"
    ).folder
    theirs = ViTForImageClassification.from_pretrained(folder).train()
    model.seen = []
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    ours = torch.tensor([loss for *_, loss in model.seen])
    assert len(ours) == STEPS
    assert ours[-1] < 0.5
    torch.testing.assert_close(ours, their_losses(theirs, model.seen), rtol=1e-4, atol=0)
