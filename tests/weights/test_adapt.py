"""Weights made to fit another model, against timm's resampling and the models themselves."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.weights.adapt import SHAPING, adapt_weights
from vitlit.weights.pretrained import Weights
from vitlit.weights.reshaping import adapt_input_channels, resample_filters, resample_positions

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def small(**changes: Any) -> ViT:
    """A model in evaluation mode, with no parameter left at zero."""
    model = ViT(**{**SMALL, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def weights_of(model: ViT, **changes: Any) -> Weights:
    return Weights(model.state_dict(), {**SMALL, **changes}, None, None, None, [])


def adapted(before: dict[str, Any], after: dict[str, Any]) -> tuple[ViT, ViT, list[str]]:
    """A model, the model of other settings that has its weights, and the notes."""
    old, new = small(**before), small(**after)
    state, notes = adapt_weights(weights_of(old, **before), new)
    new.load_state_dict(state, strict=True)
    return old, new, notes


@pytest.mark.parametrize(
    ("old", "new"),
    [((14, 14), (24, 24)), ((8, 8), (8, 12)), ((24, 24), (14, 14)), ((2, 6), (5, 3))],
)
def test_positions_are_resampled_as_timm_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = torch.randn(1, old[0] * old[1], 16)
    expected = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=0)
    torch.testing.assert_close(resample_positions(table, old, new), expected)


def test_half_precision_positions_are_resampled_in_float32() -> None:
    table = torch.randn(1, 64, 16).half()
    expected = resample_positions(table.float(), (8, 8), (8, 12)).half()
    assert torch.equal(resample_positions(table, (8, 8), (8, 12)), expected)


@pytest.mark.parametrize(("old", "new"), [(16, 8), (8, 16), (14, 16), (4, 4)])
def test_patch_filters_are_resampled_as_timm_does(old: int, new: int) -> None:
    filters = torch.randn(6, 3, old, old)
    expected = resample_patch_embed(filters, [new, new])
    torch.testing.assert_close(resample_filters(filters, new), expected, rtol=1e-4, atol=1e-4)


def test_larger_filters_give_an_enlarged_patch_the_token_of_the_patch() -> None:
    """What FlexiViT's resizing is made for."""
    filters, patches = torch.randn(6, 3, 8, 8), torch.randn(4, 3, 8, 8)
    enlarged = F.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True)
    tokens = F.conv2d(enlarged, resample_filters(filters, 16))
    torch.testing.assert_close(tokens, F.conv2d(patches, filters), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_input_channels_are_converted_as_timm_does(channels: int) -> None:
    filters = torch.randn(6, 3, 4, 4)
    expected = adapt_input_conv(channels, filters)
    torch.testing.assert_close(adapt_input_channels(filters, channels), expected)


def test_one_channel_filters_give_a_grey_image_of_three_the_same_tokens() -> None:
    filters, grey = torch.randn(6, 1, 4, 4), torch.randn(2, 1, 4, 4)
    tokens = F.conv2d(grey.expand(-1, 3, -1, -1), adapt_input_channels(filters, 3))
    torch.testing.assert_close(tokens, F.conv2d(grey, filters))


@pytest.mark.parametrize(
    "settings",
    [{}, {"global_pool": "avg"}, {"reg_tokens": 2, "init_values": 0.1}, {"pos_embed": "sincos2d"}],
    ids=str,
)
def test_weights_for_the_same_model_are_unchanged_without_notes(settings: dict[str, Any]) -> None:
    old, new, notes = adapted(settings, settings)
    state = new.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in old.state_dict().items())
    assert notes == []


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 3}, {"global_pool": "avg"}], ids=str)
def test_another_image_size_resizes_positions_and_leaves_those_of_other_tokens(
    prefix: dict[str, Any],
) -> None:
    old, new, notes = adapted(prefix, {**prefix, "img_size": [24, 12]})
    assert isinstance(old.pos_embed, Tensor)
    count = old.num_prefix_tokens
    expected = resample_abs_pos_embed(old.pos_embed, [6, 3], [4, 4], num_prefix_tokens=count)
    torch.testing.assert_close(new.pos_embed, expected)
    assert notes == ["positions resized from 4x4 to 6x3 patches"]


