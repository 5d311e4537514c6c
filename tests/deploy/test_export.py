"""Exported models, loaded by the programs they are for: the logits must be the model's."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from vitlit.data.catalog import make_preprocess
from vitlit.data.datamodule import PlainImageData
from vitlit.deploy.export import Exported, export_model
from vitlit.deploy.export_mapping import TIMM_SIZES
from vitlit.deploy.portable import (
    AIMV2_MODEL,
    BEIT_MODEL,
    EVA_MODELS_BY_EPS,
    TIMM_MODELS_BY_EPS,
    model_arguments,
)
from vitlit.deploy.programs import FACTS_NAME
from vitlit.errors import InputError
from vitlit.images.framing import Framing, padded_with_mean
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.weights.load import load
from vitlit.weights.pretrained import load_weights

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 3,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 1.5,
}
NAMES = ["Käse", "чай 茶", 'a "quoted" \\ name']
FOR_BOTH = {
    "plain": {},
    "rectangular": {"img_size": [8, 12]},
    "one channel": {"in_chans": 1},
    "no qkv bias": {"qkv_bias": False},
    "gelu_tanh": {"act": "gelu_tanh"},
    "flattened patches": {"patch_embed": "linear"},
    "four heads": {"num_heads": 4},
    "sincos1d": {"pos_embed": "sincos1d"},
    "sincos2d": {"pos_embed": "sincos2d"},
    "no positions": {"pos_embed": "none"},
    "odd ratio": {"embed_dim": 192, "num_heads": 3, "mlp_ratio": 100 / 192},
    "dropout": {"drop_rate": 0.5, "proj_drop_rate": 0.5, "drop_path_rate": 0.5},
    "norm after the pooling": {"fc_norm": True},
}
FOR_TIMM = {
    "average pool": {"global_pool": "avg"},
    "average pool beside a class token": {"global_pool": "avg", "class_token": True},
    "norm before the average": {"global_pool": "avg", "fc_norm": False},
    "registers": {"reg_tokens": 3},
    "layer scale": {"init_values": 0.1},
    "CLIP": {"pre_norm": True, "norm_eps": 1e-5, "act": "quick_gelu"},
    "norm before the blocks and registers": {"pre_norm": True, "reg_tokens": 2},
    "SigLIP": {"global_pool": "map", "act": "gelu_tanh"},
    "map beside registers": {"global_pool": "map", "reg_tokens": 2},
    "query and key norms": {"qk_norm": True},
    "BEiT-3": {"sub_norm": "both", "norm_eps": 1e-5},
    "norm in the MLP": {"sub_norm": "mlp"},
    "no last norm": {"final_norm": False},
}
DINOV3 = {"pos_embed": "none", "rope": "centred", "init_values": 0.1, "reg_tokens": 2}
EVA02 = {"rope": "index", "rope_base": 1e4, "rope_grid": 3, "mlp": "swiglu", "sub_norm": "mlp"}
PE = {"rope": "index", "rope_offset": 1.0, "rope_grid": [2, 5], "pre_norm": True}
FOR_TIMMS_EVA = {
    "DINOv3": {**DINOV3, "norm_eps": 1e-5, "qkv_bias": False},
    "DINOv3 gated, of a rectangle": {**DINOV3, "mlp": "swiglu", "img_size": [8, 12]},
    "DINOv3 with an offset": {**DINOV3, "rope_offset": 0.25, "rope_base": 50.0},
    "EVA-02": {**EVA02, "global_pool": "avg", "class_token": True},
    "EVA-02, norms in both": {**EVA02, "sub_norm": "both", "reg_tokens": 1},
    "EVA-02 without biases": {**EVA02, "qkv_bias": False, "fc_norm": True},
    "PE core": {**PE, "global_pool": "map", "class_token": True, "pool_heads": 4,
                "pool_include_prefix": True, "pool_mlp_ratio": 2.0, "norm_eps": 1e-5},
    "PE spatial": {**PE, "global_pool": "avg", "final_norm": False, "init_values": 0.1},
    "RoPE-ViT": {"pos_embed": "none", "rope": "index", "qk_norm": True},
    "gated without rope": {"mlp": "swiglu", "init_values": 0.1},
}  # fmt: skip
V2 = {"init_values": 0.1, "mlp_ratio": 2.0}
CLIP, GATED = FOR_TIMM["CLIP"], {"mlp": "swiglu", "mlp_ratio": 0.75}  # 2/3 of 64, up to 8s: 48
SIGLIP = FOR_TIMM["SigLIP"]
FOR_TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP": ("CLIPVisionModel", CLIP),
    "CLIP without biases": ("CLIPVisionModel", {**CLIP, "qkv_bias": False, "act": "gelu"}),
    "CLIP's classifier": (
        "CLIPForImageClassification",
        {**CLIP, "global_pool": "avg", "class_token": True, "final_norm": False, "num_classes": 3},
    ),
    "SigLIP": ("SiglipVisionModel", SIGLIP),
    "SigLIP's classifier": (
        "SiglipForImageClassification",
        {"global_pool": "avg", "fc_norm": False, "act": "gelu_tanh", "num_classes": 3},
    ),
    "DINOv3": ("DINOv3ViTModel", {**DINOV3, "norm_eps": 1e-5, "rope_base": 50.0}),
    "DINOv3 gated, of a rectangle": (
        "DINOv3ViTModel",
        {**DINOV3, "mlp": "swiglu", "img_size": [8, 12], "num_heads": 4, "qkv_bias": False},
    ),
    "DINOv3 without registers": (
        "DINOv3ViTModel",
        {"pos_embed": "none", "rope": "centred", "act": "quick_gelu"},
    ),
    "DINOv2": ("Dinov2Model", V2),
    "DINOv2 gated": ("Dinov2Model", {**V2, **GATED}),
    "DINOv2 gated, with registers": (
        "Dinov2WithRegistersModel",
        {**V2, **GATED, "reg_tokens": 2, "qkv_bias": False},
    ),
    "DINOv2's classifier": ("Dinov2ForImageClassification", {**V2, "num_classes": 3}),
    "DINOv2's classifier of averages": (
        "Dinov2WithRegistersForImageClassification",
        {"mlp_ratio": 2.0, "reg_tokens": 3, "global_pool": "avg", "class_token": True,
         "fc_norm": False, "num_classes": 3, "pos_embed": "none"},
    ),
}  # fmt: skip
NOT_FOR_TRANSFORMERS = {
    "head on a class token": ({**CLIP}, "global_pool token and a head"),
    "map and a head": ({**SIGLIP}, "global_pool map and a head"),
    "DINOv3 and a head": ({**DINOV3}, "rope and a head"),
    "rope of EVA-02": ({**EVA02, "num_classes": 0}, "rope index"),
    "norm in the MLP": ({"sub_norm": "mlp"}, "sub_norm mlp"),
    "odd ratio": ({**V2, "mlp_ratio": 1.5}, r"mlp_ratio 1\.5"),
    "rectangle": ({**V2, "img_size": [8, 12]}, "img_size 8x12, which is not square"),
    "norm after the average": ({"global_pool": "avg"}, "global_pool avg with fc_norm"),
    "average of features": (
        {"global_pool": "avg", "class_token": True, "fc_norm": False, "num_classes": 0},
        "global_pool avg",
    ),
    "offset": ({**DINOV3, "rope_offset": 0.25, "num_classes": 0}, "rope_offset"),
    "map beside registers": (
        {"global_pool": "map", "reg_tokens": 2, "num_classes": 0}, "reg_tokens 2"
    ),
    "other heads": (
        {"global_pool": "map", "pool_heads": 4, "num_classes": 0}, "pool_heads"
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def small_vit(**changes: Any) -> ViT:
    """A model, as training leaves it, with no parameter at zero."""
    model = ViT(**{**SMALL, **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def preprocess_of(model: ViT, **changes: Any) -> Preprocess:
    size = model.img_size
    mean, std = (0.4, 0.5, 0.6)[: model.in_chans], (0.2, 0.3, 0.25)[: model.in_chans]
    usual = {"in_chans": model.in_chans, "source_size": size, "img_size": size}
    return Preprocess(**{**usual, "mean": mean, "std": std, **changes})


def exported(model: ViT, out: Path, **options: Any) -> Exported:
    return export_model(model, preprocess_of(model), NAMES, out, **options)


def images_for(model: ViT, count: int = 2) -> Tensor:
    return torch.randn(count, model.in_chans, *model.img_size)


@torch.no_grad()
def assert_same_logits(got: Tensor, model: ViT, images: Tensor) -> None:
    wanted = model.eval()(images)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


def noise_photo(path: Path) -> Path:
    """A photo with sides that scale without rounding, smooth enough for resamplers to agree."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 24), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.parametrize("changes", [*FOR_BOTH.values(), *FOR_TIMM.values()], ids=str)
