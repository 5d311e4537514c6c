"""What the files beside weights tell: sizes, numbers, names, and architectures of timm."""

import json
from pathlib import Path
from typing import Any

import pytest

from vitlit.errors import InputError
from vitlit.weights.config_values import Facts
from vitlit.weights.model_config import folder_facts, metadata_facts
from vitlit.weights.reshaping import Rotary
from vitlit.weights.timm_config import timm_model


def facts_of(folder: Path, config: Any, processor: Any = None) -> Facts:
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder_facts(folder)


@pytest.mark.parametrize(
    ("value", "size"),
    [(1, 1), (224, 224), ([1, 2], [1, 2]), ([8], 8)]
    + [(value, None) for value in (0, -1, True, 8.0, "8", [], [8, 0], [8, 8, 8], None, {})],
    ids=str,
)
def test_an_image_size_is_one_number_or_two(value: Any, size: Any, tmp_path: Path) -> None:
    assert facts_of(tmp_path, {"image_size": value}).arguments.get("img_size") == size


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("num_attention_heads", "num_heads", 3),
        ("layer_norm_eps", "norm_eps", 1e-12),
        ("layer_norm_eps", "norm_eps", 1),
    ],
)
def test_a_number_is_taken_as_it_is(name: str, argument: str, value: float, tmp_path: Path) -> None:
    assert facts_of(tmp_path, {name: value}).arguments == {argument: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", True),
        ("num_attention_heads", 3.0),
        ("num_attention_heads", "3"),
        ("layer_norm_eps", True),
        ("layer_norm_eps", "1e-12"),
    ],
)
def test_what_is_no_number_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} {value!r} in config.json is not a number"):
        facts_of(tmp_path, {name: value})


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("quick_gelu", "quick_gelu"),
        ("silu", "silu"),
        (None, None),
    ],
)
def test_an_activation_has_another_name_here(
    name: str | None, act: str | None, tmp_path: Path
) -> None:
    assert facts_of(tmp_path, {"hidden_act": name}).arguments.get("act") == act


@pytest.mark.parametrize("name", ["relu", 3, ["gelu"]])
def test_an_unknown_activation_is_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the weights use activation"):
        facts_of(tmp_path, {"hidden_act": name})


def test_a_gated_mlp_has_silu_and_no_other_activation(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, {"use_gated_mlp": True, "hidden_act": "silu"})
    assert facts.arguments == {}  # the shapes tell the gate, and the gate the activation
    assert facts_of(tmp_path, {"use_gated_mlp": False, "hidden_act": "gelu"}).arguments != {}
    with pytest.raises(InputError, match="gated MLP with activation 'gelu'; only silu"):
        facts_of(tmp_path, {"use_gated_mlp": True, "hidden_act": "gelu"})


def test_only_dinov3_turns_by_rope_theta(tmp_path: Path) -> None:
    kind = {"model_type": "dinov3_vit", "rope_theta": 50}
    assert facts_of(tmp_path, kind).arguments == {"rope_base": 50}
    assert facts_of(tmp_path, {**kind, "model_type": "vit"}).arguments == {}


def test_the_tower_of_the_images_goes_before_the_whole(tmp_path: Path) -> None:
    config = {"image_size": 8, "num_attention_heads": 2, "vision_config": {"image_size": 16}}
    assert facts_of(tmp_path, config).arguments == {"img_size": 16, "num_heads": 2}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "cat", "1": "dog"}, ["cat", "dog"]),
        ({"0": "LABEL_0", "1": "LABEL_1"}, None),  # transformers' own, if nobody gave any
        ({"0": "LABEL_0", "1": "dog"}, ["LABEL_0", "dog"]),
        ({"0": "cat", "2": "dog"}, None),
        ({"0": "cat", "1": 5}, None),
        ({}, []),
    ],
    ids=str,
)
def test_classes_are_named_by_their_numbers(labels: Any, names: Any, tmp_path: Path) -> None:
    assert (facts_of(tmp_path, {"id2label": labels}).class_names or []) == (names or [])


