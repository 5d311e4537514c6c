"""LSA and GPSA against timm's ConViT, vit_pytorch, slow loops and closed forms."""

import math
from typing import Any

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
from timm.models import beit
from timm.models.convit import GPSA
from torch import Tensor, nn
from vit_pytorch import vit_for_small_dataset as small_dataset

from vitlit.errors import InputError
from vitlit.model.attention import Attention
from vitlit.model.local_attention import (
    ATTENTIONS,
    ExplicitAttention,
    GatedPositionalAttention,
    LocalitySelfAttention,
    attention_layers,
)
from vitlit.model.positions import rope2d

TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRID = (2, 3)


def layer_of(kind: str, *, prefix: int = 0, grid: tuple[int, int] = GRID, **changes: Any) -> Any:
    """In float64, with every parameter far from zero."""
    torch.manual_seed(1)
    place: dict[str, Any] = {}
    if kind in ("gpsa", "relative"):
        place = {"grid": grid, "prefix": prefix}
    if kind == "gpsa":
        place["locality_strength"] = 1.0
    layer = ATTENTIONS[kind](**{"dim": 16, "num_heads": 4, **place, **changes}).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.eval()


@pytest.mark.parametrize("grid", [(2, 3), (3, 3), (1, 4)])
def test_relative_attention_is_that_of_timms_beit(grid: tuple[int, int]) -> None:
    layer = layer_of("relative", grid=grid, prefix=1)
    theirs = beit.Attention(16, 4, qkv_bias=True, window_size=grid).double().eval()
    q, k, v = layer.qkv.bias.chunk(3)
    k.data.zero_()  # timm's has no bias of the keys
    state = {name: value for name, value in layer.state_dict().items() if name != "qkv.bias"}
    theirs.load_state_dict(state | {"q_bias": q.detach(), "v_bias": v.detach()})
    tokens = torch.randn(2, 1 + math.prod(grid), 16, dtype=torch.float64)
    torch.testing.assert_close(layer(tokens), theirs(tokens))


def test_the_bias_of_relative_attention_depends_on_the_offset_alone() -> None:
    layer = layer_of("relative", grid=(3, 4), prefix=2)
    bias = layer.bias()
    for row in range(2, 14):
        for other in range(2, 14):
            down, across = (row - 2) // 4 - (other - 2) // 4, (row - 2) % 4 - (other - 2) % 4
            place = (down + 2) * 7 + across + 3
            assert torch.equal(bias[:, row, other], layer.relative_position_bias_table[place])
    three = [bias[:, 0, 5], bias[:, 5, 1], bias[:, 1, 0]]
    assert torch.equal(torch.stack(three), layer.relative_position_bias_table[-3:])


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_the_matrices_of_relative_attention_give_its_output(prefix: int) -> None:
    layer = layer_of("relative", grid=(2, 3), prefix=prefix)
    tokens = torch.randn(2, 6 + prefix, 16, dtype=torch.float64)
    _, _, v = layer.project(tokens)
    mixed = (layer.weights(tokens) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(tokens), layer.proj(mixed))


def timm_gpsa(layer: GatedPositionalAttention) -> GPSA:
    """timm's layer with the same weights; it takes square grids without a class token."""
    theirs = GPSA(16, 4, qkv_bias=True).double().eval()
    qk, v = layer.qkv.weight.split([32, 16])
    qk_bias, v_bias = layer.qkv.bias.split([32, 16])
    state = {
        "qk.weight": qk,
        "qk.bias": qk_bias,
        "v.weight": v,
        "v.bias": v_bias,
        "proj.weight": layer.proj.weight,
        "proj.bias": layer.proj.bias,
        "pos_proj.weight": layer.locality,
        "pos_proj.bias": torch.randn(4).double(),  # the same for all keys: a softmax ignores it
        "gating_param": layer.gate,
    }
    theirs.load_state_dict({name: value.detach() for name, value in state.items()})
    return theirs


def test_gpsa_computes_what_timms_convit_does() -> None:
    layer = layer_of("gpsa", grid=(3, 3))
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(tokens), timm_gpsa(layer)(tokens), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("heads", [1, 4, 9, 16])
def test_gpsa_begins_as_timms_does(heads: int) -> None:
    width = 9 * heads
    layer = GatedPositionalAttention(
        dim=width, num_heads=heads, grid=(2, 2), prefix=0, locality_strength=1.5
    )
    layer.start_local()
    theirs = GPSA(width, heads, locality_strength=1.5)
    theirs.local_init()
    torch.testing.assert_close(layer.locality, theirs.pos_proj.weight)
    torch.testing.assert_close(layer.gate, theirs.gating_param)
    torch.testing.assert_close(layer.qkv.weight[2 * width :], theirs.v.weight)