def test_timm_computes_the_same_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small_vit(**changes)
    folder = exported(model, tmp_path / "out").folder
    images = images_for(model)
    with torch.no_grad():
        got = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)
    assert_same_logits(got, model, images)


@pytest.mark.parametrize("kind", FOR_TIMMS_EVA)
def test_timms_eva_computes_the_same_logits(kind: str, tmp_path: Path) -> None:
    model = small_vit(**FOR_TIMMS_EVA[kind])
    done = exported(model, tmp_path / "out", naming="timm")
    loaded = timm.create_model(f"local-dir:{done.folder}", pretrained=True)
    assert type(loaded).__name__ == "Eva"
    images = images_for(model)
    with torch.no_grad():
        assert_same_logits(loaded.eval()(images), model, images)
    assert load(done.folder).model.config == model.config
    # as from another program: the settings tell all that the names do not
    file = done.folder / "model.safetensors"
    save_file(load_file(file), file)
    with torch.no_grad():
        assert_same_logits(load(done.folder).model(images), model, images)


BEIT = {"attention": "relative", "pos_embed": "none", "init_values": 0.1, "class_token": True}
AIMV2 = {"norm": "rms", "embed_norm": True, "mlp": "swiglu", "norm_eps": 1e-5}
FOR_TIMMS_OTHERS = {
    "BEiT": {**BEIT, "global_pool": "avg"},
    "BEiT pooled by its token, of a rectangle": {**BEIT, "img_size": [8, 12]},
    "BEiT with positions, without biases": {
        **BEIT, "pos_embed": "learn", "qkv_bias": False, "init_values": None, "fc_norm": True},
    "AIMv2": {**AIMV2, "global_pool": "avg", "fc_norm": False, "qkv_bias": False},
    "AIMv2 with a class token": {**AIMV2, "reg_tokens": 1, "init_values": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("kind", FOR_TIMMS_OTHERS)
def test_timm_computes_the_same_logits_of_beit_and_aimv2(kind: str, tmp_path: Path) -> None:
    model = small_vit(**FOR_TIMMS_OTHERS[kind])
    done = exported(model, tmp_path / "out")
    loaded = timm.create_model(f"local-dir:{done.folder}", pretrained=True)
    assert type(loaded).__name__ == ("Beit" if "BEiT" in kind else "VisionTransformer")
    images = images_for(model)
    with torch.no_grad():
        assert_same_logits(loaded.eval()(images), model, images)
        again = load(done.folder).model
        assert_same_logits(again(images), model, images)
        assert again.config == model.config
        # as from another program: the settings tell all that the names do not
        file = done.folder / "model.safetensors"
        save_file(load_file(file), file)
        assert_same_logits(load(done.folder).model(images), model, images)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({**BEIT, "norm_eps": 1e-5}, "norm_eps 1e-05"),
        ({**BEIT, "act": "quick_gelu"}, "act quick_gelu"),
        ({**BEIT, "reg_tokens": 1}, "reg_tokens"),
        ({**AIMV2, "norm_eps": 1e-6}, "norm rms with norm_eps 1e-06"),
        ({**AIMV2, "mlp": "gelu"}, "norm rms with mlp gelu"),
        ({**AIMV2, "rope": "index", "pos_embed": "none"}, "rope index"),
        ({"embed_norm": True, "mlp": "swiglu", "norm_eps": 1e-5}, "norm layer with embed_norm"),
        ({**DINOV3, "norm_eps": 1e-12}, "norm_eps 1e-12"),
        ({**DINOV3, "act": "gelu_tanh"}, "act gelu_tanh"),
        ({**EVA02, "norm": "rms"}, "rope index and norm rms without embed_norm"),
        ({**PE, "global_pool": "map", "class_token": True}, "map without pool_include_prefix"),
        ({**DINOV3, "embed_norm": True}, "embed_norm"),
        ({**DINOV3, "pre_norm": True}, "pre_norm without added positions"),
    ],
    ids=str,
)
def test_what_timms_models_cannot_compute_is_refused(
    changes: dict[str, Any], refused: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"timm has no models with .*{refused}.*naming vitlit"):
        exported(small_vit(**changes), tmp_path / "out", naming="timm")
    assert list(tmp_path.iterdir()) == []