@pytest.mark.parametrize(
    ("told", "row"),
    [([0.5, 1, 0.25], (0.5, 1.0, 0.25)), ([True, 1], None), (["0.5"], None), (0.5, None)],
    ids=str,
)
def test_mean_and_std_are_rows_of_numbers(told: Any, row: Any, tmp_path: Path) -> None:
    assert facts_of(tmp_path, {}, {"image_mean": told})[1:3] == (row, None)
    assert facts_of(tmp_path, {}, {"image_std": told})[1:3] == (None, row)


def test_timms_config_tells_of_this_very_model(tmp_path: Path) -> None:
    inner = {"input_size": [3, 8, 12], "mean": [0.1], "std": [0.2], "label_names": ["a", "b"]}
    model = {"num_heads": 2, "act_layer": "silu", "init_values": 1e-5, "pos_embed": "none"}
    config = {"architecture": "vit_x", "global_pool": "avg", "model_args": model}
    facts = facts_of(tmp_path, {**config, "pretrained_cfg": inner})
    assert facts.arguments == {
        **{"img_size": [8, 12], "num_heads": 2, "global_pool": "avg", "act": "silu"},
        **{"pos_embed": "none", "init_values": 1e-5},
    }
    assert facts[1:4] == ((0.1,), (0.2,), ["a", "b"])
    assert facts_of(tmp_path, {**config, **inner}) == facts  # older files: all on one level
    asked = facts_of(tmp_path, {**config, **inner, "model_args": {"img_size": 16}})
    assert asked.arguments["img_size"] == 16
    assert facts_of(tmp_path, {**config, "input_size": 8}).arguments.get("img_size") is None


def test_timms_config_goes_before_what_the_architecture_usually_has(tmp_path: Path) -> None:
    config: dict[str, Any] = {"architecture": "vit_base_patch16_gap_224.tag"}
    assert facts_of(tmp_path, config).arguments == {"num_heads": 16}
    config["model_args"] = {"num_heads": 4}
    assert facts_of(tmp_path, config).arguments == {"num_heads": 4}


def test_timms_config_tells_the_rotary_positions_of_an_eva(tmp_path: Path) -> None:
    model = {"rope_temperature": 50, "rope_grid_offset": 0.5, "ref_feat_shape": [4, 6]}
    model |= {"attn_pool_num_heads": 2, "rope_type": "dinov3"}
    found = facts_of(tmp_path, {"architecture": "x", "model_args": model}).arguments
    assert found == {
        **{"rope_base": 50, "rope_offset": 0.5, "rope_grid": [4, 6]},
        **{"pool_heads": 2, "rope": "centred"},
    }
    config = {"architecture": "x", "model_args": {"rope_type": "cat"}}
    assert facts_of(tmp_path, config).arguments == {"rope": "index"}
    config["model_args"] = {"rope_type": "mixed"}
    with pytest.raises(InputError, match="rope_type 'mixed'"):
        facts_of(tmp_path, config)


