"""Which patches are masked, and that the encoder sees none of those."""

import pytest
import torch
from small_vit import small
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.patches import patchify
from vitlit.pretraining.masking import (
    check_maskable,
    encode_visible,
    masked_places,
    visible_count,
    visible_places,
)

N = 6  # patches of the small model


def test_the_places_are_as_many_as_asked_for_ascending_and_within_the_grid() -> None:
    found = visible_places(3, 2, torch.arange(500), 16, 4)
    assert found.shape == (500, 4)
    assert bool((found.diff(dim=1) > 0).all())
    assert (int(found.min()), int(found.max())) == (0, 15)


def test_every_patch_is_visible_equally_often() -> None:
    # In 4000 images each of 16 patches is visible with p = 1/4; without replacement the statistic
    # below is chi-squared with 15 degrees of freedom, whose 1e-6 quantile is 61.
    images, patches, count = 4000, 16, 4
    found = visible_places(0, 0, torch.arange(images), patches, count)
    seen = torch.bincount(found.flatten(), minlength=patches).double()
    share = count / patches
    spread = images * share * (1 - share) * patches / (patches - 1)
    assert float(((seen - images * share) ** 2 / spread).sum()) < 61


def test_pairs_of_patches_are_visible_together_equally_often() -> None:
    images, patches = 6000, 6
    found = visible_places(1, 5, torch.arange(images), patches, 2)
    pairs = torch.bincount(found[:, 0] * patches + found[:, 1], minlength=patches**2).double()
    pairs = pairs[pairs > 0]
    assert len(pairs) == 15  # all of them
    # chi-squared with 14 degrees of freedom: 59 is the 1e-6 quantile
    assert float(((pairs - images / 15) ** 2 / (images / 15)).sum()) < 59


def test_the_mask_of_an_image_depends_on_seed_epoch_and_image_and_on_no_batch() -> None:
    samples = torch.tensor([7, 3, 11, 5])
    whole = visible_places(1, 4, samples, 16, 4)
    alone = torch.cat([visible_places(1, 4, one[None], 16, 4) for one in samples])
    assert torch.equal(whole, alone)
    for other in (visible_places(2, 4, samples, 16, 4), visible_places(1, 5, samples, 16, 4)):
        assert not torch.equal(whole, other)


def test_masked_and_visible_patches_make_up_the_image() -> None:
    found = visible_places(0, 0, torch.arange(8), N, 2)
    hidden = masked_places(found, N)
    assert hidden.sum(dim=1).tolist() == [4] * 8
    for row, places in zip(hidden, found, strict=True):
        assert [not row[place] for place in places] == [True, True]


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"), [(16, 0.75, 4), (196, 0.75, 49), (49, 0.75, 12), (4, 0.5, 2)]
)
def test_the_share_is_rounded_to_whole_patches(patches: int, ratio: float, visible: int) -> None:
    assert visible_count(patches, ratio) == visible


@pytest.mark.parametrize(("patches", "ratio"), [(4, 0.9), (4, 0.1), (16, 1.0), (16, 0.0), (1, 0.5)])
def test_a_share_that_leaves_nothing_to_see_or_to_predict_is_refused(
    patches: int, ratio: float
) -> None:
    with pytest.raises(InputError, match=f"mask_ratio {ratio}") as caught:
        visible_count(patches, ratio)
    assert "mask_ratio" in caught.value.arguments


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 8, 12, dtype=torch.float64)


KINDS = [
    {},
    {"patch_embed": "linear", "pos_embed": "sincos2d", "global_pool": "avg"},
    {"reg_tokens": 2, "pre_norm": True, "embed_norm": True},
    {"pos_embed": "none", "attention": "lsa"},
]


@pytest.mark.parametrize("changes", KINDS)
def test_masked_pixels_change_nothing_that_the_encoder_gives(changes: dict[str, object]) -> None:
    vit, x = small(**changes), images()
    places = visible_places(0, 0, torch.arange(3), N, 2)
    patches = patchify(x, 4)
    before = encode_visible(vit, patches, places)
    other = torch.where(masked_places(places, N)[:, :, None], torch.randn_like(patches), patches)
    assert not torch.equal(other, patches)
    assert torch.equal(encode_visible(vit, other, places), before)
    assert before.shape == (3, vit.num_prefix_tokens + 2, 16)


@pytest.mark.parametrize("changes", KINDS)
def test_visible_pixels_do_change_it(changes: dict[str, object]) -> None:
    vit, patches = small(**changes), patchify(images(), 4)
    places = visible_places(0, 0, torch.arange(3), N, 2)
    hidden = masked_places(places, N)[:, :, None]
    other = torch.where(hidden, patches, torch.randn_like(patches))
    assert not torch.equal(encode_visible(vit, other, places), encode_visible(vit, patches, places))


@pytest.mark.parametrize("changes", KINDS)
def test_with_all_patches_visible_the_encoder_is_the_whole_model(
    changes: dict[str, object],
) -> None:
    vit, x = small(**changes), images()
    everything = torch.arange(N).expand(3, N)
    found = encode_visible(vit, patchify(x, 4), everything)
    expected = vit.fc_norm(vit.forward_features(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_each_visible_patch_keeps_its_own_position() -> None:
    """By a model of one block, in which a slow loop takes tokens out of the embedded image."""
    vit, x = small(depth=1), images()
    places = torch.tensor([[0, 4], [1, 2], [3, 5]])
    found = encode_visible(vit, patchify(x, 4), places)
    tokens = vit.embed(x)
    for image, kept in enumerate(places.tolist()):
        few = torch.stack([tokens[image, 0], *(tokens[image, 1 + place] for place in kept)])
        expected = vit.norm(vit.blocks(few[None]))[0]
        torch.testing.assert_close(found[image], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_embed": "conv_stem"},
        {"patch_embed": "shifted"},
        {"attention": "gpsa"},
        {"attention": "relative"},
        {"rope": "index", "pos_embed": "none"},
    ],
)
def test_a_model_that_needs_all_patches_is_refused_by_the_argument(
    changes: dict[str, str],
) -> None:
    [name, value] = next(iter(changes.items()))
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    with pytest.raises(InputError, match=f"^{name} {value} ") as caught:
        check_maskable(ViT(**size, **changes))  # type: ignore[arg-type]
    assert caught.value.arguments == (name,)
