"""Attention maps, rollout, relevance and figure 7's quantities against timm, loops and numpy."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_vit import GRID, SMALL, random_maps, small
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.explain.attribution import (
    attention_maps,
    cls_map,
    overlay,
    patch_map,
    relevance,
    rollout,
)
from vitlit.model.vit import ViT

POOLS = ["token", "avg"]
LOOKS: dict[str, Callable[[ViT, Tensor], object]] = {
    "attention_maps": attention_maps,
    "relevance": lambda model, x: relevance(model, x, torch.zeros(len(x), dtype=torch.long)),
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def images(count: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 8, 12, generator=draw, dtype=torch.float64)


def timm_attention(model: ViT) -> tuple[VisionTransformer, list[Tensor]]:
    """timm's model of the same weights, unfused, and the list its attention goes to."""
    token = model.global_pool == "token"
    reference = VisionTransformer(**SMALL, global_pool=model.global_pool, class_token=token)
    reference.double().eval().load_state_dict(model.state_dict())
    found: list[Tensor] = []
    for block in reference.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *args: found.append(args[2]))
    return reference, found


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("pool", POOLS)
def test_maps_equal_timms_with_the_same_weights(pool: str) -> None:
    model = small(global_pool=pool)
    reference, expected = timm_attention(model)
    reference(images())
    maps = attention_maps(model, images()).maps
    torch.testing.assert_close(maps, torch.stack(expected), rtol=0, atol=1e-12)


def test_maps_times_the_values_give_the_fused_output_to_1e_6_in_float32() -> None:
    model, mixed = small().float(), []
    layer = model.blocks[0].attn
    layer.proj.register_forward_pre_hook(lambda _, args: mixed.append(args[0]))
    maps = attention_maps(model, images().float(), blocks=[0]).maps[0]
    values = layer.project(model.blocks[0].norm1(model.embed(images().float())))[2]
    explicit = (maps @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed[0], explicit, rtol=1e-6, atol=1e-6)


def test_logits_are_those_of_the_model() -> None:
    model = small()
    assert torch.equal(attention_maps(model, images()).logits, model(images()))


def test_patches_give_the_maps_of_their_images() -> None:
    model = small()
    patches = F.unfold(images(), 4, stride=4).transpose(1, 2)  # (B, N, C*P*P)
    expected = attention_maps(model, images()).maps
    torch.testing.assert_close(attention_maps(model, patches).maps, expected)


def test_only_the_blocks_asked_for_are_kept_in_their_order() -> None:
    model = small()
    every = attention_maps(model, images()).maps
    assert torch.equal(attention_maps(model, images(), blocks=[-1, 0]).maps, every[[2, 0]])


@pytest.mark.parametrize("blocks", [[3], [-4], []])
def test_blocks_that_the_model_does_not_have_are_refused(blocks: list[int]) -> None:
    with pytest.raises(InputError, match="block"):
        attention_maps(small(), images(), blocks=blocks)


def test_maps_are_without_dropout_and_every_module_keeps_its_mode() -> None:
    model = small(attn_drop_rate=0.5, pos_drop_rate=0.5)
    expected = attention_maps(model, images()).maps
    model.train()
    model.blocks[1].eval()  # frozen, say
    modes = [module.training for module in model.modules()]
    assert torch.equal(attention_maps(model, images()).maps, expected)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("look", LOOKS)
def test_hooks_are_gone_afterwards(look: str) -> None:
    model = small()
    LOOKS[look](model, images())
    assert hooks(model) == 0


def test_hooks_are_gone_and_the_mode_is_back_after_an_error() -> None:
    model = small().train()
    with pytest.raises(InputError, match="does not fit the model"):
        attention_maps(model, torch.zeros(1, 1, 3, 3))
    assert hooks(model) == 0
    assert model.training


def test_a_block_whose_attention_is_never_called_is_an_error() -> None:
    model = small()
    model.blocks[1].forward = lambda x: x  # as if exported or replaced
    with pytest.raises(RuntimeError, match="block 1 was never called"):
        attention_maps(model, images())
    assert hooks(model) == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("look", LOOKS)
def test_training_goes_on_as_if_nobody_had_looked(look: str, compiled: bool) -> None:
    gradients = []
    for looking in (False, True):
        torch.compiler.reset()
        torch.manual_seed(0)
        model = small(proj_drop_rate=0.2, depth=1 if compiled else 3).train()  # quickly compiled
        if compiled:
            model.compile(backend="aot_eager")
        for step in range(2):
            torch.manual_seed(step)
            model(images()).square().sum().backward()
            if looking and step == 0:
                LOOKS[look](model, images())
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_compiled_model_shows_the_same() -> None:
    model = small(depth=1)
    expected = {name: look(model, images()) for name, look in LOOKS.items()}
    torch.compiler.reset()
    model.compile(backend="aot_eager")
    model(images())  # compiled now, before there are hooks
    for name, look in LOOKS.items():
        torch.testing.assert_close(look(model, images()), expected[name])