def test_heads_beyond_a_square_look_at_the_centre() -> None:
    layer = GatedPositionalAttention(
        dim=12, num_heads=3, grid=(2, 2), prefix=0, locality_strength=2.0
    )
    layer.start_local()
    assert layer.locality.tolist() == [[0, 0, -2]] * 3


def test_a_narrow_gpsa_begins_as_a_shift_of_the_image() -> None:
    """The heads of a 3x3 kernel, gates open: each patch gets its neighbour's value."""
    layer = GatedPositionalAttention(
        dim=9, num_heads=9, grid=(4, 5), prefix=0, locality_strength=50.0
    )
    layer.start_local()
    picture = layer.positional().detach()[1].view(4, 5, 4, 5)  # head 1: one to the left
    for row in range(4):
        for col in range(1, 5):
            assert picture[row, col, row, col - 1].item() == pytest.approx(1.0, abs=1e-6)


def test_attention_by_position_equals_a_softmax_over_all_offsets() -> None:
    layer = layer_of("gpsa")
    found = layer.positional()
    places = [(y, x) for y in range(2) for x in range(3)]
    for head, (across, down, square) in enumerate(layer.locality.tolist()):
        for i, (y, x) in enumerate(places):
            offsets = [(v - y, u - x) for v, u in places]
            logits = [across * u + down * v + square * (u * u + v * v) for v, u in offsets]
            row = torch.tensor(logits, dtype=torch.float64).softmax(dim=0)
            torch.testing.assert_close(found[head, i], row)


def test_prefix_tokens_of_gpsa_attend_as_softmax_does() -> None:
    layer, plain = layer_of("gpsa", prefix=2), layer_of("softmax")
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in plain.state_dict()})
    tokens = torch.randn(2, 8, 16, dtype=torch.float64)
    torch.testing.assert_close(layer.weights(tokens)[:, :, :2], plain.weights(tokens)[:, :, :2])


def test_patches_share_between_content_and_position_by_the_gate() -> None:
    layer, plain = layer_of("gpsa", prefix=2), layer_of("softmax")
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in plain.state_dict()})
    tokens = torch.randn(2, 8, 16, dtype=torch.float64)
    content, gate = plain.weights(tokens)[:, :, 2:], layer.gate.sigmoid().view(-1, 1, 1)
    position = torch.cat([torch.zeros(4, 6, 2), layer.positional()], dim=2)
    expected = (1 - gate) * content + gate * position
    torch.testing.assert_close(layer.weights(tokens)[:, :, 2:], expected)


def lsa_by_loops(layer: LocalitySelfAttention, tokens: Tensor) -> Tensor:
    """Row by row: the logits of all tokens but the one itself, times the head's sharpness."""
    q, k, _ = layer.project(tokens)
    result = torch.zeros(len(tokens), layer.num_heads, tokens.shape[1], tokens.shape[1]).double()
    for b, h, i in torch.cartesian_prod(*map(torch.arange, result.shape[:3])).tolist():
        others = [j for j in range(tokens.shape[1]) if j != i]
        logits = torch.stack([q[b, h, i] @ k[b, h, j] * layer.sharpness[h] for j in others])
        result[b, h, i, others] = logits.softmax(dim=0)
    return result


def test_lsa_equals_a_loop_over_the_other_tokens() -> None:
    layer = layer_of("lsa")
    torch.testing.assert_close(layer.weights(TOKENS), lsa_by_loops(layer, TOKENS))


def test_lsa_computes_what_vit_pytorchs_does_with_its_one_temperature() -> None:
    """theirs: a norm of its own, no bias, one factor for all heads, kept as its logarithm."""
    layer = layer_of("lsa", qkv_bias=False)
    nn.init.constant_(layer.sharpness, 0.7)
    theirs = small_dataset.LSA(16, heads=4, dim_head=4).double().eval()
    theirs.norm = nn.Identity()
    state = {
        "temperature": torch.tensor(math.log(0.7)),
        "to_qkv.weight": layer.qkv.weight,
        "to_out.0.weight": layer.proj.weight,
        "to_out.0.bias": layer.proj.bias,
    }
    theirs.load_state_dict({name: value.detach() for name, value in state.items()})
    torch.testing.assert_close(layer(TOKENS), theirs(TOKENS))


