"""The Vision Transformer against timm's, its initial values and what it refuses."""

import copy
import inspect
import math
import pickle
from typing import Any, TypeVar

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
from timm.models.convit import ConVit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision import ops

from vitlit.errors import InputError
from vitlit.model.arguments import MAY_BE_NONE, NUMBERS, SWITCHES, VIT_CHOICES, WHOLE
from vitlit.model.blocks import StochasticDepth
from vitlit.model.positions import sincos1d, sincos2d
from vitlit.model.vit import ViT

Module = TypeVar("Module", bound=nn.Module)
SMALL: dict[str, Any] = {
    "img_size": [8, 12],
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}
RATES = ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"]
PUBLISHED = {  # (D, L, h, P) of each size
    "vit_tiny_patch16_224": (192, 12, 3, 16),
    "vit_small_patch16_224": (384, 12, 6, 16),
    "vit_base_patch16_224": (768, 12, 12, 16),
    "vit_large_patch16_224": (1024, 24, 16, 16),
    "vit_huge_patch14_224": (1280, 32, 16, 14),
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def small(**changes: Any) -> ViT:
    """A model of the small settings, with the changes, as it is initialised."""
    return ViT(**{**SMALL, **changes})


def filled(model: Module) -> Module:
    """The model in evaluation mode, with no parameter left at zero."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def timm_vit(**changes: Any) -> VisionTransformer:
    """timm's model of the same settings."""
    settings = {**SMALL, **changes}
    token = settings.get("global_pool", "token") == "token"
    return VisionTransformer(**settings, class_token=token).eval()


def cut(images: Tensor) -> Tensor:
    """Patches ``(B, N, C*4*4)`` of images, by torch's unfold."""
    return F.unfold(images, kernel_size=4, stride=4).transpose(1, 2)


@pytest.mark.parametrize("patch_embed", ["linear", "conv"])
@pytest.mark.parametrize(
    "changes",
    [
        {"global_pool": "token"},
        {"global_pool": "avg"},
        {"img_size": 8},
        {"img_size": [12, 4]},
        {"in_chans": 1},
        {"in_chans": 5},
        {"qkv_bias": False},
        {"qkv_bias": False, "global_pool": "avg", "img_size": 8, "in_chans": 1},
        {"mlp_ratio": 2.5, "num_heads": 4, "depth": 1},
        {"pos_embed": "none"},
    ],
    ids=str,
)
def test_logits_match_timm_with_the_same_weights(changes: dict[str, Any], patch_embed: str) -> None:
    reference, model = filled(timm_vit(**changes)), small(patch_embed=patch_embed, **changes).eval()
    model.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(3, model.in_chans, *model.img_size)
    torch.testing.assert_close(model(images), reference(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_tokens_before_pooling_match_timm(global_pool: str) -> None:
    reference, model = filled(timm_vit(global_pool=global_pool)), small(global_pool=global_pool)
    model.eval().load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(3, 3, 8, 12)
    theirs = reference.forward_features(images)
    torch.testing.assert_close(model.forward_features(images), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
@pytest.mark.parametrize("pos_embed", ["sincos1d", "sincos2d"])
def test_timm_gives_the_same_logits_with_a_saved_fixed_table(
    pos_embed: str, global_pool: str
) -> None:
    reference = timm_vit(global_pool=global_pool)
    model = filled(small(global_pool=global_pool, pos_embed=pos_embed))
    reference.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(3, 3, 8, 12)
    torch.testing.assert_close(model(images), reference(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patch_embed", ["linear", "conv"])
@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_patches_give_the_logits_of_their_images(global_pool: str, patch_embed: str) -> None:
    model = filled(small(global_pool=global_pool, patch_embed=patch_embed))
    images = torch.randn(3, 3, 8, 12)
    torch.testing.assert_close(model(cut(images)), model(images), rtol=1e-5, atol=1e-5)


def test_without_a_head_the_output_is_what_the_head_would_read() -> None:
    model, bare = filled(small()), small(num_classes=0).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    bare.load_state_dict(state, strict=True)
    images = torch.randn(3, 3, 8, 12)
    logits = F.linear(bare(images), model.head.weight, model.head.bias)
    torch.testing.assert_close(logits, model(images))


def test_rope_knows_rows_from_columns_on_a_rectangle() -> None:
    """The attention of an 8x12 image, 2 rows of 3 patches, from queries and keys turned by timm."""
    model = filled(small(pos_embed="rope", reg_tokens=1))
    turn = RotaryEmbeddingCat(8, temperature=100, in_pixels=False, feat_shape=[2, 3]).get_embed()
    with torch.no_grad():
        tokens = model.embed(torch.randn(2, 3, 8, 12))  # the class token, a register, 6 patches
        for block in model.blocks:
            x = block.norm1(tokens)
            q, k, _ = block.attn.qkv(x).view(2, 8, 3, 2, 8).permute(2, 0, 3, 1, 4)
            q, k = (
                torch.cat([one[:, :, :2], apply_rot_embed_cat(one[:, :, 2:], turn)], dim=2)
                for one in (q, k)
            )
            expected = (q @ k.mT / math.sqrt(8)).softmax(dim=-1)
            torch.testing.assert_close(block.attn.weights(x), expected)
            tokens = block(tokens)


@pytest.mark.parametrize("fc_norm", [None, False, True])
def test_sequence_pooling_has_its_norm_before_it_unless_told(fc_norm: bool | None) -> None:
    model = filled(small(global_pool="seq", fc_norm=fc_norm))
    images = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        tokens = model.blocks(model.embed(images))
        if fc_norm:
            shares = (tokens @ model.seq_pool.score.weight[0]).softmax(dim=1)
            norm = model.fc_norm
            features = F.layer_norm(
                (shares[:, :, None] * tokens).sum(dim=1), (16,), norm.weight, norm.bias, 1e-6
            )
        else:
            tokens = F.layer_norm(tokens, (16,), model.norm.weight, model.norm.bias, 1e-6)
            shares = (tokens @ model.seq_pool.score.weight[0]).softmax(dim=1)
            features = (shares[:, :, None] * tokens).sum(dim=1)
        expected = features @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), PUBLISHED.items())
def test_published_sizes_have_timms_number_of_parameters(
    name: str, size: tuple[int, int, int, int]
) -> None:
    with torch.device("meta"):
        theirs = sum(p.numel() for p in timm.create_model(name, num_classes=1000).parameters())
    dim, depth, heads, patch = size
    settings = {"embed_dim": dim, "num_heads": heads, "patch_size": patch}
    one, two = (
        sum(p.numel() for p in ViT(depth=blocks, **settings).parameters()) for blocks in (1, 2)
    )
    assert one + (depth - 1) * (two - one) == theirs  # all blocks are alike, and two are cheap


@pytest.mark.parametrize("pos_embed", ["none", "learn"])
def test_the_order_of_patches_matters_only_with_positions(pos_embed: str) -> None:
    model = filled(small(pos_embed=pos_embed, global_pool="avg"))
    patches = torch.randn(3, 6, 48)
    same = torch.allclose(model(patches), model(patches.flip(1)), rtol=1e-5, atol=1e-5)
    assert same == (pos_embed == "none")


def test_the_class_token_takes_position_0_of_the_sincos1d_table() -> None:
    assert torch.equal(small(pos_embed="sincos1d").state_dict()["pos_embed"][0], sincos1d(7, 16))


def test_the_class_token_has_zeros_in_the_sincos2d_table() -> None:
    table = small(pos_embed="sincos2d").state_dict()["pos_embed"][0]
    assert torch.equal(table, torch.cat([torch.zeros(1, 16), sincos2d(2, 3, 16)]))


@pytest.mark.parametrize("pos_embed", ["sincos1d", "sincos2d"])
def test_without_a_class_token_the_fixed_table_holds_patches_alone(pos_embed: str) -> None:
    table = sincos1d(6, 16) if pos_embed == "sincos1d" else sincos2d(2, 3, 16)
    state = small(pos_embed=pos_embed, global_pool="avg").state_dict()
    assert torch.equal(state["pos_embed"][0], table)


@pytest.mark.parametrize("pos_embed", ["sincos1d", "sincos2d", "none"])
def test_only_a_learned_table_is_trained(pos_embed: str) -> None:
    assert "pos_embed" not in dict(small(pos_embed=pos_embed).named_parameters())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"img_size": 8}, {"img_size": 8}),
        ({"img_size": (8, 12)}, {"img_size": [8, 12]}),
        ({"img_size": [8, 8]}, {"img_size": 8}),
        ({}, {"class_token": True, "fc_norm": False, "gpsa_blocks": None}),
        ({"global_pool": "avg"}, {"class_token": False, "fc_norm": True}),
        ({"attention": "gpsa", "depth": 5}, {"gpsa_blocks": 3}),
        ({"init_values": 0.1, "drop_rate": 0.2}, {"init_values": 0.1, "drop_rate": 0.2}),
    ],
    ids=str,
)
def test_the_config_holds_the_arguments_as_plain_values(
    given: dict[str, Any], kept: dict[str, Any]
) -> None:
    config = small(**given).config
    assert {name: config[name] for name in kept} == kept
    assert config.keys() == inspect.signature(ViT).parameters.keys()