def test_timm_knows_every_published_name() -> None:
    names = [
        f"vit_{name}_patch{patch}_{size}"
        for name, published in TIMM_SIZES.values()
        for patch, size in published
    ]
    assert set(timm.list_models("vit_*")) >= {*names, *TIMM_MODELS_BY_EPS.values()}
    assert set(timm.list_models()) >= {*EVA_MODELS_BY_EPS.values(), BEIT_MODEL, AIMV2_MODEL}


def test_published_sizes_are_timms() -> None:
    for (width, depth, heads), (name, published) in TIMM_SIZES.items():
        patch, size = min(published)
        with torch.device("meta"):
            model = timm.create_model(f"vit_{name}_patch{patch}_{size}", num_classes=0)
        found = (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads)
        assert found == (width, depth, heads)


def test_a_published_size_gets_its_name_in_timm(tmp_path: Path) -> None:
    tiny = {"embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4.0}
    model = ViT(img_size=224, patch_size=16, num_classes=3, **tiny)
    folder = exported(model, tmp_path / "out").folder
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"


@pytest.mark.parametrize("size", [16, [8, 12]], ids=str)
def test_timm_reads_photos_as_we_do(size: int | list[int], tmp_path: Path) -> None:
    model = small_vit(img_size=size)
    preprocess = preprocess_of(model)
    folder = exported(model, tmp_path / "out").folder
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    photo = noise_photo(tmp_path / "photo.png")
    with Image.open(photo) as image:
        got = create_transform(**resolve_model_data_config(loaded))(image)
    wanted = preprocess(preprocess.read(photo)[None])[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1.01 / 255 / 0.2)  # one level


@pytest.mark.parametrize("fit", ["cover", "squash", "letterbox"])
def test_timm_is_told_how_images_are_fitted(fit: Any, tmp_path: Path) -> None:
    model = small_vit()
    framing = padded_with_mean(Framing(fit, 0.8, "bilinear"), (0.4, 0.5, 0.6))
    preprocess = preprocess_of(model, framing=framing)
    folder = export_model(model, preprocess, NAMES, tmp_path / "out").folder
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    photo = noise_photo(tmp_path / "photo.png")
    with Image.open(photo) as image:
        got = create_transform(**resolve_model_data_config(loaded))(image)
    wanted = preprocess(preprocess.read(photo)[None])[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1.01 / 255 / 0.2)  # one level
    assert load(folder).preprocess == preprocess


def test_our_own_naming_tells_how_images_are_fitted(tmp_path: Path) -> None:
    model = small_vit()
    preprocess = preprocess_of(model, framing=Framing("squash", 0.8, "bilinear"))
    out = tmp_path / "out"
    folder = export_model(model, preprocess, NAMES, out, naming="vitlit").folder
    assert load(folder).preprocess == preprocess


@pytest.mark.parametrize("naming", ["timm", "vitlit"])
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_photos_are_padded_alike_after_an_export(
    plain: bool, invert: bool, naming: Any, tmp_path: Path
) -> None:
    model = small_vit().eval()
    how = {"plain": plain, "invert": invert, "framing": Framing("letterbox")}
    preprocess = make_preprocess("folder", (16, 16), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), **how)
    done = export_model(model, preprocess, NAMES, tmp_path / "out", naming=naming)
    again, prepared, _ = load(done.folder)
    file = noise_photo(tmp_path / "photo.png")
    pixels, expected = prepared.read(file), preprocess.read(file)
    assert torch.equal(pixels, expected)
    padding = preprocess(expected[None])[..., 0, :]
    assert padding.abs().max() <= 0.01  # colours have 8 bits
    with torch.no_grad():
        found = again(prepared(pixels[None]))
    assert_same_logits(found, model, preprocess(expected[None]))


