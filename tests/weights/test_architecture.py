"""A model's arguments from names and shapes, and weights held against them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.weights.architecture import check_finite_weights, check_weights, infer_arguments
from vitlit.weights.weight_formats import FILTERS_KEY, WEIGHT_FORMATS

SMALL: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 2}
SMALL |= {"num_heads": 1, "num_classes": 3, "mlp_ratio": 2.0}
TIMM = WEIGHT_FORMATS[FILTERS_KEY]


def state_of(**changes: Any) -> dict[str, Tensor]:
    with torch.device("meta"):  # shapes alone
        return dict(ViT(**{**SMALL, **changes}).state_dict())


def inferred(
    state: dict[str, Tensor], told: Any = None, given: Any = None
) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    return infer_arguments(state, told or {}, given or {}, TIMM, "w.pth", notes), notes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_chans": 1, "patch_size": 2},
        {"qkv_bias": False},
        {"reg_tokens": 3},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": True},
        {"global_pool": "map"},
        {"global_pool": "map", "class_token": True},
        {"init_values": 0.1},
        {"mlp": "swiglu"},
        {"norm": "rms"},
        {"pre_norm": True},
        {"embed_norm": True},
        {"qk_norm": True},
        {"sub_norm": "both"},
        {"sub_norm": "mlp"},
        {"mlp_ratio": 4.3637},  # as SigLIP so400m's: 64 * 4.3637 is no whole number
        {"num_classes": 0},
    ],
    ids=str,
)
def test_the_parameters_of_a_model_tell_its_arguments(changes: dict[str, Any]) -> None:
    state = state_of(**changes)
    found, _ = inferred(state, {"num_heads": 1, "init_values": changes.get("init_values", 0.5)})
    with torch.device("meta"):
        again, model = ViT(**found), ViT(**{**SMALL, **changes})
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    same = ("global_pool", "init_values", "mlp", "norm", "sub_norm", "img_size", "patch_size")
    assert [again.config[name] for name in same] == [model.config[name] for name in same]
    check_weights(state, found, "w.pth")


@pytest.mark.parametrize(
    ("width", "heads"), [(32, 1), (64, 1), (192, 3), (1152, 16), (1280, 16), (1024, 16)]
)
def test_untold_heads_are_of_the_published_width_and_said_to_be(width: int, heads: int) -> None:
    state = state_of(embed_dim=width, num_heads=1, depth=1)
    found, notes = inferred(state)
    assert found["num_heads"] == heads
    assert [note for note in notes if note.startswith(f"num_heads {heads} assumed")]
    for told, given in (
        ({"num_heads": 2}, {"num_heads": 4}),
        ({"num_heads": None}, {"num_heads": 2}),
    ):
        found, notes = inferred(state, told, given)
        assert found["num_heads"] == 2  # what the file tells goes before the user's words
        assert not [note for note in notes if "num_heads" in note]


@pytest.mark.parametrize(
    ("changes", "told", "pool", "is_noted"),
    [
        ({}, {}, "token", True),
        ({}, {"global_pool": "token"}, "token", False),
        ({}, {"global_pool": "avg"}, "avg", False),
        ({}, {"global_pool": "max"}, "token", True),
        ({"global_pool": "avg"}, {}, "avg", False),
        ({"global_pool": "avg"}, {"global_pool": "token"}, "avg", False),  # it has no such token
        ({"global_pool": "map"}, {"global_pool": "token"}, "map", False),
        ({"global_pool": "avg", "class_token": True}, {}, "avg", False),
    ],
    ids=str,
)
def test_the_pooling_is_what_the_parts_allow(
    changes: dict[str, Any], told: dict[str, Any], pool: str, is_noted: bool
) -> None:
    found, notes = inferred(state_of(**changes), told)
    assert found["global_pool"] == pool
    assert any("global_pool token assumed" in note for note in notes) is is_noted
    _, notes = inferred(state_of(**changes), told, {"global_pool": "token"})
    assert not any("global_pool" in note for note in notes)  # the user said it


@pytest.mark.parametrize(("with_head", "told", "final"), [(True, {}, True), (False, {}, False)])
def test_only_a_model_without_a_head_may_lack_its_last_norm_unsaid(
    with_head: bool, told: dict[str, Any], final: bool
) -> None:
    state = state_of(num_classes=3 if with_head else 0)
    del state["norm.weight"], state["norm.bias"]
    assert inferred(state, told)[0]["final_norm"] is final
    assert inferred(state, {"final_norm": False})[0]["final_norm"] is False
    assert inferred(state, {"final_norm": False})[0]["fc_norm"] is None


@pytest.mark.parametrize(
    ("name", "shape", "part"),
    [
        (FILTERS_KEY, (64, 3, 4, 5), "patches of 4x5 pixels; they must be square"),
        (FILTERS_KEY, (64, 48), "no usable patch_embed.proj.weight"),
        ("blocks.0.mlp.fc1.weight", (128,), "no usable blocks.0.mlp.fc1.weight"),
        ("blocks.0.mlp.fc2.weight", (0, 128), "no usable blocks.0.mlp.fc2.weight"),
        ("head.weight", (3,), "no usable head.weight"),
        ("pos_embed", (5, 64), "no usable pos_embed"),
    ],
)
def test_a_shape_that_no_vit_has_is_refused(name: str, shape: tuple[int, ...], part: str) -> None:
    with pytest.raises(InputError, match=f"w.pth has {part}"):
        inferred({**state_of(), name: torch.empty(shape, device="meta")})


@pytest.mark.parametrize(
    ("gone", "more", "part"),
    [
        ("pos_embed", None, "has no learned positions .*; it is truncated"),
        ("blocks.0.mlp.fc1.weight", None, "has no blocks.0.mlp; it is truncated"),
        (
            "pos_embed",
            "layers.0.x",
            "has another architecture .*: it has layers.0.x, but no",
        ),
    ],
)
def test_what_is_missing_and_foreign_is_named(gone: str, more: str | None, part: str) -> None:
    state = state_of()
    del state[gone]
    if more is not None:
        state[more] = torch.empty(1)
    with pytest.raises(InputError, match=f"w.pth .*{part}|w.pth {part}"):
        inferred(state)


def test_weights_without_positions_are_taken_where_someone_says_so() -> None:
    state = state_of(pos_embed="none")
    for told in ({"pos_embed": "none"}, {"rope": "index"}):
        assert inferred(state, {**told, "img_size": 8})[0]["pos_embed"] == "none"
    with pytest.raises(InputError, match="no learned positions"):
        inferred(state, {"rope": "none", "img_size": 8})


def test_weights_that_are_not_those_of_the_arguments_are_refused() -> None:
    state = state_of()
    check_weights(state, SMALL, "w.pth")
    with pytest.raises(InputError, match="has 2 blocks, but says depth 3"):
        check_weights(state, {**SMALL, "depth": 3}, "w.pth")
    with pytest.raises(InputError, match="describes an impossible model"):
        check_weights(state, {**SMALL, "width": 3}, "w.pth")
    with pytest.raises(InputError, match=r"parts that this Vision Transformer lacks: extra$"):
        check_weights({**state, "extra": torch.empty(1)}, SMALL, "w.pth")
    with pytest.raises(InputError, match=r"w\.pth lacks norm\.bias; is it complete"):
        check_weights({k: v for k, v in state.items() if k != "norm.bias"}, SMALL, "w.pth")
    short = {**state, "norm.bias": torch.empty(63)}
    with pytest.raises(InputError, match=r"norm\.bias of w\.pth has shape \[63\], .* need \[64\]"):
        check_weights(short, SMALL, "w.pth")


def test_numbers_that_are_not_finite_are_counted() -> None:
    fine = torch.ones(3)
    check_finite_weights({"a": fine}, "w.pth")
    bad = torch.tensor([float("nan"), 1.0, float("-inf")])
    with pytest.raises(InputError, match=r"b of w\.pth holds 2 numbers"):
        check_finite_weights({"a": fine, "b": bad}, "w.pth")
