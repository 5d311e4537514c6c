"""The benchmarks measure what they say: the same images, the same code, on the device they name."""

from itertools import islice

import loop_overhead
import pytest
import torch
from few_labels import trainer_for

from vitlit import ImageData
from vitlit.data import resident


def test_the_bare_loop_has_pixels_too_where_a_gpu_holds_the_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident, "fits", lambda images, device: True)  # as on a GPU
    data = ImageData(batch_size=8, patch_size=2)
    data.setup("fit")
    [sent] = islice(loop_overhead.endless(data, torch.device("cpu")), 1)
    data.trainer = trainer_for(1)
    assert isinstance(data.train_dataloader().dataset, resident.RowSplit)
    [held] = islice(loop_overhead.endless(data, torch.device("cpu")), 1)
    assert torch.equal(held.x, sent.x)