def test_timm_gets_the_class_names(tmp_path: Path) -> None:
    folder = exported(small_vit(), tmp_path / "out").folder
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert loaded.pretrained_cfg["label_names"] == NAMES


@pytest.mark.parametrize("changes", [*FOR_BOTH.values(), {"norm_eps": 1e-12}], ids=str)
def test_transformers_computes_the_same_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small_vit(**changes)
    folder = exported(model, tmp_path / "out", naming="huggingface").folder
    loaded, info = transformers.ViTForImageClassification.from_pretrained(
        folder, output_loading_info=True
    )
    images = images_for(model)
    with torch.no_grad():
        assert_same_logits(loaded.eval()(images).logits, model, images)
    assert not any(info.values()), info


def loaded_by_transformers(folder: Path, name: str) -> Any:
    """The model, if the weights are exactly those that it has."""
    loaded, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return loaded.eval()


@pytest.mark.parametrize("kind", FOR_TRANSFORMERS)
def test_transformers_computes_the_same_features_of_each_family(kind: str, tmp_path: Path) -> None:
    name, changes = FOR_TRANSFORMERS[kind]
    model = small_vit(**{"num_classes": 0, **changes})
    names = NAMES if model.num_classes else []
    out = tmp_path / "out"
    done = export_model(model, preprocess_of(model), names, out, naming="huggingface")
    assert f"transformers.{name}.from_pretrained" in done.message
    images = images_for(model)
    with torch.no_grad():
        answer = loaded_by_transformers(done.folder, name)(images)
        assert_same_logits(answer.logits if names else answer.pooler_output, model, images)
        again = load(done.folder)
        assert_same_logits(again.model(images), model, images)
    assert again.class_names == names