# of timm 1.0.31's sources; a wider test builds all of timm's architectures
@pytest.mark.parametrize(
    ("architecture", "arguments", "rotary"),
    [
        ("vit_base_patch16_224", {}, None),
        ("test_vit", {"num_heads": 2}, None),
        ("test_vit4", {"num_heads": 3}, None),
        ("test_vit3", {"num_heads": 3, "pool_include_prefix": True}, None),
        ("vit_giantopt_patch16_siglip_256", {"num_heads": 16, "act": "gelu_tanh"}, None),
        ("vit_large_patch16_siglip_256", {"act": "gelu"}, None),
        ("vit_large_patch16_siglip_512", {"act": "gelu_tanh"}, None),
        ("vit_base_patch32_clip_224", {"norm_eps": 1e-5}, None),
        ("vit_base_patch32_clip_quickgelu_224", {"norm_eps": 1e-5, "act": "quick_gelu"}, None),
        ("vit_intern300m_patch14_448", {"final_norm": False}, None),
        ("beit3_base_patch16_224", {"norm_eps": 1e-5}, None),
        (
            "eva02_tiny_patch14_224",
            {"rope": "index", "rope_base": 10000.0, "rope_grid": 16},
            Rotary(),
        ),
        (
            "vit_7b_patch16_dinov3",
            {"rope": "centred", "rope_base": 100.0, "norm_eps": 1e-5, "num_heads": 32},
            Rotary(halves=True),
        ),
        (
            "vit_huge_plus_patch16_dinov3",
            {"rope": "centred", "rope_base": 100.0, "norm_eps": 1e-5, "num_heads": 20},
            Rotary(halves=True),
        ),
        (
            "vit_small_patch16_rope_ape_224",
            {"rope": "index", "rope_base": 100.0},
            Rotary(columns_first=True),
        ),
        ("aimv2_large_patch14_224", {"norm_eps": 1e-5, "num_heads": 8}, None),
        ("aimv2_huge_patch14_224", {"norm_eps": 1e-5, "num_heads": 12}, None),
        ("aimv2_1b_patch14_224", {"norm_eps": 1e-5, "num_heads": 16}, None),
        ("aimv2_3b_patch14_224", {"norm_eps": 1e-5, "num_heads": 24}, None),
    ],
)
def test_an_architecture_of_timm_tells_what_no_weight_shows(
    architecture: str, arguments: dict[str, Any], rotary: Rotary | None
) -> None:
    assert timm_model(architecture) == (arguments, rotary)


@pytest.mark.parametrize(
    ("kind", "heads", "grid"),
    [("base", 8, 14), ("tiny", 8, 24), ("small", 8, 24), ("large", 8, 24)],
)
def test_perception_encoders_have_the_grid_of_their_size(kind: str, heads: int, grid: int) -> None:
    found = timm_model(f"vit_pe_core_{kind}_patch16_384")
    assert found.rotary == Rotary(columns_first=True)
    assert found.arguments == {
        **{"rope": "index", "rope_base": 1e4, "rope_grid": grid, "rope_offset": 1.0},
        **{"norm_eps": 1e-5, "pool_heads": heads, "pool_include_prefix": True},
    }


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("vit_relpos_small_patch16_224", "from relative positions"),
        ("vit_relpos_small_patch16_rpn_224", "normalises after each layer"),
        ("vit_small_patch16_rope_mixed_224", "learns the frequencies"),
        ("vit_pwee_patch16_reg1_gap_256", "side by side"),
        ("vit_dpwee_patch16_reg1_gap_256", "side by side"),
        ("vit_small_patch16_18x2_224", "side by side"),
        ("eva02_enormous_patch14_clip_224", "after attention and MLP"),
        ("naflexvit_base_patch16_gap", "images of any grid"),
        ("vit_base_r50_s16_224", "a ResNet before its blocks"),
    ],
)
def test_an_architecture_that_computes_otherwise_is_refused(architecture: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^{architecture} .*{reason}.*, which this Vision"):
        timm_model(architecture)


def test_metadata_tell_all_but_what_a_later_version_added() -> None:
    told = {"arguments": {"depth": 2, "later": 1}, "mean": [0.5], "std": [0.25]}
    found = metadata_facts({"vitlit": json.dumps({**told, "class_names": ["a"]})})
    assert found == Facts({"depth": 2}, (0.5,), (0.25,), ["a"])
    assert metadata_facts({"format": "pt"}) is None


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_settings_that_cannot_be_read_are_refused_by_their_file(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json (is not|holds)"):
        folder_facts(tmp_path)


def test_a_folder_without_settings_tells_nothing(tmp_path: Path) -> None:
    assert folder_facts(tmp_path) == Facts({})


def test_a_pooling_in_the_arguments_of_the_model_is_read_too(tmp_path: Path) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"global_pool": "avg"}}
    assert facts_of(tmp_path, config).arguments["global_pool"] == "avg"
