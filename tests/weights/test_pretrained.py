"""Weights of other packages, saved as their users save them: the logits must be theirs."""

import argparse
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from timm.layers import RotaryEmbeddingDinoV3
from timm.models import load_checkpoint, save_for_hf
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn

from vitlit.data.catalog import SOURCES
from vitlit.errors import InputError
from vitlit.model.vit import ViT, config_of
from vitlit.weights.key_mapping import translate_keys
from vitlit.weights.load import load
from vitlit.weights.model_config import folder_facts
from vitlit.weights.pretrained import Weights, _from_published, class_names_of, load_weights

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 128,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 1.5,
}
TIMM_SHAPES = {
    "plain": {},
    "rectangular": {"img_size": (8, 12)},
    "average pool": {"global_pool": "avg", "class_token": False},
    "average pool beside a class token": {"global_pool": "avg"},
    "norm before the average": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "no qkv bias": {"qkv_bias": False},
    "registers": {"reg_tokens": 3},
    "registers on a rectangle": {"reg_tokens": 3, "img_size": (8, 12)},
    "registers without positions": {"reg_tokens": 4, "no_embed_class": True},
    "one channel": {"in_chans": 1},
    "layer scale": {"init_values": 0.1},
    "layer scale, class token without a position": {"init_values": 0.1, "no_embed_class": True},
    "four heads": {"num_heads": 4},
    "no head": {"num_classes": 0},
    "no positions": {"pos_embed": "none"},
    "odd ratio": {"embed_dim": 192, "num_heads": 3, "mlp_ratio": 100 / 192},
    # 123 / 240 * 240 is a little less than 123, which int would make 122
    "ratio that rounds down": {"embed_dim": 240, "num_heads": 3, "mlp_ratio": 123.5 / 240},
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def filled(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with no parameter left at zero."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def timm_vit(**changes: Any) -> VisionTransformer:
    model = filled(VisionTransformer(**{**SMALL, **changes}))
    assert isinstance(model, VisionTransformer)
    return model


def model_of(weights: Weights) -> ViT:
    model = ViT(**weights.arguments)
    model.load_state_dict(weights.state, strict=True)
    return model.eval()


def assert_same_logits(
    weights: Weights, reference: Callable[[Tensor], Tensor], rtol: float = 1e-4
) -> None:
    model = model_of(weights)
    images = torch.randn(2, model.in_chans, *model.img_size)
    with torch.no_grad():
        expected, found = reference(images), model(images)
    assert (found - expected).norm() <= rtol * expected.norm()


def timm_folder(folder: Path, model: nn.Module, **settings: Any) -> Path:
    """The folder of a model as timm pushes it to the hub."""
    arguments = {**SMALL, **settings}
    model.pretrained_cfg = {  # as timm.create_model leaves it
        "input_size": (model.patch_embed.proj.in_channels, *model.patch_embed.img_size),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "architecture": "vit_tiny_patch16_224",
        "num_classes": model.num_classes,
    }
    save_for_hf(
        model,
        folder,
        model_config={"label_names": list("abcde")},
        model_args=arguments,
        safe_serialization=True,
    )
    return folder


@pytest.mark.parametrize("shape", TIMM_SHAPES)
def test_a_timm_folder_gives_timms_logits(shape: str, tmp_path: Path) -> None:
    changes = TIMM_SHAPES[shape]
    reference = timm_vit(**changes)
    folder = timm_folder(tmp_path, reference, **changes)
    assert_same_logits(load_weights(folder), reference)


@pytest.mark.parametrize("ending", ["pth", "safetensors", "anything"])
@pytest.mark.parametrize(
    "shape",
    [
        "plain",
        "registers",
        "layer scale",
        "layer scale, class token without a position",
        "norm before the average",
        "average pool beside a class token",
    ],
)
def test_a_bare_timm_state_dict_gives_timms_logits(shape: str, ending: str, tmp_path: Path) -> None:
    reference, file = timm_vit(**TIMM_SHAPES[shape]), tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(reference.state_dict(), file)
    else:
        torch.save(reference.state_dict(), file)
    assert_same_logits(load_weights(file), reference)


HUGGING_FACE: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 5,
}


def hugging_face(kind: str, **changes: Any) -> Any:
    """A model of transformers with weights that make epsilon and activation matter."""
    classes = {
        "ViTForImageClassification": transformers.ViTConfig,
        "ViTModel": transformers.ViTConfig,
        "DeiTForImageClassificationWithTeacher": transformers.DeiTConfig,
        "ViTMAEForPreTraining": transformers.ViTMAEConfig,
        "Dinov2Model": transformers.Dinov2Config,
        "Dinov2ForImageClassification": transformers.Dinov2Config,
        "Dinov2WithRegistersModel": transformers.Dinov2WithRegistersConfig,
    }
    config = classes[kind](**{**HUGGING_FACE, **changes})
    return filled(getattr(transformers, kind)(config))


@pytest.mark.slow  # the first one: importing transformers takes long
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_norm_eps": 1e-2},
        {"hidden_act": "gelu_new"},
        {"qkv_bias": False},
        {"image_size": (8, 12)},
        {"num_channels": 1},
    ],
    ids=str,
)
def test_a_hugging_face_folder_gives_transformers_logits(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    reference = hugging_face("ViTForImageClassification", **changes)
    reference.save_pretrained(tmp_path)
    assert_same_logits(load_weights(tmp_path), lambda images: reference(images).logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
def test_the_names_of_transformers_5_give_its_features(kind: str, tmp_path: Path) -> None:
    """Files hold version 4's names; the running model and what users save of it, version 5's."""
    reference = hugging_face(kind)
    names = reference.state_dict()
    assert any(".q_proj." in name for name in names)
    reference.config.save_pretrained(tmp_path)
    torch.save(names, tmp_path / "pytorch_model.bin")
    inner = reference if kind == "ViTModel" else reference.vit
    weights = load_weights(tmp_path)
    weights.arguments["num_classes"] = 0
    for name in ("head.weight", "head.bias"):
        weights.state.pop(name, None)
    assert_same_logits(weights, lambda images: inner(images).last_hidden_state[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Dinov2Model", "Dinov2WithRegistersModel"])
def test_dinov2_gives_its_class_token(kind: str, tmp_path: Path) -> None:
    reference = hugging_face(kind)
    reference.save_pretrained(tmp_path)
    weights = load_weights(tmp_path)
    assert weights.arguments["init_values"] is not None
    assert_same_logits(weights, lambda images: reference(images).last_hidden_state[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dropped"),
    [
        ("DeiTForImageClassificationWithTeacher", "dropped both heads"),
        ("ViTMAEForPreTraining", "dropped the decoder"),
        ("ViTModel", "dropped the pooler"),
        ("Dinov2ForImageClassification", "dropped the head, which reads class token and"),
    ],
)
def test_what_no_classifier_uses_is_dropped_with_a_note(
    kind: str, dropped: str, tmp_path: Path
) -> None:
    hugging_face(kind).save_pretrained(tmp_path)
    weights = load_weights(tmp_path)
    model_of(weights)
    assert any(note.startswith(dropped) for note in weights.notes)


@pytest.mark.slow
def test_a_hugging_face_folder_tells_its_normalisation_and_class_names(tmp_path: Path) -> None:
    names = {number: f"class {number}" for number in range(5)}
    hugging_face("ViTForImageClassification", id2label=names).save_pretrained(tmp_path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    weights = load_weights(tmp_path)
    assert weights.mean == (0.5, 0.4, 0.3)
    assert weights.std == (0.1, 0.2, 0.3)
    assert weights.class_names == list(names.values())


def test_a_timm_folder_tells_its_normalisation_and_class_names(tmp_path: Path) -> None:
    weights = load_weights(timm_folder(tmp_path, timm_vit()))
    assert weights.mean == (0.1, 0.2, 0.3)
    assert weights.std == (0.4, 0.5, 0.6)
    assert weights.class_names == list("abcde")


def test_a_torchvision_file_gives_torchvisions_logits(tmp_path: Path) -> None:
    reference = filled(
        torchvision.models.VisionTransformer(
            image_size=16,
            patch_size=4,
            num_layers=2,
            num_heads=2,
            hidden_dim=128,
            mlp_dim=192,
            num_classes=5,
        )
    )
    torch.save(reference.state_dict(), tmp_path / "vit.pth")
    weights = load_weights(tmp_path / "vit.pth")
    assert_same_logits(weights, reference)
    assert weights.mean == pytest.approx(timm.data.IMAGENET_DEFAULT_MEAN)


def google_arrays(model: VisionTransformer, style: str) -> dict[str, np.ndarray[Any, Any]]:
    """timm's weights under Google's names and in JAX's layout, the inverse of timm's reader."""
    attention, norm2, mlp = (1, 2, 3) if style == "published" else (0, 1, 0)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    width, heads = SMALL["embed_dim"], model.blocks[0].attn.num_heads
    positions = "pos_embedding" if style == "big_vision" else "Transformer/posembed_input/"
    result = {
        "cls": state["cls_token"],
        positions + ("" if style == "big_vision" else "pos_embedding"): state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for number in range(SMALL["depth"]):
        ours, theirs = f"blocks.{number}.", f"Transformer/encoderblock_{number}/"
        for name, place in (("norm1", 0), ("norm2", norm2)):
            result[f"{theirs}LayerNorm_{place}/scale"] = state[f"{ours}{name}.weight"]
            result[f"{theirs}LayerNorm_{place}/bias"] = state[f"{ours}{name}.bias"]
        inside = f"{theirs}MultiHeadDotProductAttention_{attention}/"
        matrices = np.split(state[f"{ours}attn.qkv.weight"], 3)
        biases = np.split(state[f"{ours}attn.qkv.bias"], 3)
        for part, matrix, bias in zip(("query", "key", "value"), matrices, biases, strict=True):
            result[f"{inside}{part}/kernel"] = matrix.T.reshape(width, heads, -1)
            result[f"{inside}{part}/bias"] = bias.reshape(heads, -1)
        out = state[f"{ours}attn.proj.weight"].T.reshape(heads, -1, width)
        result[f"{inside}out/kernel"] = out
        result[f"{inside}out/bias"] = state[f"{ours}attn.proj.bias"]
        for layer in (0, 1):
            dense = f"{theirs}MlpBlock_{mlp}/Dense_{layer}/"
            result[f"{dense}kernel"] = state[f"{ours}mlp.fc{layer + 1}.weight"].T
            result[f"{dense}bias"] = state[f"{ours}mlp.fc{layer + 1}.bias"]
    prefix = "params/" if style == "big_vision" else ""
    return {prefix + name: value for name, value in result.items()}


@pytest.mark.parametrize("style", ["published", "big_vision"])
def test_a_google_file_gives_the_logits_of_timms_reader(style: str, tmp_path: Path) -> None:
    """timm's model gets the tanh GELU of Google's code, which timm itself leaves out."""
    no_embed_class = style == "big_vision"
    written = timm_vit(no_embed_class=no_embed_class)
    np.savez(tmp_path / "a.npz", **google_arrays(written, style))
    tanh = {"act_layer": "gelu_tanh", "no_embed_class": no_embed_class}
    reference = VisionTransformer(**SMALL, **tanh).eval()
    reference.load_pretrained(str(tmp_path / "a.npz"))
    assert_same_logits(load_weights(tmp_path / "a.npz"), reference)


def test_newer_google_names_mean_the_same_as_the_published_ones(tmp_path: Path) -> None:
    written = timm_vit()
    states = []
    for style in ("published", "newer"):
        np.savez(tmp_path / f"{style}.npz", **google_arrays(written, style))
        states.append(load_weights(tmp_path / f"{style}.npz").state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_google_files_with_all_blocks_in_one_array_are_taken_apart(tmp_path: Path) -> None:
    arrays = google_arrays(timm_vit(no_embed_class=True), "big_vision")
    first = [name for name in arrays if "encoderblock_0/" in name]
    stacked = {name: value for name, value in arrays.items() if "encoderblock_" not in name}
    for name in first:
        blocks = [arrays[name], arrays[name.replace("encoderblock_0", "encoderblock_1")]]
        stacked[name.replace("encoderblock_0", "encoderblock")] = np.stack(blocks)
    np.savez(tmp_path / "apart.npz", **arrays)
    np.savez(tmp_path / "stacked.npz", **stacked)
    apart, joined = (load_weights(tmp_path / f"{n}.npz").state for n in ("apart", "stacked"))
    assert all(torch.equal(apart[name], joined[name]) for name in apart)


def test_a_google_file_tells_its_heads_and_normalisation(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **google_arrays(timm_vit(num_heads=4), "published"))
    weights = load_weights(tmp_path / "a.npz")
    assert weights.arguments["num_heads"] == 4  # by the width they would be 2
    assert (weights.mean, weights.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert any(note.startswith("mean") and "assumed" in note for note in weights.notes)


def test_a_head_behind_a_representation_layer_is_dropped_with_it(tmp_path: Path) -> None:
    arrays = google_arrays(timm_vit(), "published")
    arrays |= {"pre_logits/kernel": np.ones((128, 128), "f4"), "pre_logits/bias": np.ones(128)}
    np.savez(tmp_path / "a.npz", **arrays)
    weights = load_weights(tmp_path / "a.npz")
    assert weights.arguments["num_classes"] == 0
    assert any("representation layer" in note for note in weights.notes)


def test_a_head_that_reads_two_vectors_is_dropped(tmp_path: Path) -> None:
    """DINOv2's reads the class token and the average of the patches."""
    state = {**timm_vit().state_dict(), "head.weight": torch.ones(5, 2 * SMALL["embed_dim"])}
    torch.save(state, tmp_path / "a.pth")
    weights = load_weights(tmp_path / "a.pth")
    assert weights.arguments["num_classes"] == 0
    assert any("class token and average together, of 5 classes" in n for n in weights.notes)


def test_words_among_arrays_are_no_bfloat16(tmp_path: Path) -> None:
    arrays = google_arrays(timm_vit(), "published")
    np.savez(tmp_path / "a.npz", **arrays, extra=np.array([b"ab"]))
    with pytest.raises(InputError, match="cannot read"):
        load_weights(tmp_path / "a.npz")


def test_bfloat16_arrays_of_jax_are_read(tmp_path: Path) -> None:
    arrays = google_arrays(timm_vit(), "published")
    bias = torch.from_numpy(arrays["head/bias"]).bfloat16()
    arrays["head/bias"] = bias.view(torch.int16).numpy().view("V2")
    np.savez(tmp_path / "a.npz", **arrays)
    assert torch.equal(load_weights(tmp_path / "a.npz").state["head.bias"], bias.float())


@pytest.mark.parametrize("part", ["state_dict", "model", "model_ema", "module", "teacher"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.backbone."])
def test_weights_inside_a_training_checkpoint_are_found(
    part: str, prefix: str, tmp_path: Path
) -> None:
    state = {f"{prefix}{name}": value for name, value in timm_vit().state_dict().items()}
    file = tmp_path / "a.pth"
    torch.save({part: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, file)
    found = load_weights(file).state
    assert all(torch.equal(found[name.removeprefix(prefix)], state[name]) for name in state)


def test_the_average_is_preferred_as_timm_prefers_it(tmp_path: Path) -> None:
    plain, average, reference = timm_vit(), timm_vit(), timm_vit()
    file = tmp_path / "a.pth"
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": average.state_dict()}, file)
    load_checkpoint(reference, str(file), use_ema=True)
    weights = load_weights(file)
    assert torch.equal(weights.state["head.weight"], reference.head.weight)
    assert any("state_dict_ema" in note for note in weights.notes)


def test_a_file_of_the_format_before_pytorch_1_6_is_read(tmp_path: Path) -> None:
    reference, file = timm_vit(), tmp_path / "a.pth"
    torch.save(reference.state_dict(), file, _use_new_zipfile_serialization=False)
    assert_same_logits(load_weights(file), reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({k: v.to(dtype) for k, v in timm_vit().state_dict().items()}, tmp_path / "a")
    assert {value.dtype for value in load_weights(tmp_path / "a").state.values()} == {torch.float32}


def test_a_distilled_deit_gives_its_class_token_without_the_heads_that_it_averages(
    tmp_path: Path,
) -> None:
    reference = filled(timm.models.deit.VisionTransformerDistilled(**SMALL))
    torch.save({"model": reference.state_dict()}, tmp_path / "deit.pth")
    weights = load_weights(tmp_path / "deit.pth")
    assert_same_logits(weights, lambda images: reference.forward_features(images)[:, 0])
    assert any("dropped both heads" in note and "5 classes" in note for note in weights.notes)


def test_dino_loses_its_projection_head(tmp_path: Path) -> None:
    reference = timm_vit(num_classes=0)
    state = {f"backbone.{name}": value for name, value in reference.state_dict().items()}
    state |= {"head.mlp.0.weight": torch.ones(8, 128), "head.last_layer.weight_g": torch.ones(8, 1)}
    torch.save({"teacher": state, "student": {}}, tmp_path / "dino.pth")
    weights = load_weights(tmp_path / "dino.pth")
    assert_same_logits(weights, reference)
    assert "dropped the projection head of self-supervision" in weights.notes


def test_dinov2s_own_file_gives_the_features_that_timm_makes_of_it(tmp_path: Path) -> None:
    changes = {"num_classes": 0, "reg_tokens": 4, "init_values": 0.1}
    reference = timm_vit(**changes, no_embed_class=True)
    state = dict(reference.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 128)
    row = torch.randn(1, 1, 128)  # of the class token; timm adds it to the token
    state["pos_embed"] = torch.cat([row, state["pos_embed"]], dim=1)
    torch.save(state, tmp_path / "dinov2.pth")
    reference.cls_token.data += row
    assert_same_logits(load_weights(tmp_path / "dinov2.pth"), reference)


def test_mae_loses_its_decoder(tmp_path: Path) -> None:
    reference = timm_vit(num_classes=0)
    extra = {
        "mask_token": torch.zeros(1, 1, 64),
        "decoder_pos_embed": torch.zeros(1, 17, 64),
        "decoder_blocks.0.norm1.weight": torch.ones(64),
    }
    torch.save({"model": {**reference.state_dict(), **extra}}, tmp_path / "mae.pth")
    assert_same_logits(load_weights(tmp_path / "mae.pth"), reference)


def own_checkpoint(file: Path, *, invert: bool = False, **changes: Any) -> ViT:
    """A checkpoint as training on the digits writes it, without what a trainer adds."""
    arguments = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}
    arguments |= {"embed_dim": 16, "depth": 2, "num_heads": 4, **changes}
    model = ViT(**arguments)
    filled(model)
    content = {
        "state_dict": {f"vit.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": {**arguments, "lr": 0.1},
        "datamodule_hyper_parameters": {"dataset": "digits", "patch_size": 2, "invert": invert},
    }
    torch.save(content, file)
    return model.eval()


@pytest.mark.parametrize(
    "changes", [{}, {"pos_embed": "sincos2d", "global_pool": "avg"}, {"norm_eps": 0.1}], ids=str
)
def test_an_own_checkpoint_gives_its_models_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = own_checkpoint(tmp_path / "a.ckpt", **changes)
    assert_same_logits(load_weights(tmp_path / "a.ckpt"), reference)


def test_the_checkpoint_of_a_model_made_in_python_has_the_arguments_that_were_left_out(
    tmp_path: Path,
) -> None:
    reference = own_checkpoint(tmp_path / "a.ckpt", in_chans=3, num_classes=1000, num_heads=12,
                               embed_dim=48)  # fmt: skip
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for name in ("in_chans", "num_classes", "num_heads"):  # of which these are ViT's defaults
        del content["hyper_parameters"][name]
    torch.save(content, tmp_path / "a.ckpt")
    weights = load_weights(tmp_path / "a.ckpt")
    assert config_of(weights.arguments) == reference.config
    given = ("in_chans", "num_classes", "num_heads")
    assert [weights.arguments[name] for name in given] == [3, 1000, 12]
    assert len(class_names_of(weights)) == 1000  # the digits, which have ten, do not name them


def test_an_own_checkpoint_tells_its_classes_and_normalisation(tmp_path: Path) -> None:
    own_checkpoint(tmp_path / "a.ckpt")
    weights = load_weights(tmp_path / "a.ckpt")
    assert weights.class_names == list("0123456789")
    assert weights.mean is not None


def test_an_own_checkpoint_of_inverted_images_says_so(tmp_path: Path) -> None:
    own_checkpoint(tmp_path / "a.ckpt", invert=True)
    weights = load_weights(tmp_path / "a.ckpt")
    assert weights.invert
    assert weights.mean == pytest.approx(SOURCES["digits"].mean)


def test_a_run_folder_means_its_best_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    reference = own_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert_same_logits(load_weights(tmp_path), reference)


def test_an_exported_file_tells_its_model_in_its_metadata(tmp_path: Path) -> None:
    arguments = {**SMALL, "img_size": [8, 12], "num_heads": 8, "pos_embed": "sincos2d"}
    reference = ViT(**arguments)
    filled(reference)
    told = {"arguments": arguments, "mean": [0.1] * 3, "std": [1] * 3, "class_names": list("abcde")}
    metadata = {"vitlit": json.dumps(told)}
    save_file(reference.state_dict(), tmp_path / "a.safetensors", metadata=metadata)
    weights = load_weights(tmp_path / "a.safetensors")
    assert_same_logits(weights, reference)
    assert weights.mean == (0.1, 0.1, 0.1)
    assert weights.class_names == list("abcde")


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1280, 16)])
def test_untold_heads_are_those_of_the_published_width(
    width: int, heads: int, tmp_path: Path
) -> None:
    changes = {"embed_dim": width, "depth": 1, "num_heads": heads, "mlp_ratio": 0.1}
    torch.save(VisionTransformer(**{**SMALL, **changes}).state_dict(), tmp_path / "a")
    weights = load_weights(tmp_path / "a")
    assert weights.arguments["num_heads"] == heads
    assert any(note.startswith(f"num_heads {heads} assumed") for note in weights.notes)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_name_is_read_from_the_cache_without_a_network(hub_cache: Path) -> None:
    home = hub_cache / "models--timm--vit_small.test"
    commit = "0123456789" * 4
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    reference = timm_vit()
    timm_folder(home / "snapshots" / commit, reference)
    assert_same_logits(load_weights("timm/vit_small.test"), reference)
    assert_same_logits(load_weights(f"hf-hub:timm/vit_small.test@{commit}"), reference)


def test_a_hub_name_without_network_and_cache_is_one_sentence(hub_cache: Path) -> None:
    with pytest.raises(InputError, match="owner/model is not a file here and cannot be fetched"):
        load_weights("owner/model")


@pytest.mark.parametrize("path", ["lightning_logs/pre", "owner/model.safetensors"])
def test_the_hub_is_not_asked_for_a_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(InputError, match=f"no weights {path}; give a file, a folder"):
        load_weights(path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("no route to host\nmore"), "no route to host"), (OSError(), "OSError")],
)
def test_why_the_hub_gave_nothing_is_told(
    error: OSError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=f"check the name and the network: {reason}$"):
        load_weights("owner/model")


def test_a_hub_name_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'vitlit\[hub\]'"):
        load_weights("owner/model")


class Exploit:
    """Runs a command when unpickled by a reader that executes."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(is_zip: bool, tmp_path: Path) -> None:
    content = {"state_dict": timm_vit().state_dict(), "extra": Exploit(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=r"a\.pth .*never executed"):
        load_weights(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_code_in_an_array_file_is_refused_and_not_run(tmp_path: Path) -> None:
    arrays = google_arrays(timm_vit(), "published")
    np.savez(tmp_path / "a.npz", **arrays, extra=np.array([Exploit(tmp_path / "ran")]))
    with pytest.raises(InputError, match=r"a\.npz"):
        load_weights(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def written(file: Path, kind: str) -> Path:
    state = timm_vit().state_dict()
    match kind:
        case "safetensors":
            save_file(state, file)
        case "npz":
            np.savez(file, **google_arrays(timm_vit(), "published"))
            file = file.with_suffix(".npz")
        case "zip":
            torch.save(state, file)
        case "legacy":
            torch.save(state, file, _use_new_zipfile_serialization=False)
    return file


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "npz", "zip", "legacy"])
def test_a_file_cut_short_is_refused_by_its_name(kind: str, share: float, tmp_path: Path) -> None:
    file = written(tmp_path / "a", kind)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match=file.name):
        load_weights(file)


@pytest.mark.parametrize("kind", ["npz", "zip"])
def test_a_file_with_changed_bytes_is_refused(kind: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a", kind)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = b"\xff" * 8
    file.write_bytes(data)
    with pytest.raises(InputError, match=file.name):
        load_weights(file)


def test_one_changed_bit_of_a_number_is_noticed(tmp_path: Path) -> None:
    """It would load as another number, which no shape and no test for NaN shows."""
    state, file = timm_vit().state_dict(), tmp_path / "a.pth"
    torch.save(state, file)
    data = bytearray(file.read_bytes())
    data[data.index(state["head.weight"].numpy().tobytes())] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged in .*data"):
        load_weights(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!doctype html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "a git-lfs pointer"),
        (b"hello, these are no weights", "no weight file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no weight file"),
        (b"\xff" * 8 + b'{"a": 1}', "cannot read"),
        (b"\x80\x02.", "cannot read"),
        (pickle.dumps({"a": 1}), "cannot read"),
    ],
    ids=repr,
)
def test_what_is_no_weight_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / "a")


def test_safetensors_whose_first_bytes_are_those_of_a_zip_are_read(tmp_path: Path) -> None:
    file, state = tmp_path / "a.safetensors", timm_vit().state_dict()
    save_file(state, file, metadata={"": ""})
    length = int.from_bytes(file.read_bytes()[:8], "little")
    save_file(state, file, metadata={"": " " * (int.from_bytes(b"PK", "little") - length)})
    assert file.read_bytes()[:2] == b"PK"
    assert torch.equal(load_weights(file).state["head.weight"], state["head.weight"])


def test_a_zip_of_other_things_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(InputError, match="cannot read"):
        load_weights(tmp_path / "a")


def refusal(state: Any, file: Path) -> str:
    torch.save(state, file)
    with pytest.raises(InputError) as caught:
        load_weights(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_saved_whole_is_refused(tmp_path: Path) -> None:
    assert "never executed" in refusal(timm_vit(), tmp_path / "a")


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], torch.ones(2), {"a": 1}, {"model": {"epoch": 3}}, {}], ids=repr
)
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    refusal(content, tmp_path / "a")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    assert "no weights" in refusal(content, tmp_path / "a")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    assert "no Vision Transformer that vitlit knows" in refusal(state, tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"attn_layer": "diff"}, "blocks.0.attn.lambda_k1"),
        ({"block_fn": ParallelThingsBlock}, "blocks.0.attns.0.attn.proj.weight"),
    ],
    ids=str,
)
def test_parts_that_the_model_has_not_are_named(
    changes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    assert part in refusal(timm_vit(**changes).state_dict(), tmp_path / "a")


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    state = timm_vit().state_dict()
    for name in ("blocks.1.attn.proj.bias", "blocks.1.norm1.weight", "norm.bias", "norm.weight"):
        del state[name]
    message = refusal(state, tmp_path / "a")
    assert "blocks.1.attn.proj.bias, blocks.1.norm1.weight, norm.bias, norm.weight;" in message


@pytest.mark.parametrize(
    "name", ["patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.0.mlp.fc1.weight"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 3), (0, 3, 4, 4), (1, 7, 128)], ids=str)
def test_a_tensor_of_another_shape_is_refused(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    refusal({**timm_vit().state_dict(), name: torch.ones(shape)}, tmp_path / "a")


def test_a_block_of_a_huge_number_builds_no_huge_model(tmp_path: Path) -> None:
    state = {**timm_vit().state_dict(), "blocks.999999999.norm1.weight": torch.ones(128)}
    assert "blocks.999999999.norm1.weight" in refusal(state, tmp_path / "a")


def test_weights_without_positions_are_refused_unless_they_are_told_to_have_none(
    tmp_path: Path,
) -> None:
    """Their positions may be rotary (DINOv3), which no name shows."""
    state = timm_vit(pos_embed="none").state_dict()
    assert "no learned positions" in refusal(state, tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["vision_transformer", "deit", "eva"])
def test_every_timm_architecture_is_inferred_as_timm_builds_it_or_refused(
    module: str, tmp_path: Path
) -> None:
    names = timm.list_models(module=module)
    for name in [name for name in names if "sapiens" not in name]:  # which needs all its depth
        with torch.device("meta"):
            reference = timm.create_model(name, depth=1)
        config = {"architecture": name, "global_pool": reference.global_pool}
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            translated = translate_keys(dict(reference.state_dict()), name)
            arguments = _from_published(translated, folder_facts(tmp_path), {}, name, []).arguments
        except InputError:
            continue
        block, told = reference.blocks[0], config_of(arguments)
        assert (block.attn.num_heads, block.norm1.eps) == (told["num_heads"], told["norm_eps"]), (
            name
        )
        assert reference.global_pool == told["global_pool"], name
        if told["mlp"] == "gelu":
            assert TIMM_ACTS[type(block.mlp.act).__name__] == told["act"], name
        assert rope_of_timm(reference) == {key: told[key] for key in ROPE_ARGUMENTS}, name


TIMM_ACTS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
ROPE_ARGUMENTS = ("rope", "rope_base", "rope_grid", "rope_offset")


def rope_of_timm(model: Any) -> dict[str, Any]:
    """The rotary positions of timm's model, as ViT's arguments."""
    theirs = getattr(model, "rope", None)
    if theirs is None:
        return dict(zip(ROPE_ARGUMENTS, ("none", 100.0, None, 0.0), strict=True))
    kind = "centred" if isinstance(theirs, RotaryEmbeddingDinoV3) else "index"
    grid = getattr(theirs, "ref_feat_shape", None)
    values = (kind, theirs.temperature, grid and grid[0], theirs.grid_offset)
    return dict(zip(ROPE_ARGUMENTS, values, strict=True))


def test_positions_of_an_untold_rectangle_are_refused(tmp_path: Path) -> None:
    state = timm_vit(img_size=(8, 12)).state_dict()
    assert "7 positions" in refusal(state, tmp_path / "a")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_attention_heads", 5, "num_heads 5 does not divide"),
        ("num_attention_heads", "two", "num_attention_heads 'two'"),
        ("layer_norm_eps", [1], "layer_norm_eps"),
        ("hidden_act", "swish", "activation 'swish'"),
        ("hidden_act", ["gelu"], "activation"),
    ],
)
def test_wrong_settings_beside_good_weights_are_refused_by_name(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    save_file(timm_vit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", key: value}))
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("mlp_ratio", float("nan")), ("depth", 10**9), ("embed_dim", "wide")]
)
def test_wrong_arguments_in_the_metadata_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    metadata = {"vitlit": json.dumps({"arguments": {**SMALL, name: value}})}
    save_file(timm_vit().state_dict(), tmp_path / "a", metadata=metadata)
    with pytest.raises(InputError, match=r"mlp_ratio nan|2 blocks|impossible model|not a number"):
        load_weights(tmp_path / "a")


def test_queries_and_keys_of_different_shapes_are_refused_by_their_name(tmp_path: Path) -> None:
    arrays = google_arrays(timm_vit(), "published")
    name = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias"
    np.savez(tmp_path / "a.npz", **{**arrays, name: np.ones((2, 2))})
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.q\.bias"):
        load_weights(tmp_path / "a.npz")


def test_a_lightning_checkpoint_of_another_project_is_read_as_its_weights(tmp_path: Path) -> None:
    reference = timm_vit()
    state = {f"net.{name}": value for name, value in reference.state_dict().items()}
    settings = {"hyper_parameters": {"lr": 0.1}, "datamodule_hyper_parameters": {"root": "a"}}
    torch.save({"state_dict": state, **settings}, tmp_path / "a.ckpt")
    assert_same_logits(load_weights(tmp_path / "a.ckpt"), reference)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000], ids=lambda text: text[:5])
def test_settings_that_are_no_json_object_are_refused(text: str, tmp_path: Path) -> None:
    save_file(timm_vit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_weights(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        load_weights(tmp_path)


@pytest.mark.parametrize("source", ["nowhere.pth", "no/where.npz", "a/b/c", "", "https://a.org/b"])
def test_a_source_that_is_nowhere_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        load_weights(source)


def test_own_weights_of_another_depth_than_they_say_are_refused(tmp_path: Path) -> None:
    own_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["hyper_parameters"]["depth"] = 10**9
    assert "2 blocks, but says depth 1000000000" in refusal(content, tmp_path / "b.ckpt")


def test_safetensors_stay_equal_to_their_own_reader(tmp_path: Path) -> None:
    save_file(timm_vit().state_dict(), tmp_path / "a.safetensors")
    found, expected = (
        load_weights(tmp_path / "a.safetensors").state,
        load_file(tmp_path / "a.safetensors"),
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_registers_start_different_from_each_other() -> None:
    model = ViT(**SMALL, reg_tokens=2)
    assert isinstance(model.reg_token, Tensor)
    assert not torch.equal(model.reg_token[:, 0], model.reg_token[:, 1])


def test_pooling_a_class_token_that_is_left_out_is_refused() -> None:
    with pytest.raises(InputError, match="class_token false"):
        ViT(**SMALL, class_token=False)


def test_published_weights_load_into_a_model_ready_to_use(tmp_path: Path) -> None:
    reference = timm_vit()
    model, preprocess, names = load(timm_folder(tmp_path, reference))
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(value)[:, None, None] for value in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    with torch.no_grad():
        expected, found = reference((pixels / 255 - mean) / std), model(preprocess(pixels))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert names == list("abcde")


def test_an_own_checkpoint_loads_as_published_weights_do(tmp_path: Path) -> None:
    reference = own_checkpoint(tmp_path / "a.ckpt", invert=True)
    model, preprocess, names = load(tmp_path / "a.ckpt")
    assert preprocess.invert
    assert names == list("0123456789")
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images))


def test_weights_without_a_head_load_without_class_names(tmp_path: Path) -> None:
    reference = timm_vit(num_classes=0)
    model, _, names = load(timm_folder(tmp_path, reference, num_classes=0))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images))
    assert names == []
