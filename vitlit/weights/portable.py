"""A ViT for other programs: its weights and settings as timm and transformers name them.

ViT, Preprocess -> Portable -> {name: tensor}, config.json, preprocessor_config.json
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.weights.file_reader import CONFIG_NAME, PROCESSOR_NAME
from vitlit.weights.model_config import METADATA_KEY

GENERIC_TIMM_MODEL = (
    "vit_base_patch16_224"  # timm's name where no published one fits; model_args overrule it
)
TIMM_SIZES = {  # embed_dim, depth, num_heads -> timm's name, and the patch and image sizes it has
    (192, 12, 3): ("tiny", {(16, 224), (16, 384)}),
    (384, 12, 6): ("small", {(32, 224), (32, 384), (16, 224), (16, 384), (8, 224)}),
    (768, 12, 12): ("base", {(32, 224), (32, 384), (16, 224), (16, 384), (8, 224)}),
    (1024, 24, 16): ("large", {(32, 224), (32, 384), (16, 224), (16, 384), (14, 224)}),
    (1280, 32, 16): ("huge", {(14, 224)}),
}
HUGGING_FACE_NAMES = (  # timm's names -> transformers 4's, which 5 reads too
    (r"^(cls_token)$", r"vit.embeddings.\1"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.", r"vit.encoder.layer.\1."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^(fc_)?norm\.", "vit.layernorm."),  # of one token: the same before and after the pooling
    (r"^head\.", "classifier."),
)


@dataclass(frozen=True)
class Portable:
    """A model that takes ordinary pixels, and what its users must know.

    model: on the CPU, float32, in evaluation mode; its input is ``(pixels / 255 - mean) / std``;
    arguments: of ViT's constructor; mean, std: per channel; interpolation: from a file's size.
    """

    model: ViT
    arguments: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]
    interpolation: str

    @property
    def output(self) -> str:
        """What it gives; without a head the pooled tokens ``(B, D)``."""
        return "logits" if self.model.num_classes else "features"

    @property
    def input_size(self) -> list[int]:
        """Channels, height and width in pixels."""
        return [self.model.in_chans, *self.model.img_size]


def make_portable(model: ViT, preprocess: Preprocess, class_names: Sequence[str]) -> Portable:
    """The model, sharing its weights, as one that needs no inversion of pixels.

    With p' = 1 - p, (p' - m) / s = -(p - (1 - m)) / s: the sign goes into the patch embedding.
    """
    if len(class_names) != model.num_classes:
        raise InputError(
            f"{len(class_names)} class names for {model.num_classes} outputs; give one for each"
        )
    arguments = model_arguments(model)
    state, mean = model.state_dict(), preprocess.mean
    if preprocess.invert:
        mean = tuple(1 - value for value in mean)
        odd = f"patch_embed.{model.patch_embed.odd}"
        state[odd] = -state[odd]
    with torch.device("meta"):
        copy = ViT(**arguments)
    copy.load_state_dict(state, assign=True)
    # pixels are read at source_size, bicubic; only from there to img_size bilinear
    is_direct = preprocess.source_size == preprocess.img_size
    interpolation = "bicubic" if is_direct else "bilinear"
    return Portable(copy.eval(), arguments, mean, preprocess.std, list(class_names), interpolation)


def model_arguments(model: ViT) -> dict[str, Any]:
    """The arguments that make this model again, without the rates of dropout."""
    return {name: value for name, value in model.config.items() if not name.endswith("_rate")}


def timm_tensors(portable: Portable) -> dict[str, Tensor]:
    """Weights under timm's names, which are ours."""
    return dict(portable.model.state_dict())


def hugging_face_tensors(portable: Portable) -> dict[str, Tensor]:
    """Weights under the names of transformers' ViTForImageClassification, or of ViTModel."""
    state = timm_tensors(portable)
    if portable.model.pos_embed is None:  # transformers has no model without: zeros add nothing
        rows, cols = portable.model.grid_size
        state["pos_embed"] = torch.zeros(1, 1 + rows * cols, portable.arguments["embed_dim"])
    split = {}
    for name, value in state.items():
        if ".attn.qkv." not in name:
            split[name] = value
            continue
        for part, matrix in zip(("query", "key", "value"), value.chunk(3), strict=True):
            split[name.replace(".qkv.", f".{part}.")] = matrix.clone()  # no shared memory
    named = {_hugging_face_name(name): value for name, value in split.items()}
    if portable.class_names:
        return named
    return {name.removeprefix("vit."): value for name, value in named.items()}