def test_transformers_turns_dinov3_by_rows_and_columns_of_another_size(tmp_path: Path) -> None:
    model = small_vit(**{**FOR_TRANSFORMERS["DINOv3"][1], "num_classes": 0, "img_size": 16})
    out = tmp_path / "out"
    folder = headless(model, out, naming="huggingface").folder
    larger = load(folder, img_size=[20, 12]).model
    images = images_for(larger)
    with torch.no_grad():
        found = loaded_by_transformers(folder, "DINOv3ViTModel")(images).pooler_output
    assert_same_logits(found, larger, images)


def test_transformers_gets_the_class_names(tmp_path: Path) -> None:
    folder = exported(small_vit(), tmp_path / "out", naming="huggingface").folder
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: number for number, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    "framing", [Framing("squash"), Framing("squash", 0.8), Framing("cover", 0.8)]
)
def test_transformers_is_told_how_images_are_fitted(framing: Framing, tmp_path: Path) -> None:
    model = small_vit()
    preprocess = preprocess_of(model, framing=framing)
    out = tmp_path / "out"
    folder = export_model(model, preprocess, NAMES, out, naming="huggingface").folder
    photo = noise_photo(tmp_path / "photo.png")
    with Image.open(photo) as image:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        got = processor(images=image, return_tensors="pt")["pixel_values"]
    wanted = preprocess(preprocess.read(photo)[None])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1.01 / 255 / 0.2)  # one level
    assert load(folder).preprocess == preprocess


@pytest.mark.parametrize(
    ("size", "fit"), [([8, 12], "cover"), (16, "letterbox")], ids=["rectangle", "letterbox"]
)
def test_the_message_says_what_transformers_cannot_do_with_images(
    size: Any, fit: Any, tmp_path: Path
) -> None:
    model = small_vit(img_size=size)
    preprocess = preprocess_of(model, framing=Framing(fit))
    out = tmp_path / "out"
    message = export_model(model, preprocess, NAMES, out, naming="huggingface").message
    assert "no image processor of transformers prepares images as in training" in message


@pytest.mark.parametrize("channels", [1, 3])
def test_transformers_reads_photos_as_we_do(channels: int, tmp_path: Path) -> None:
    model = small_vit(in_chans=channels)
    preprocess = preprocess_of(model)
    folder = exported(model, tmp_path / "out", naming="huggingface").folder
    photo = noise_photo(tmp_path / "photo.png")
    with Image.open(photo) as image:
        read = image.convert("L") if channels == 1 else image
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        got = processor(images=read, return_tensors="pt")["pixel_values"]
    wanted = preprocess(preprocess.read(photo)[None])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1.01 / 255 / 0.2)  # one level


@pytest.mark.parametrize("changes", [*FOR_BOTH.values(), *FOR_TIMM.values()], ids=str)
def test_the_arguments_of_a_model_make_it_again(changes: dict[str, Any]) -> None:
    model = small_vit(**changes).eval()
    again = ViT(**model_arguments(model)).eval()
    again.load_state_dict(model.state_dict())
    images = images_for(model)
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["learn", "sincos1d", "sincos2d", "none"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_kind_of_positions_is_found_in_a_model(kind: str, pool: str) -> None:
    assert model_arguments(small_vit(pos_embed=kind, global_pool=pool))["pos_embed"] == kind


def test_we_load_our_own_export_with_all_it_tells(tmp_path: Path) -> None:
    model = small_vit(reg_tokens=1, pos_embed="sincos2d")
    weights = load_weights(exported(model, tmp_path / "out").folder)
    assert (weights.arguments, weights.class_names) == (model_arguments(model), NAMES)
    assert (weights.mean, weights.std, weights.notes) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), [])
    assert all(torch.equal(weights.state[name], v) for name, v in model.state_dict().items())


@pytest.mark.parametrize("positions", ["sincos1d", "sincos2d"])
@pytest.mark.parametrize("naming", ["timm", "huggingface", "vitlit"])
def test_we_load_fixed_positions_before_a_norm_with_the_bias_of_the_patches(
    naming: Any, positions: Any, tmp_path: Path
) -> None:
    model = small_vit(pre_norm=True, norm_eps=1e-5, pos_embed=positions, num_classes=0)
    loaded = load(headless(model, tmp_path / "out", naming=naming).folder).model
    images = images_for(model)
    with torch.no_grad():
        assert_same_logits(loaded(images), model, images)
    assert loaded.config["pos_embed"] == (positions if naming == "vitlit" else "learn")