def test_a_rectangular_grid_is_the_one_that_the_weights_tell() -> None:
    old, new, _ = adapted({"img_size": [8, 32]}, {"img_size": 16})  # 2x8 and 4x4 patches
    assert isinstance(old.pos_embed, Tensor)
    expected = resample_abs_pos_embed(old.pos_embed, [4, 4], [2, 8], num_prefix_tokens=1)
    torch.testing.assert_close(new.pos_embed, expected)


def test_another_patch_size_resizes_the_filters() -> None:
    old, new, notes = adapted({}, {"patch_size": 8, "img_size": 32})
    expected = resample_patch_embed(old.patch_embed.proj.weight, [8, 8])
    torch.testing.assert_close(new.patch_embed.proj.weight, expected, rtol=1e-4, atol=1e-4)
    assert notes == ["patch filters resized from 4x4 to 8x8 pixels"]


def test_another_number_of_channels_is_noted() -> None:
    _, _, notes = adapted({}, {"in_chans": 1})
    assert notes == ["patch filters made for 1 channels instead of 3"]


def test_a_head_of_other_classes_is_replaced_by_zeros() -> None:
    _, new, notes = adapted({}, {"num_classes": 7})
    assert not new.head.weight.any()
    assert not new.head.bias.any()
    assert notes == ["head set to zeros for 7 classes; dropped the weights' head of 5 classes"]


def test_weights_without_a_head_get_one_of_zeros() -> None:
    _, new, notes = adapted({"num_classes": 0}, {})
    assert not new.head.weight.any()
    assert notes == ["head set to zeros for 5 classes; the weights have none"]


def test_a_model_without_a_head_drops_it() -> None:
    assert adapted({}, {"num_classes": 0})[2] == ["head dropped; the model has none"]


@pytest.mark.parametrize("kind", ["sincos1d", "sincos2d"])
def test_fixed_positions_stay_the_models_own(kind: Any) -> None:
    _, new, notes = adapted({}, {"pos_embed": kind})
    assert notes == ["positions not loaded: the model's are a fixed table"]
    assert isinstance(new.pos_embed, Tensor)
    assert torch.equal(new.pos_embed, ViT(**SMALL, pos_embed=kind).state_dict()["pos_embed"])


def test_a_fixed_table_becomes_the_start_of_a_learned_one() -> None:
    old, new, _ = adapted({"pos_embed": "sincos2d"}, {})
    assert isinstance(old.pos_embed, Tensor)
    assert isinstance(new.pos_embed, Tensor)
    assert torch.equal(new.pos_embed, old.pos_embed)


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ({}, {"pos_embed": "none"}, "positions dropped; the model has none"),
        ({"pos_embed": "none"}, {}, "the model's are new; the weights have none"),
        ({}, {"global_pool": "avg"}, "cls_token dropped; the model has none"),
        ({}, {"global_pool": "avg"}, "the final norm moved behind the pooling"),
        ({"global_pool": "avg"}, {}, "cls_token is new"),
        ({"global_pool": "avg"}, {}, "the final norm moved before the pooling"),
        ({"reg_tokens": 2}, {}, "reg_token dropped; the model has none"),
        ({"reg_tokens": 2}, {"reg_tokens": 3}, "reg_token dropped; the model has another number"),
        ({}, {"reg_tokens": 2}, "reg_token is new"),
        ({"attention": "lsa"}, {}, "temperatures of lsa dropped; the model has none"),
        (
            {"attention": "lsa"},
            {"attention": "lsa", "num_heads": 4},
            "temperatures of lsa dropped; the model has another number",
        ),
        ({"num_heads": 2}, {"num_heads": 4}, "the model has num_heads 4; the weights had 2"),
        (
            {"norm_eps": 1e-6},
            {"norm_eps": 0.1},
            "the model has norm_eps 0.1; the weights had 1e-06",
        ),
        (
            {"act": "gelu"},
            {"act": "gelu_tanh"},
            "the model has act gelu_tanh; the weights had gelu",
        ),
    ],
    ids=str,
)
def test_every_change_is_noted(before: dict[str, Any], after: dict[str, Any], note: str) -> None:
    assert any(note in found for found in adapted(before, after)[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 32},
        {"depth": 3},
        {"depth": 1},
        {"mlp_ratio": 2.0},
        {"qkv_bias": False},
        {"init_values": 0.1},
    ],
    ids=str,
)
def test_another_width_depth_or_mlp_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="do not fit the model at"):
        adapt_weights(weights_of(small()), small(**changes))