def _hugging_face_name(name: str) -> str:
    for pattern, replacement in HUGGING_FACE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def timm_files(portable: Portable) -> dict[str, Any]:
    """config.json as timm's hub has it; ``model_args`` make the model whatever its name."""
    told = portable.arguments
    size, published = TIMM_SIZES.get(
        (told["embed_dim"], told["depth"], told["num_heads"]), ("", set())
    )
    height, across = portable.model.img_size
    is_published = height == across and (told["patch_size"], height) in published
    name = f"vit_{size}_patch{told['patch_size']}_{height}" if is_published else GENERIC_TIMM_MODEL
    own = {"patch_embed", "attention", "gpsa_blocks", "locality_strength"}
    own |= {"norm_eps", "act", "init_values"}
    model_args = {key: value for key, value in told.items() if key not in own}
    model_args["act_layer"] = told["act"]
    model_args["pos_embed"] = "none" if told["pos_embed"] == "none" else "learn"
    if told["init_values"] is not None:
        model_args["init_values"] = told["init_values"]
    settings = {
        "input_size": portable.input_size,
        "fixed_input_size": True,
        "mean": portable.mean,
        "std": portable.std,
        "interpolation": portable.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": told["num_classes"],
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    config = {
        "architecture": name,
        "num_classes": told["num_classes"],
        "num_features": told["embed_dim"],
        "global_pool": told["global_pool"],
        "model_args": model_args,
        "pretrained_cfg": settings,
    }
    if portable.class_names:
        config["label_names"] = portable.class_names
    return {CONFIG_NAME: config}


def hugging_face_files(portable: Portable) -> dict[str, Any]:
    """config.json of transformers' ViTConfig, and preprocessor_config.json."""
    told, names = portable.arguments, portable.class_names
    config = {
        "architectures": ["ViTForImageClassification" if names else "ViTModel"],
        "model_type": "vit",
        "hidden_size": told["embed_dim"],
        "num_hidden_layers": told["depth"],
        "num_attention_heads": told["num_heads"],
        "intermediate_size": int(told["embed_dim"] * told["mlp_ratio"]),
        "hidden_act": "gelu" if told["act"] == "gelu" else "gelu_pytorch_tanh",
        "layer_norm_eps": told["norm_eps"],
        "image_size": told["img_size"],
        "patch_size": told["patch_size"],
        "num_channels": told["in_chans"],
        "qkv_bias": told["qkv_bias"],
        "encoder_stride": told["patch_size"],
    }
    if names:
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
    return {CONFIG_NAME: config, PROCESSOR_NAME: _processor(portable)}


def _processor(portable: Portable) -> dict[str, Any]:
    """Settings of an image processor of transformers.

    CLIP's, for it cuts the centre out as we do; ViT's stretches the image. Neither covers a
    rectangle, which is left to stretching.
    """
    channels, height, width = portable.input_size
    shape = {"height": height, "width": width}
    crop = {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": shape}
    is_square = height == width
    return {
        "image_processor_type": "CLIPImageProcessor" if is_square else "ViTImageProcessor",
        "do_resize": True,
        **(crop if is_square else {"size": shape}),
        "resample": {"bilinear": 2, "bicubic": 3}[portable.interpolation],  # Pillow's numbers
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": portable.mean,
        "image_std": portable.std,
        "do_convert_rgb": channels == 3,
    }


def own_metadata(portable: Portable) -> dict[str, str]:
    """Of a safetensors file under timm's names: what :func:`pretrained.load_weights` reads."""
    told = {
        "arguments": portable.arguments,
        "mean": portable.mean,
        "std": portable.std,
        "class_names": portable.class_names,
    }
    return {METADATA_KEY: json.dumps(told)}