@pytest.mark.parametrize("naming", ["timm", "vitlit"])
def test_the_first_value_of_layer_scale_is_exported(naming: Any, tmp_path: Path) -> None:
    folder = exported(small_vit(init_values=0.1), tmp_path / "out", naming=naming).folder
    assert load(folder).model.config["init_values"] == 0.1
    if naming == "timm":
        config = json.loads((folder / "config.json").read_text())
        assert config["model_args"]["init_values"] == 0.1


def test_the_first_value_of_layer_scale_is_read_from_timms_config(tmp_path: Path) -> None:
    folder = exported(small_vit(init_values=0.1), tmp_path / "out", naming="timm").folder
    file = folder / "model.safetensors"
    save_file(load_file(file), file)  # without our metadata, as timm writes it
    assert load_weights(folder).arguments["init_values"] == 0.1


def test_an_exported_model_takes_pixels_that_ours_inverts(tmp_path: Path) -> None:
    model = small_vit().eval()
    preprocess = preprocess_of(model, invert=True)
    weights = load_weights(export_model(model, preprocess, NAMES, tmp_path / "out").folder)
    assert weights.mean is not None
    assert weights.std is not None
    loaded = ViT(**weights.arguments).eval()
    loaded.load_state_dict(weights.state)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (weights.mean, weights.std))
    torch.testing.assert_close(loaded((pixels / 255 - mean) / std), model(preprocess(pixels)))


def test_exporting_leaves_the_weights_of_an_inverting_model_alone(tmp_path: Path) -> None:
    model = small_vit()
    before = model.patch_embed.proj.weight.detach().clone()
    export_model(model, preprocess_of(model, invert=True), NAMES, tmp_path / "out")
    assert torch.equal(model.patch_embed.proj.weight, before)


def test_transformers_is_told_by_the_file_that_it_is_of_pytorch(tmp_path: Path) -> None:
    folder = exported(small_vit(), tmp_path / "out", naming="huggingface").folder
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("changes", [{}, {"patch_embed": "linear", "global_pool": "avg"}], ids=str)
def test_a_pt2_program_computes_the_same_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small_vit(**changes)
    file = exported(model, tmp_path / "out", format="pt2").folder / "model.pt2"
    program = torch.export.load(file).module()
    for count in (1, 5):
        images = images_for(model, count)
        assert_same_logits(program(images), model, images)


def test_a_pt2_program_holds_what_its_users_must_know(tmp_path: Path) -> None:
    model = small_vit()
    preprocess = preprocess_of(model, framing=Framing("squash", 0.8, "bilinear"))
    out = tmp_path / "out"
    file = export_model(model, preprocess, NAMES, out, format="pt2").folder / "model.pt2"
    extra: dict[str, Any] = {FACTS_NAME: ""}
    torch.export.load(file, extra_files=extra)
    facts = json.loads(extra[FACTS_NAME])
    assert json.loads(facts["class_names"]) == NAMES
    words = "stretched to 20x20, bilinear and antialiased, then the centre cut out"
    assert facts["resize"] == words
    assert facts["output"] == f"logits: float32 (B, {len(NAMES)}), in the order of class_names"
    assert facts["input"] == "images: float32 (B, 3, 16, 16), red, green, blue"
    assert [json.loads(facts[name]) for name in ("input_size", "mean", "std")] == [
        [3, 16, 16],
        [0.4, 0.5, 0.6],
        [0.2, 0.3, 0.25],
    ]


def train(model: ViT, data: PlainImageData) -> None:
    """A second of training: without any, all digits look alike to a model."""
    data.setup("fit")
    split = data.splits["train"]
    images = data.preprocess(split.images.gather(split.members))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in torch.randint(0, len(split), (60, 128)):
        loss = nn.functional.cross_entropy(model(images[batch]), split.labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViT, PlainImageData, Path]:
    """A model of digits, its data and its ONNX file: writing one takes long."""
    torch.manual_seed(0)
    data = PlainImageData(dataset="digits", img_size=[8, 12], patch_size=4, invert=True)
    model = ViT(**{**SMALL, "img_size": [8, 12], "in_chans": 1, "num_classes": 10, "reg_tokens": 1})
    train(model, data)
    data.setup("test")
    out = tmp_path_factory.mktemp("onnx") / "out"
    result = export_model(model, data.preprocess, data.class_names, out, format="onnx")
    return model.eval(), data, result.folder / "model.onnx"


