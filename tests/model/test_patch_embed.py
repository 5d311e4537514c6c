"""The convolutional stem and shifted patches against vit_pytorch's and torch's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_device import DEVICE, fake_device
from torch import Tensor, nn
from vit_pytorch import cct
from vit_pytorch import vit_for_small_dataset as small_dataset

from vitlit.errors import InputError
from vitlit.model.patch_embed import ConvStem, Embedding, PatchEmbed, ShiftedPatches, make_embedding

KINDS = ["linear", "conv", "conv_stem", "shifted"]
IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def embedding(kind: Any, **changes: Any) -> Embedding:
    """In float64, with every parameter far from zero."""
    torch.manual_seed(1)
    usual = {"patch_size": 4, "in_chans": 3, "embed_dim": 10, "norm_eps": 1e-6}
    layer = make_embedding(kind, **{**usual, **changes}).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.mark.parametrize("patch_size", [2, 4])
def test_the_stem_computes_what_vit_pytorchs_cct_does(patch_size: int) -> None:
    stem = embedding("conv_stem", patch_size=patch_size)
    theirs = cct.Tokenizer(
        3, 1, 1, n_conv_layers=patch_size // 2, n_output_channels=10, activation=nn.ReLU
    ).double()
    filters = zip(theirs.parameters(), stem.parameters(), strict=True)
    for their_filter, our_filter in filters:
        their_filter.data.copy_(our_filter.data)
    torch.testing.assert_close(stem(IMAGES), theirs(IMAGES))


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("stem_convs", [2, 3])
def test_a_deep_stem_is_torchs_layers_one_after_the_other(stem_convs: int, norm: str) -> None:
    stem = embedding("conv_stem", embed_dim=32, stem_convs=stem_convs, stem_norm=norm)
    width, layers = 3, []
    for stage in (16, 32):
        for _ in range(stem_convs):
            conv = nn.Conv2d(width, stage, 3, padding=1, bias=False)
            theirs_norm = nn.GroupNorm(8, stage) if norm == "group" else nn.BatchNorm2d(stage)
            layers += [conv, theirs_norm, nn.ReLU()]
            width = stage
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    theirs = nn.Sequential(*layers).double()
    ours = [one for pair in zip(stem.convs, stem.norms, strict=True) for one in pair]
    with torch.no_grad():
        for mine, their in zip(
            ours, [one for one in layers if list(one.parameters())], strict=True
        ):
            their.load_state_dict(mine.state_dict(), strict=norm == "group")  # see BatchNorm
        for _ in range(2):  # batch norms keep what they have seen, and answer by it
            expected = theirs(IMAGES).flatten(2).transpose(1, 2)
            torch.testing.assert_close(stem(IMAGES), expected)
        expected = theirs.eval()(IMAGES).flatten(2).transpose(1, 2)
        torch.testing.assert_close(stem.eval()(IMAGES), expected)


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    stem = embedding("conv_stem", embed_dim=32, stem_convs=2, stem_norm="batch")
    stem(IMAGES)
    stem.requires_grad_(False).train()
    before = {name: value.clone() for name, value in stem.state_dict().items()}
    torch.testing.assert_close(stem(IMAGES)[:1], stem(IMAGES[:1]))
    assert all(torch.equal(value, before[name]) for name, value in stem.state_dict().items())


def test_a_width_that_a_deep_stem_cannot_halve_is_refused() -> None:
    with pytest.raises(InputError, match="embed_dim 30 is not a multiple of 4; stem_convs 2"):
        embedding("conv_stem", patch_size=8, embed_dim=30, stem_convs=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_there_is_one_token_for_each_patch_row_by_row(kind: str, channels: int) -> None:
    layer = embedding(kind, in_chans=channels)
    images = torch.randn(1, channels, 32, 40).double()
    moved = torch.roll(images, (4, 8), dims=(2, 3))  # one patch down, two across
    tokens = layer(images).view(8, 10, 10)
    torch.testing.assert_close(layer(moved).view(8, 10, 10)[3:6, 4:8], tokens[2:5, 2:6])


def shifted_stack(images: Tensor, half: int) -> Tensor:
    """The image and its copies moved to the lower right, lower left, upper right, upper left."""
    stack = [images]
    for down, right in [(1, 1), (1, -1), (-1, 1), (-1, -1)]:
        moved = torch.zeros_like(images)
        for y in range(images.shape[2]):
            for x in range(images.shape[3]):
                v, u = y - down * half, x - right * half
                if 0 <= v < images.shape[2] and 0 <= u < images.shape[3]:
                    moved[:, :, y, x] = images[:, :, v, u]
        stack.append(moved)
    return torch.cat(stack, dim=1)


@pytest.mark.parametrize("patch_size", [2, 4])
def test_shifted_patches_are_those_of_vit_pytorch_on_the_images_that_the_paper_shifts(
    patch_size: int,
) -> None:
    """vit_pytorch moves by one pixel along the axes; its norm and projection are the paper's."""
    layer = embedding("shifted", patch_size=patch_size)
    theirs = small_dataset.SPT(dim=10, patch_size=patch_size).double()

    def in_their_order(values: Tensor) -> Tensor:  # (..., C, P, P) -> (..., P, P, C)
        parts = values.detach().reshape(-1, 15, patch_size, patch_size)
        return parts.permute(0, 2, 3, 1).reshape(values.shape)

    _, norm, proj = theirs.to_patch_tokens
    norm.eps = 1e-6
    norm.load_state_dict({k: in_their_order(v) for k, v in layer.norm.state_dict().items()})
    state = {"weight": in_their_order(layer.proj.weight), "bias": layer.proj.bias.detach()}
    proj.load_state_dict(state)
    stack = shifted_stack(IMAGES, patch_size // 2)
    torch.testing.assert_close(layer(IMAGES), theirs.to_patch_tokens(stack))


@pytest.mark.parametrize("patch_size", [2, 3, 4])
def test_filters_of_shifted_patches_are_one_convolution_but_for_the_norm(patch_size: int) -> None:
    layer = embedding("shifted", patch_size=patch_size)
    images = torch.randn(2, 3, 2 * patch_size, 3 * patch_size).double()
    filters = layer.filters()
    layer.proj.weight.data *= layer.norm.weight.data  # as if the norm did nothing but scale
    layer.norm = nn.Identity()
    pad = patch_size // 2
    expected = F.conv2d(images, filters, layer.proj.bias, stride=patch_size, padding=pad)
    torch.testing.assert_close(layer(images), expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("kind", "stem_convs"), [*((kind, 1) for kind in KINDS), ("conv_stem", 2)])
def test_the_odd_parameter_undoes_the_sign_of_the_images(kind: str, stem_convs: int) -> None:
    layer = embedding(kind, stem_convs=stem_convs)
    before = layer(IMAGES)
    with torch.no_grad():
        layer.get_parameter(layer.odd).neg_()
    torch.testing.assert_close(layer(-IMAGES), before)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("conv_stem", {"embed_dim": 3}),
        ("conv_stem", {"embed_dim": 4, "stem_convs": 2}),
        ("shifted", {"embed_dim": 3}),
    ],
)
def test_every_gradient_is_that_of_finite_differences(kind: str, changes: dict[str, int]) -> None:
    layer = embedding(kind, **changes)
    names = [name for name, _ in layer.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), IMAGES[:1])

    values = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@pytest.mark.parametrize(
    ("kind", "changes"), [("conv_stem", {}), ("conv_stem", {"stem_convs": 2}), ("shifted", {})]
)
def test_a_token_depends_on_no_other_image(kind: str, changes: dict[str, int]) -> None:
    layer = embedding(kind, **changes).train()
    torch.testing.assert_close(layer(IMAGES)[:1], layer(IMAGES[:1]))