def test_the_config_follows_a_head_that_is_removed() -> None:
    model = small()
    model.remove_head()
    assert model.config["num_classes"] == 0


def test_the_config_goes_with_copies_but_not_into_the_state() -> None:
    model = small(init_values=0.1)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    model.config["depth"] = 7
    assert copied.config["depth"] == pickled.config["depth"] == 2
    assert not any("config" in name for name in model.state_dict())


@pytest.mark.parametrize("rate", RATES)
def test_each_dropout_changes_the_output_in_training_mode(rate: str) -> None:
    model, images = filled(small(**{rate: 0.5})), torch.randn(8, 3, 8, 12)
    assert not torch.allclose(model.train()(images), model.eval()(images))


@pytest.mark.parametrize("rate", RATES)
def test_no_dropout_changes_the_output_in_evaluation_mode(rate: str) -> None:
    plain, model, images = filled(small()), small(**{rate: 0.5}), torch.randn(8, 3, 8, 12)
    model.eval().load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize("rate", RATES)
def test_each_dropout_acts_where_it_does_in_timm(rate: str) -> None:
    """Both draw the same masks from the same seed only if the same tensors are dropped."""
    reference, model = filled(timm_vit(**{rate: 0.5})).train(), small(**{rate: 0.5}).train()
    model.load_state_dict(reference.state_dict(), strict=True)
    images, outputs = torch.randn(8, 3, 8, 12), []
    for either in (model, reference):
        torch.manual_seed(1)
        outputs.append(either(images))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_stochastic_depth_grows_linearly_from_0_at_the_first_block() -> None:
    layers = [block.drop_path for block in small(depth=4, drop_path_rate=0.3).blocks]
    rates = [layer.p if isinstance(layer, StochasticDepth) else 0.0 for layer in layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_stochastic_depth_draws_as_torchvisions_class(rate: float, training: bool) -> None:
    x, outputs = torch.randn(64, 3, 4), []
    for layer in (StochasticDepth(rate), ops.StochasticDepth(rate, mode="row")):
        torch.manual_seed(1)
        outputs.append(layer.train(training)(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_the_first_loss_is_the_log_of_the_number_of_classes(num_classes: int) -> None:
    logits = small(num_classes=num_classes)(torch.randn(6, 3, 8, 12))
    loss = F.cross_entropy(logits, torch.arange(6) % num_classes)
    assert loss.item() == pytest.approx(math.log(num_classes))


@pytest.mark.parametrize(
    ("name", "fans"),
    [
        ("blocks.0.attn.proj", 64 + 64),
        ("blocks.1.mlp.fc1", 64 + 256),
        ("blocks.1.mlp.fc2", 256 + 64),
        ("patch_embed.proj", 48 + 64),
    ],
)
def test_matrices_start_xavier_uniform(name: str, fans: int) -> None:
    weight = small(embed_dim=64, patch_embed="linear").get_parameter(f"{name}.weight")
    bound = math.sqrt(6 / fans)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_queries_keys_and_values_start_as_matrices_of_their_own(part: int) -> None:
    weight = small(embed_dim=64).blocks[0].attn.qkv.weight.chunk(3)[part]
    bound = math.sqrt(6 / (64 + 64))  # as one matrix of 192 rows it would be sqrt(6 / 256)
    assert 0.99 * bound < weight.abs().max() <= bound


def test_the_values_of_gpsa_start_as_copies_of_the_tokens_as_in_timms_convit() -> None:
    settings = {**SMALL, "img_size": 8, "depth": 3, "num_heads": 4}
    model = ViT(**settings, attention="gpsa", gpsa_blocks=2)
    theirs = ConVit(**{**settings, "embed_dim": 4}, local_up_to_layer=2)  # 4 of each of 4 heads
    for ours, other in zip(model.blocks[:2], theirs.blocks[:2], strict=True):
        assert torch.equal(ours.attn.qkv.weight.chunk(3)[2], other.attn.v.weight)
        torch.testing.assert_close(ours.attn.locality, other.attn.pos_proj.weight)
    values = model.blocks[2].attn.qkv.weight.chunk(3)[2]
    assert not torch.equal(values, torch.eye(16))  # softmax has nothing local to start with


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_the_convolution_keeps_the_values_of_pytorch(name: str) -> None:
    values = small(embed_dim=64, patch_embed="conv").get_parameter(f"patch_embed.proj.{name}")
    bound = 1 / math.sqrt(3 * 4 * 4)
    assert 0.9 * bound < values.abs().max() <= bound


def test_biases_the_class_token_and_the_head_start_at_0() -> None:
    model = small(patch_embed="linear")
    zero = {name for name, value in model.named_parameters() if not value.any()}
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert zero == biases | {"cls_token", "head.weight"}


def test_learned_positions_start_with_a_deviation_of_2_percent() -> None:
    positions = small(img_size=64, embed_dim=64).pos_embed
    assert positions.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(positions.mean().item()) < 0.02 * 4 / math.sqrt(positions.numel())


@pytest.mark.parametrize(
    "shape", [(2, 1, 8, 12), (2, 3, 12, 8), (2, 6, 47), (2, 5, 48), (3, 8, 12)]
)
def test_an_input_that_does_not_fit_is_refused_by_its_shape(shape: tuple[int, ...]) -> None:
    rule = r"images \(B, 3, 8, 12\) or patches \(B, 6, 48\)"
    with pytest.raises(InputError, match=rf"{str(shape)[1:-1]}.* {rule}"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("value", [1.0, -0.1, 5.0, math.nan])
@pytest.mark.parametrize("rate", RATES)
def test_a_rate_outside_0_to_1_is_refused(rate: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"{rate} {value}"):
        small(**{rate: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 0}, "embed_dim 0"),
        ({"depth": 0}, "depth 0"),
        ({"depth": 1.5}, r"depth 1\.5 is not a whole number; give one"),
        ({"num_heads": "2"}, "num_heads '2' is not a number; give one"),
        ({"embed_dim": None}, "embed_dim None is not a number"),
        ({"mlp_ratio": "4"}, "mlp_ratio '4' is not a number"),
        ({"qkv_bias": "no"}, "qkv_bias 'no' is neither true nor false"),
        ({"class_token": 1}, "class_token 1 is neither true nor false"),
        ({"init_values": "1e-5"}, "init_values '1e-5' is not a number"),
        ({"in_chans": -1}, "in_chans -1"),
        ({"num_classes": -1}, "num_classes -1"),
        ({"mlp_ratio": 0.0}, r"mlp_ratio 0\.0"),
        ({"mlp_ratio": -1.0}, r"mlp_ratio -1\.0"),
        ({"num_heads": 3}, "num_heads 3 does not divide embed_dim 16"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"global_pool": "map", "pool_heads": 0}, "pool_heads 0"),
        ({"patch_size": 5}, "patch_size 5 does not divide the image size 8x12"),
        ({"patch_size": 0}, "patch_size 0"),
        ({"img_size": [8, 12, 3]}, r"\[8, 12, 3\] is not one number"),
        ({"img_size": -8}, "-8x-8"),
        ({"embed_dim": 15, "num_heads": 3, "pos_embed": "sincos1d"}, "embed_dim 15 is odd"),
        ({"embed_dim": 18, "pos_embed": "sincos2d"}, "embed_dim 18 is not a multiple of 4"),
    ],
    ids=str,
)
def test_a_size_that_cannot_be_is_refused_by_its_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_the_kind_of_each_argument_is_checked() -> None:
    """Against the annotations; sizes have checks of their own."""
    kinds = {
        **dict.fromkeys(WHOLE, int),
        **dict.fromkeys(NUMBERS, float),
        **dict.fromkeys(SWITCHES, bool),
        **VIT_CHOICES,
    }
    optional = {name: kind | None for name, kind in kinds.items() if name in MAY_BE_NONE}
    parameters = inspect.signature(ViT).parameters
    sizes = ("img_size", "patch_size", "rope_grid")
    annotations = {name: p.annotation for name, p in parameters.items() if name not in sizes}
    assert {**kinds, **optional} == annotations


@pytest.mark.parametrize("name", ["pos_embed", "global_pool", "patch_embed"])
def test_an_unknown_choice_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} 'other'"):
        small(**{name: "other"})


@pytest.mark.parametrize(
    "changes",
    [{}, {"global_pool": "map"}, {"attention": "lsa"}, {"attention": "gpsa"}, {"mlp": "swiglu"}],
    ids=str,
)
def test_a_batch_may_be_empty(changes: dict[str, Any]) -> None:
    model = ViT(
        img_size=8, patch_size=4, num_classes=10, embed_dim=8, depth=1, num_heads=2, **changes
    )
    assert model(torch.rand(0, 3, 8, 8)).shape == (0, 10)