def onnx_session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnx_runtime_predicts_the_same_digits(digits: tuple[ViT, PlainImageData, Path]) -> None:
    model, data, path = digits
    split = data.splits["test"]
    pixels = split.images.gather(split.members)  # uint8 (n, 1, 8, 8)
    wide = torch.nn.functional.interpolate(pixels.float(), (8, 12), mode="bilinear", antialias=True)
    facts = onnx_session(path).get_modelmeta().custom_metadata_map
    mean, std = json.loads(facts["mean"])[0], json.loads(facts["std"])[0]
    got = onnx_session(path).run(["logits"], {"images": ((wide / 255 - mean) / std).numpy()})[0]
    wanted = model(data.preprocess(pixels))
    assert got.argmax(axis=1).tolist() == wanted.argmax(dim=1).tolist()
    accuracy = (got.argmax(axis=1) == split.labels.numpy()).mean()
    assert accuracy > 0.6, "predictions that say nothing agree too easily"


@pytest.mark.parametrize("count", [1, 4])
def test_onnx_runtime_takes_any_number_of_images(
    digits: tuple[ViT, PlainImageData, Path], count: int
) -> None:
    model, _, path = digits
    images = images_for(model, count)
    # the filters of the file have the other sign: pixels are inverted there
    got = onnx_session(path).run(["logits"], {"images": (-images).numpy()})[0]
    assert_same_logits(torch.from_numpy(got), model, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [FOR_TIMM["CLIP"], FOR_TIMM["SigLIP"], FOR_TIMMS_EVA["DINOv3"]],
    ids=["CLIP", "SigLIP", "DINOv3"],
)
def test_onnx_runtime_computes_the_logits_of_each_family(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = small_vit(**changes)
    file = exported(model, tmp_path / "out", format="onnx").folder / "model.onnx"
    session = onnxruntime.InferenceSession(file)
    for count in (1, 5):
        images = images_for(model, count)
        [logits] = session.run(None, {"images": images.numpy()})
        assert_same_logits(torch.from_numpy(logits), model, images)


def test_an_onnx_file_holds_what_its_users_must_know(
    digits: tuple[ViT, PlainImageData, Path],
) -> None:
    _, data, path = digits
    facts = onnx_session(path).get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(data.class_names)
    assert json.loads(facts["input_size"]) == [1, 8, 12]
    assert json.loads(facts["std"]) == list(data.std)
    np.testing.assert_allclose(json.loads(facts["mean"]), data.mean)
    assert "(value / 255 - mean) / std" in facts["pixels"]


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_its_packages_names_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"vitlit\[onnx\]"):
        exported(small_vit(), tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", NOT_FOR_TRANSFORMERS)
def test_what_transformers_cannot_compute_is_refused(kind: str, tmp_path: Path) -> None:
    changes, reason = NOT_FOR_TRANSFORMERS[kind]
    model = small_vit(**changes)
    names = NAMES if model.num_classes else []
    with pytest.raises(InputError, match=f"huggingface has no models with .*{reason}.*naming timm"):
        export_model(model, preprocess_of(model), names, tmp_path / "out", naming="huggingface")
    assert list(tmp_path.iterdir()) == []


def test_what_timm_cannot_compute_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"norm_eps 1e-12.*give naming huggingface"):
        exported(small_vit(norm_eps=1e-12), tmp_path / "out", naming="timm")


