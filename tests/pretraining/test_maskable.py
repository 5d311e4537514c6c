"""The loss of a masked autoencoder against slow loops, its decoder, and its settings."""

from typing import Any

import pytest
import torch
from torch import nn

from vitlit.errors import InputError
from vitlit.pretraining.decoder import usual_width
from vitlit.pretraining.maskable import MaskableViT, masked_loss, normalised
from vitlit.pretraining.masking import masked_places, visible_places
from vitlit.training.optim.groups import parameter_groups

SMALL: dict[str, Any] = {
    "img_size": [8, 12],
    "patch_size": 4,
    "in_chans": 3,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}
N, LENGTH = 6, 48


def small(**changes: Any) -> MaskableViT:
    torch.manual_seed(0)
    model = MaskableViT(**{**SMALL, **changes}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_the_loss_is_that_of_a_slow_loop_over_masked_patches() -> None:
    model, patches = small(), torch.rand(3, N, LENGTH, dtype=torch.float64)
    places = visible_places(0, 0, torch.arange(3), N, model.visible)
    predicted = model.reconstruct(patches, places).float().detach()
    found = model.losses(patches, places).tolist()
    for image in range(3):
        errors = []
        for patch in range(N):
            if patch in places[image].tolist():
                continue
            pixels = patches[image, patch].float()
            mean = pixels.sum() / LENGTH
            variance = ((pixels - mean) ** 2).sum() / (LENGTH - 1)  # as in MAE's code
            wanted = (pixels - mean) / (variance + 1e-6) ** 0.5
            pairs = zip(predicted[image, patch].tolist(), wanted.tolist(), strict=True)
            errors += [(given - right) ** 2 for given, right in pairs]
        assert found[image] == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_without_norm_pixels_the_pixels_themselves_are_predicted() -> None:
    model, patches = small(norm_pixels=False), torch.rand(2, N, LENGTH, dtype=torch.float64)
    places = visible_places(0, 0, torch.arange(2), N, model.visible)
    hidden = masked_places(places, N)
    off = model.reconstruct(patches, places).float() - patches
    expected = (off[hidden] ** 2).view(2, -1).mean(dim=1)
    torch.testing.assert_close(model.losses(patches, places), expected)


def test_visible_patches_do_not_count() -> None:
    wanted, hidden = torch.zeros(1, 2, 3), torch.tensor([[True, False]])
    predicted = torch.tensor([[[2.0, 2.0, 2.0], [9.0, 9.0, 9.0]]])
    assert masked_loss(predicted, wanted, hidden).tolist() == [4.0]


def test_normalised_patches_have_mean_0_and_a_flat_one_is_0() -> None:
    found = normalised(torch.cat([torch.rand(1, 2, 12), torch.full((1, 2, 12), 0.5)]))
    torch.testing.assert_close(found[0].mean(dim=-1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0].std(dim=-1), torch.ones(2), atol=1e-3, rtol=0)
    assert found[1].abs().max() == 0


def test_the_decoder_reads_no_masked_patch_either() -> None:
    model, patches = small(), torch.rand(2, N, LENGTH, dtype=torch.float64)
    places = visible_places(0, 0, torch.arange(2), N, model.visible)
    hidden = masked_places(places, N)[:, :, None]
    other = torch.where(hidden, torch.rand_like(patches), patches)
    assert torch.equal(model.reconstruct(other, places), model.reconstruct(patches, places))


def test_the_decoder_tells_masked_patches_apart_by_their_position() -> None:
    model, patches = small(), torch.rand(1, N, LENGTH, dtype=torch.float64)
    found = model.reconstruct(patches, torch.tensor([[0]]))[0]
    assert len({tuple(row.tolist()) for row in found}) == N


def test_every_parameter_that_is_trained_gets_a_gradient() -> None:
    """Others would make DDP wait: those of the pooling are left out."""
    for pool in ("token", "avg", "seq", "map"):
        model = small(global_pool=pool, reg_tokens=1)
        patches = torch.rand(2, N, LENGTH, dtype=torch.float64)
        places = visible_places(0, 0, torch.arange(2), N, model.visible)
        model.losses(patches, places).mean().backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
        frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
        assert all("pool" in name for name in frozen)
        assert bool(frozen) == (pool in ("seq", "map"))


def test_the_mask_token_is_spared_by_weight_decay() -> None:
    model = small()
    groups = parameter_groups(model, weight_decay=0.1, decay="matrices", depth=2)
    [spared] = [group["params"] for group in groups if group["weight_decay"] == 0]
    assert any(one is model.decoder.mask_token for one in spared)


@pytest.mark.parametrize(("dim", "heads", "width"), [(64, 4, 32), (192, 3, 96), (768, 12, 384)])
def test_the_decoder_has_half_the_width_by_default(dim: int, heads: int, width: int) -> None:
    assert usual_width(dim, heads) == width


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"decoder_dim": 10}, "decoder_dim"),
        ({"decoder_dim": 0}, "decoder_dim"),
        ({"decoder_depth": 0}, "decoder_depth"),
        ({"decoder_num_heads": 0}, "decoder_num_heads"),
        ({"mask_ratio": 1.5}, "mask_ratio"),
        ({"patch_size": 1, "in_chans": 1}, "norm_pixels"),
        ({"patch_embed": "shifted"}, "patch_embed"),
    ],
)
def test_bad_settings_are_refused_by_name(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError) as caught:
        MaskableViT(**{**SMALL, **changes})
    assert caught.value.arguments[0] == argument


def test_settings_that_need_labels_are_unknown() -> None:
    with pytest.raises(TypeError, match="label_smoothing"):
        MaskableViT(**SMALL, label_smoothing=0.1)