def test_lsa_begins_with_the_temperature_of_softmax() -> None:
    sharpness = LocalitySelfAttention(dim=36, num_heads=4).sharpness
    torch.testing.assert_close(sharpness, torch.full((4,), 1 / 3))


def test_a_token_alone_attends_to_itself() -> None:
    assert layer_of("lsa").weights(TOKENS[:, :1]).tolist() == [[[[1.0]]] * 4] * 2


@pytest.mark.parametrize("kind", ["lsa", "gpsa"])
def test_rows_of_the_weights_sum_to_one(kind: str) -> None:
    sums = layer_of(kind).weights(TOKENS).sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("kind", ["lsa", "gpsa"])
def test_forward_equals_the_weights_times_the_values(kind: str) -> None:
    layer = layer_of(kind, rope=rope2d(GRID, 4))
    values = (TOKENS @ layer.qkv.weight[32:].T + layer.qkv.bias[32:]).view(2, 6, 4, 4)
    mixed = (layer.weights(TOKENS) @ values.transpose(1, 2)).transpose(1, 2).reshape(2, 6, 16)
    torch.testing.assert_close(layer(TOKENS), layer.proj(mixed), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["lsa", "gpsa"])
def test_rope_rotates_what_is_compared_as_timms_does(kind: str) -> None:
    layer = layer_of(kind, rope=rope2d(GRID, 4))
    turn = RotaryEmbeddingCat(4, temperature=100, in_pixels=False, feat_shape=[2, 3]).get_embed()
    projected = (TOKENS @ layer.qkv.weight.T + layer.qkv.bias).view(2, 6, 3, 4, 4)
    q, k = (
        apply_rot_embed_cat(projected[:, :, part].transpose(1, 2), turn.double()) for part in (0, 1)
    )
    expected = layer.compare(q, k)
    torch.testing.assert_close(layer.weights(TOKENS), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["lsa", "gpsa"])
def test_every_gradient_is_that_of_finite_differences(kind: str) -> None:
    layer = layer_of(kind, prefix=0)
    names = [name for name, _ in layer.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), TOKENS[:1])

    values = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@pytest.mark.parametrize("kind", ["lsa", "gpsa"])
def test_dropout_acts_on_the_weights_in_training_mode_alone(kind: str) -> None:
    layer = layer_of(kind, attn_drop=0.5)
    assert torch.equal(layer(TOKENS), layer_of(kind)(TOKENS))
    assert not torch.allclose(layer.train()(TOKENS), layer_of(kind)(TOKENS))


@pytest.mark.parametrize("kind", ["lsa", "gpsa"])
def test_under_bfloat16_autocast_the_output_is_near_that_of_float32(kind: str) -> None:
    layer, tokens = layer_of(kind).float(), TOKENS.float()
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(tokens)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(tokens), rtol=0.1, atol=0.2)


@pytest.mark.parametrize(
    ("depth", "asked", "gated"), [(12, None, 10), (3, None, 1), (1, None, 1), (4, 4, 4), (4, 2, 2)]
)
def test_the_first_blocks_have_gpsa_all_but_two_unless_told(
    depth: int, asked: int | None, gated: int
) -> None:
    makers = attention_layers("gpsa", depth, GRID, 0, asked)
    layers = [make(dim=8, num_heads=2) for make in makers]
    expected = [GatedPositionalAttention] * gated + [Attention] * (depth - gated)
    assert [type(layer) for layer in layers] == expected


def test_every_attention_but_softmax_is_explicit() -> None:
    assert not issubclass(ATTENTIONS["softmax"], ExplicitAttention)
    assert all(issubclass(ATTENTIONS[kind], ExplicitAttention) for kind in ("lsa", "gpsa"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("softmax", 2, GRID, 0, 1), "^gpsa_blocks 1 applies to attention gpsa only"),
        (
            ("lsa", 2, GRID, 0, None, 2.0),
            r"^locality_strength 2\.0 applies to attention gpsa only; leave it out with lsa",
        ),
        (("gpsa", 2, GRID, 0, 3), r"gpsa_blocks 3 is not in 1\.\.2"),
        (("gpsa", 2, GRID, 0, 0), r"gpsa_blocks 0 is not in 1\.\.2"),
        (("gpsa", 2, GRID, 0, None, -1.0), r"locality_strength -1\.0 is negative or not finite"),
        (("gpsa", 2, GRID, 0, None, math.nan), "locality_strength nan"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        attention_layers(*settings)