def test_each_kind_has_its_class() -> None:
    classes = [type(embedding(kind)) for kind in KINDS]
    assert classes == [PatchEmbed, PatchEmbed, ConvStem, ShiftedPatches]


def test_the_norm_of_shifted_patches_adds_a_millionth_unless_told() -> None:
    layer = ShiftedPatches(kind="shifted", patch_size=4, in_chans=3, embed_dim=8)
    assert layer.norm.eps == 1e-6


def test_the_stem_begins_kaiming_normal() -> None:
    stem = make_embedding("conv_stem", patch_size=4, in_chans=3, embed_dim=96, norm_eps=1e-6)
    for conv, fan in zip(stem.convs, (27, 576), strict=True):
        assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)


@pytest.mark.parametrize("patch_size", [1, 3, 6])
def test_a_stem_for_patches_that_no_halving_leads_to_is_refused(patch_size: int) -> None:
    with pytest.raises(InputError, match=f"patch_size {patch_size} is not 2, 4, 8, 16 or 32"):
        embedding("conv_stem", patch_size=patch_size)


def test_patches_of_one_pixel_cannot_be_shifted_by_half() -> None:
    with pytest.raises(InputError, match="patch_size 1 is too small"):
        embedding("shifted", patch_size=1)


def test_a_stem_on_a_gpu_keeps_channels_last_from_layer_to_layer() -> None:
    stem = make_embedding("conv_stem", patch_size=4, in_chans=3, embed_dim=10, norm_eps=1e-6)
    assert isinstance(stem, ConvStem)
    layouts = []
    for conv in stem.convs:
        conv.register_forward_hook(
            lambda *args: layouts.append(
                args[2].is_contiguous(memory_format=torch.channels_last)
                and not args[2].is_contiguous()
            )
        )
    with fake_device() as gpu:
        stem.to(DEVICE)
        images = torch.zeros(2, 3, 8, 12, device=DEVICE)
        gpu.forget()
        tokens = stem(images)
    assert layouts == [True, True]
    assert tokens.is_contiguous()  # a view of the last layer, without a copy
    assert gpu.launches["clone"] == 1  # that of the images