@pytest.mark.parametrize(
    ("before", "after", "arguments"),
    [
        ({}, {"patch_embed": "shifted"}, ("patch_embed",)),
        ({"patch_embed": "shifted"}, {"patch_embed": "shifted", "patch_size": 8}, ("patch_size",)),
        (
            {"patch_embed": "conv_stem"},
            {"patch_embed": "conv_stem", "stem_convs": 2},
            ("stem_convs",),
        ),
        (
            {"patch_embed": "conv_stem", "stem_convs": 2},
            {"patch_embed": "conv_stem", "stem_convs": 2, "stem_norm": "batch"},
            ("stem_norm",),
        ),
        ({}, {"embed_dim": 32}, SHAPING),
    ],
    ids=str,
)
def test_a_refusal_names_the_arguments_to_change(
    before: dict[str, Any], after: dict[str, Any], arguments: Any
) -> None:
    with pytest.raises(InputError) as caught:
        adapt_weights(weights_of(small(**before), **before), small(**after))
    assert caught.value.arguments == arguments


def test_the_weights_themselves_stay_as_they_were() -> None:
    weights = weights_of(small())
    before = {name: value.clone() for name, value in weights.state.items()}
    adapt_weights(weights, small(img_size=24, num_classes=3, global_pool="avg", in_chans=1))
    assert weights.state.keys() == before.keys()
    assert all(torch.equal(weights.state[name], value) for name, value in before.items())


def head_of(names: list[str] | None, wanted: list[str]) -> tuple[ViT, ViT, list[str]]:
    """A model, the one made for the classes ``wanted`` of its weights, and the notes."""
    old, new = small(num_classes=3), small(num_classes=len(wanted))
    weights = weights_of(old, num_classes=3)._replace(class_names=names)
    state, notes = adapt_weights(weights, new, wanted)
    new.load_state_dict(state, strict=True)
    return old, new, notes


def test_the_same_classes_in_another_order_keep_their_logits() -> None:
    old, new, notes = head_of(["cat", "dog", "owl"], ["owl", "cat", "dog"])
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(new(images), old(images)[:, [2, 0, 1]])
    assert notes == ["head kept for the same 3 classes, its rows put into the order of the data"]


def test_the_same_classes_keep_the_head() -> None:
    old, new, notes = head_of(["cat", "dog", "owl"], ["cat", "dog", "owl"])
    assert torch.equal(new.head.weight, old.head.weight)
    assert notes == ["head kept for the same 3 classes"]


def test_as_many_other_classes_replace_the_head_and_both_are_named() -> None:
    _, new, notes = head_of(["cat", "dog", "owl"], ["cat", "dog", "car"])
    assert not new.head.weight.any()
    assert notes == [
        "head set to zeros for 3 classes (cat, dog, car); "
        "dropped the weights' head of 3 classes (cat, dog, owl)"
    ]


def test_classes_without_names_keep_the_head_with_a_word_about_their_order() -> None:
    old, new, [note] = head_of(None, ["cat", "dog", "owl"])
    assert torch.equal(new.head.weight, old.head.weight)
    assert "do not name their 3 classes; they are assumed to be cat, dog, owl, in this" in note