def slow_rollout(maps: Tensor) -> Tensor:
    """Of one image, ``(L, h, N, N)``: the paper's equations 1 and 2, number by number."""
    count = maps.shape[-1]
    flow = np.eye(count)
    for heads in maps.numpy():
        step = np.zeros((count, count))
        for i, j in product(range(count), repeat=2):
            step[i, j] = 0.5 * np.mean([head[i, j] for head in heads]) + 0.5 * (i == j)
        flow = step @ flow
    return torch.from_numpy(flow)


def test_rollout_equals_the_papers_equations() -> None:
    maps = random_maps(3, 2, 4, 7, 7)
    expected = torch.stack([slow_rollout(maps[:, 0]), slow_rollout(maps[:, 1])])
    torch.testing.assert_close(rollout(maps), expected)


@pytest.mark.parametrize("discard", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_rows_of_a_rollout_sum_to_one(fusion: Any, discard: float) -> None:
    flow = rollout(random_maps(3, 2, 4, 7, 7), fusion=fusion, discard=discard)
    torch.testing.assert_close(flow.sum(dim=-1), torch.ones(2, 7, dtype=torch.float64))


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_identity_attention_gives_an_identity_rollout(fusion: Any) -> None:
    identity = torch.eye(7).expand(3, 2, 4, 7, 7)
    assert torch.equal(rollout(identity, fusion=fusion), torch.eye(7).expand(2, 7, 7))


@pytest.mark.parametrize("discard", [0.0, 0.5])
def test_a_batch_of_two_rolls_out_as_two_batches_of_one(discard: float) -> None:
    maps = random_maps(3, 2, 4, 7, 7)
    alone = [rollout(maps[:, i : i + 1], discard=discard, prefix=1) for i in range(2)]
    torch.testing.assert_close(rollout(maps, discard=discard, prefix=1), torch.cat(alone))


def test_fusing_by_the_maximum_takes_the_strongest_head() -> None:
    maps = random_maps(1, 1, 2, 3, 3)
    step = torch.maximum(maps[0, 0, 0], maps[0, 0, 1]) + torch.eye(3)
    expected = step / step.sum(dim=1, keepdim=True)
    torch.testing.assert_close(rollout(maps, fusion="max")[0], expected)


def test_the_weakest_share_of_each_image_is_discarded() -> None:
    maps = random_maps(1, 2, 1, 4, 4)
    flow = rollout(maps, discard=0.5)
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    for image, attention in zip(flow, maps[0, :, 0], strict=True):
        weak = attention < attention.flatten().sort().values[8]
        assert (image[weak & off_diagonal] == 0).all()
        assert (image[~weak] > 0).all()


def test_attention_to_the_class_token_is_never_discarded() -> None:
    maps = random_maps(1, 2, 1, 4, 4)
    maps[..., 0] /= 1000  # the weakest of all
    assert (rollout(maps, discard=0.9)[:, 1:, 0] == 0).all()
    assert (rollout(maps, discard=0.9, prefix=1)[:, 1:, 0] > 0).all()


@pytest.mark.parametrize("discard", [-0.1, 1.0, math.nan])
def test_a_discarded_share_outside_0_to_1_is_refused(discard: float) -> None:
    with pytest.raises(InputError, match=r"discard .* is not in \[0, 1\)"):
        rollout(random_maps(1, 1, 1, 2, 2), discard=discard)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(InputError, match="unknown fusion 'sum'"):
        rollout(random_maps(1, 1, 1, 2, 2), fusion="sum")  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", POOLS)
def test_relevance_equals_autograd_through_timms_explicit_attention(pool: str) -> None:
    model, classes = small(global_pool=pool), torch.tensor([3, 1])
    reference, attentions = timm_attention(model)
    logits = reference(images())
    gradients = torch.autograd.grad(logits[0, 3] + logits[1, 1], attentions)
    expected = torch.eye(attentions[0].shape[-1], dtype=torch.float64).repeat(2, 1, 1)
    for attention, gradient in zip(attentions, gradients, strict=True):
        expected = expected + (attention * gradient).clamp(min=0).mean(dim=1) @ expected
    found = relevance(model, images(), classes)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_relevance_of_a_batch_is_that_of_each_image() -> None:
    model, classes = small(), torch.tensor([3, 1])
    alone = [relevance(model, images()[i : i + 1], classes[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(relevance(model, images(), classes), torch.cat(alone))


def test_relevance_works_on_frozen_weights_in_inference_mode() -> None:
    model, classes = small().requires_grad_(False), torch.tensor([3, 1])
    expected = relevance(small_copy(model), images(), classes)
    with torch.inference_mode():
        found = relevance(model, images(), classes.clone())
    torch.testing.assert_close(found.clone(), expected)


def small_copy(model: ViT) -> ViT:
    """The same weights, but trainable."""
    copy = small()
    copy.load_state_dict(model.state_dict())
    return copy


def test_relevance_leaves_no_gradients() -> None:
    model, x = small(), images()
    relevance(model, x, torch.tensor([0, 0]))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert x.grad is None


@pytest.mark.parametrize("classes", [[0], [0, 5], [-1, 0]])
def test_classes_that_do_not_fit_are_refused(classes: list[int]) -> None:
    with pytest.raises(InputError, match="classes"):
        relevance(small(), images(), torch.tensor(classes))


def test_the_class_map_is_the_class_tokens_row_of_the_last_block() -> None:
    maps = random_maps(3, 2, 4, 7, 7)
    found = cls_map(maps, grid=GRID, prefix=1)
    for b, row, col in product(range(2), range(2), range(3)):
        expected = sum(maps[-1, b, head, 0, 1 + 3 * row + col] for head in range(4)) / 4
        assert found[b, row, col].item() == pytest.approx(expected.item())


def test_without_a_class_token_the_class_map_is_the_mean_over_rows() -> None:
    maps = random_maps(3, 2, 4, 6, 6)
    expected = maps[-1].mean(dim=(1, 2)).view(2, 2, 3)
    torch.testing.assert_close(cls_map(maps, grid=GRID, prefix=0), expected)


@pytest.mark.parametrize("pool", POOLS)
def test_registers_are_left_out_of_the_map(pool: Any) -> None:
    matrix = random_maps(2, 9, 9)  # three prefix tokens
    rows = matrix[:, :1] if pool == "token" else matrix[:, 3:]
    expected = rows[:, :, 3:].mean(dim=1).view(2, 2, 3)
    torch.testing.assert_close(patch_map(matrix, grid=GRID, prefix=3, pool=pool), expected)


def test_heads_keep_their_own_maps() -> None:
    heads = random_maps(2, 4, 7, 7)
    alone = [patch_map(heads[:, i], grid=GRID, prefix=1) for i in range(4)]
    assert torch.equal(patch_map(heads, grid=GRID, prefix=1), torch.stack(alone, dim=1))


def test_a_grid_that_does_not_hold_the_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="7 tokens are not 1 and a grid of 3x3 patches"):
        patch_map(random_maps(2, 7, 7), grid=(3, 3), prefix=1)


VERMILION = torch.tensor([0.95, 0.38, 0.0])


@pytest.mark.parametrize(
    ("times", "strength"), [(0.0, 0), (1.0, 0), (2.0, 1 / 3), (4.0, 2 / 3), (8.0, 1), (15.0, 1)]
)
def test_an_overlay_is_coloured_by_how_far_a_patch_is_above_the_mean(
    times: float, strength: float
) -> None:
    rest = (16 - times) / 15  # of the other patches, so that the mean is 1
    maps = torch.full((1, 4, 4), rest).index_fill(1, torch.tensor([1]), rest)
    maps[0, 1, 2] = times
    found = overlay(torch.full((1, 1, 4, 4), 0.3), 0.01 * maps)[0, :, 1, 2]
    grey = 0.1 + 0.75 * 0.3
    torch.testing.assert_close(found, grey + 0.9 * strength * (VERMILION - grey))


def test_attention_is_seen_on_black_and_on_white() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = 1
    for shade in (0.0, 1.0):
        found = overlay(torch.full((1, 3, 4, 4), shade), maps)[0]
        assert (found[:, 0, 0] - found[:, 3, 3]).abs().max() > 0.7


@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_a_flat_map_has_no_colour_however_large_its_noise_would_be_made(size: float) -> None:
    pictures = torch.rand(2, 3, 8, 12)
    maps = size * (torch.full((2, *GRID), 1 / 6) + 1e-3 * torch.rand(2, *GRID))
    grey = (0.1 + 0.75 * pictures.mean(dim=1, keepdim=True)).expand(-1, 3, -1, -1)
    torch.testing.assert_close(overlay(pictures, maps), grey, atol=4e-3, rtol=0)
    torch.testing.assert_close(overlay(pictures, torch.zeros(2, *GRID)), grey)


@pytest.mark.parametrize("pool", POOLS)
def test_a_model_of_a_rectangular_grid_gives_maps_of_its_grid(pool: Any) -> None:
    model = small(global_pool=pool)
    prefix = model.num_prefix_tokens
    flow = rollout(attention_maps(model, images()).maps, discard=0.5, prefix=prefix)
    found = patch_map(flow, grid=model.grid_size, prefix=prefix, pool=pool)
    assert overlay(torch.rand(2, 3, 8, 12), found).shape == (2, 3, 8, 12)