def test_what_neither_naming_can_compute_is_sent_to_ours_or_programs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give naming vitlit, or format onnx or pt2"):
        exported(small_vit(norm_eps=1e-12, qk_norm=True), tmp_path / "out", naming="huggingface")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onyx"}, "unknown format 'onyx'; known: safetensors, onnx, pt2"),
        ({"naming": "Timm"}, "unknown naming 'Timm'; known: timm, huggingface"),
        (
            {"format": "pt2", "naming": "timm"},
            "naming applies to format safetensors; leave it out with pt2",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        exported(small_vit(), tmp_path / "out", **options)


def test_class_names_must_be_as_many_as_the_outputs(tmp_path: Path) -> None:
    model = small_vit(num_classes=4)
    with pytest.raises(InputError, match="3 class names for 4 outputs"):
        exported(model, tmp_path / "out")


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="exists"):
        exported(small_vit(), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "head.bias of the model holds 3 numbers that are NaN"),
        (3.4e38, "not finite, so its weights are damaged"),
    ],
)
def test_weights_that_give_no_numbers_leave_nothing_behind(
    value: float, message: str, tmp_path: Path
) -> None:
    model = small_vit()
    nn.init.constant_(model.head.bias, value)
    if math.isfinite(value):
        nn.init.constant_(model.head.weight, value)
    with pytest.raises(InputError, match=message):
        exported(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(program: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("torch.export.save", save)
    with pytest.raises(InputError, match=r"cannot write .*out: No space left"):
        exported(small_vit(), tmp_path / "out", format="pt2")
    assert list(tmp_path.iterdir()) == []


def test_all_files_may_be_read_by_the_same_people(tmp_path: Path) -> None:
    files = exported(small_vit(), tmp_path / "out").files
    assert len({file.stat().st_mode for file in files}) == 1


def test_a_compiled_model_is_exported_without_compiling_it_again(tmp_path: Path) -> None:
    def compiler(*arguments: Any) -> Any:
        raise AssertionError("compiled")

    model = small_vit()
    model.compile(backend=compiler)
    assert exported(model, tmp_path / "out", format="pt2").difference <= 1e-5


def test_the_message_names_the_files_and_how_to_load_them(tmp_path: Path) -> None:
    result = exported(small_vit(), tmp_path / "new" / "out")
    assert [file.name for file in result.files] == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert f'timm.create_model("local-dir:{result.folder}", pretrained=True)' in result.message
    assert result.difference <= 1e-5


def test_the_message_tells_size_mean_and_std(tmp_path: Path) -> None:
    message = " ".join(exported(small_vit(), tmp_path / "out").message.split())
    assert "images (B, 3, 16, 16)" in message
    assert f"returns logits (B, {len(NAMES)})" in message
    assert "mean [0.4, 0.5, 0.6] and std [0.2, 0.3, 0.25]" in message


@pytest.mark.parametrize(
    ("changes", "naming", "reason"),
    [
        ({}, "timm", "the default"),
        ({"norm_eps": 1e-12}, "huggingface", "timm has no models with norm_eps 1e-12"),
        ({"attention": "lsa"}, "vitlit", "huggingface has no models with attention lsa"),
    ],
)
def test_the_naming_is_the_first_that_can_tell_the_model(
    changes: dict[str, Any], naming: str, reason: str, tmp_path: Path
) -> None:
    message = " ".join(exported(small_vit(**changes), tmp_path / "out").message.split())
    assert f"its weights have the names of {naming}" in message
    assert reason in message


def headless(model: ViT, out: Path, **options: Any) -> Exported:
    return export_model(model, preprocess_of(model), [], out, **options)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_timm_computes_the_same_features_without_a_head(pool: str, tmp_path: Path) -> None:
    model = small_vit(num_classes=0, global_pool=pool)
    folder = headless(model, tmp_path / "out").folder
    images = images_for(model)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert_same_logits(theirs(images), model, images)
    assert theirs.num_classes == 0


def test_transformers_computes_the_same_features_without_a_head(tmp_path: Path) -> None:
    model = small_vit(num_classes=0, norm_eps=1e-12)
    result = headless(model, tmp_path / "out")
    theirs, told = transformers.ViTModel.from_pretrained(
        result.folder, add_pooling_layer=False, output_loading_info=True
    )
    images = images_for(model)
    with torch.no_grad():
        assert_same_logits(theirs.eval()(images).last_hidden_state[:, 0], model, images)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert "ViTModel.from_pretrained" in result.message


@pytest.mark.parametrize("naming", ["timm", "huggingface", "vitlit"])
def test_we_load_what_we_export_without_a_head(naming: Any, tmp_path: Path) -> None:
    model = small_vit(num_classes=0)
    folder = headless(model, tmp_path / "out", naming=naming).folder
    loaded = load(folder)
    images = images_for(model)
    with torch.no_grad():
        assert_same_logits(loaded.model(images), model, images)
    assert loaded.class_names == []


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_programs_without_a_head_say_that_they_give_features(format: Any, tmp_path: Path) -> None:
    result = headless(small_vit(num_classes=0), tmp_path / "out", format=format)
    assert "returns features (B, 64)" in result.message
    assert result.difference <= 1e-4
    if format == "pt2":
        extra: dict[str, Any] = {FACTS_NAME: ""}
        torch.export.load(result.folder / "model.pt2", extra_files=extra)
        assert json.loads(extra[FACTS_NAME])["output"].startswith("features: float32 (B, 64)")
        assert f'torch.export.load("{result.folder / "model.pt2"}").module()' in result.message
