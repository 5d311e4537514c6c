"""Features of any block and pooling, against timm."""

from typing import Any

import pytest
import timm
import torch

from vitlit.errors import InputError
from vitlit.model.features import Feature, FeaturePool, PatchFeature
from vitlit.model.vit import ViT
from vitlit.patches import patchify

SIZE: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5,
}  # fmt: skip


def pair_of_models(pool: Any = "token") -> tuple[ViT, Any]:
    """Ours and timm's with the same random weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", global_pool=pool, **SIZE).eval()
    ours = ViT(**SIZE, global_pool=pool, class_token=True).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("pool", ["token", "avg"])
@torch.no_grad()
def test_by_default_they_are_what_the_head_reads(pool: str) -> None:
    ours, theirs = pair_of_models(pool)
    x = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    torch.testing.assert_close(Feature()(ours, x), expected)
    torch.testing.assert_close(ours.head(Feature()(ours, x)), ours(x))


@pytest.mark.parametrize("layer", [0, 1, -2])
@pytest.mark.parametrize("pool", ["token", "avg"])
@torch.no_grad()
def test_those_of_a_block_are_timms(layer: int, pool: FeaturePool) -> None:
    ours, theirs = pair_of_models()
    x = torch.randn(2, 3, 32, 32)
    [(patches, prefix)] = theirs.get_intermediate_layers(x, [layer % 3], return_prefix_tokens=True)
    expected = prefix[:, 0] if pool == "token" else patches.mean(dim=1)
    torch.testing.assert_close(Feature(layer, pool)(ours, x), expected)


@torch.no_grad()
def test_the_last_block_is_normed() -> None:
    ours, theirs = pair_of_models()
    x = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_features(x)[:, 1:].mean(dim=1)
    torch.testing.assert_close(Feature(2, "avg")(ours, x), expected)


@pytest.mark.parametrize("layer", [0, -2, None])
@torch.no_grad()
def test_tokens_of_patches_are_timms(layer: int | None) -> None:
    ours, theirs = pair_of_models()
    x = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_features(x)[:, 1:]
    if layer is not None:
        [expected] = theirs.get_intermediate_layers(x, [layer % 3])
    torch.testing.assert_close(PatchFeature(layer)(ours, x), expected)


@torch.no_grad()
def test_patches_give_the_features_of_their_images() -> None:
    ours, _ = pair_of_models()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(Feature(1)(ours, patchify(x, 8)), Feature(1)(ours, x))


@pytest.mark.parametrize("layer", [3, -4])
def test_a_block_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(InputError, match=f"no block {layer}; give a layer from -3 to 2"):
        Feature(layer).check(ViT(**SIZE))
    with pytest.raises(InputError, match=f"no block {layer}; give a layer from -3 to 2"):
        PatchFeature(layer).check(ViT(**SIZE))


def test_a_class_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no class token"):
        Feature(pool="token").check(ViT(**SIZE, global_pool="avg"))
