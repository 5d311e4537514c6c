"""The same ViT in five libraries, with the same weights where they compute the same function.

shape, weights under timm's names -> a module that maps images (B, 3, H, W) to logits (B, K)
"""

import importlib.util
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vitlit.model.vit import ViT

Shape = dict[str, Any]  # the arguments that ViT and timm's VisionTransformer share
Weights = dict[str, Tensor]  # a state dict under timm's names
ARGUMENTS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")
SHAPES: dict[str, Shape] = {
    "32px/4 192x12 h12": dict(zip(ARGUMENTS, (32, 4, 192, 12, 12, 10), strict=True)),
    "32px/4 192x12 h3": dict(zip(ARGUMENTS, (32, 4, 192, 12, 3, 10), strict=True)),
    "ViT-S/16 224px": dict(zip(ARGUMENTS, (224, 16, 384, 12, 6, 1000), strict=True)),
}


def vitlit_vit(shape: Shape, weights: Weights) -> nn.Module:
    model = ViT(**shape, patch_embed="conv", global_pool="token", pos_embed="learn")
    model.load_state_dict(weights)
    return model


def timm_vit(shape: Shape, weights: Weights) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(**shape, class_token=True, global_pool="token", pos_embed="learn")
    model.load_state_dict(weights)
    return model


def renamed(weights: Weights, rules: list[tuple[str, str]]) -> Weights:
    """The same values under other names: the rules are regular expressions, applied in turn."""
    found: Weights = {}
    for name, value in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def torchvision_vit(shape: Shape, weights: Weights) -> nn.Module:
    from functools import partial

    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=shape["img_size"],
        patch_size=shape["patch_size"],
        num_layers=shape["depth"],
        num_heads=shape["num_heads"],
        hidden_dim=shape["embed_dim"],
        mlp_dim=4 * shape["embed_dim"],
        num_classes=shape["num_classes"],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    rules = [
        ("cls_token", "class_token"), ("^pos_embed", "encoder.pos_embedding"),
        (r"patch_embed\.proj", "conv_proj"), (r"^norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."), (r"blocks\.(\d+)", r"encoder.layers.encoder_layer_\1"),
        (r"norm(\d)\.", r"ln_\1."), (r"attn\.qkv\.", "self_attention.in_proj_"),
        (r"attn\.proj", "self_attention.out_proj"), ("fc1", "0"), ("fc2", "3"),
    ]  # fmt: skip
    model.load_state_dict(renamed(weights, rules))
    return model


class Logits(nn.Module):
    """A transformers model that returns the logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


def transformers_vit(shape: Shape, weights: Weights) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=shape["embed_dim"],
        num_hidden_layers=shape["depth"],
        num_attention_heads=shape["num_heads"],
        intermediate_size=4 * shape["embed_dim"],
        image_size=shape["img_size"],
        patch_size=shape["patch_size"],
        num_labels=shape["num_classes"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        attn_implementation="sdpa",
    )
    split: Weights = {}
    for name, value in weights.items():
        if "qkv" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                split[name.replace("qkv", f"{letter}_proj")] = part
        else:
            split[name] = value
    rules = [
        ("^cls_token", "vit.embeddings.cls_token"), (r"^head\.", "classifier."),
        ("^pos_embed", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
        (r"^norm\.", "vit.layernorm."), (r"^blocks", "vit.layers"), (r"attn\.proj", "attn.o_proj"),
        (r"attn\.", "attention."), (r"norm1\.", "layernorm_before."),
        (r"norm2\.", "layernorm_after."),
    ]  # fmt: skip
    model = ViTForImageClassification(config)
    model.load_state_dict(renamed(split, rules))
    return Logits(model)


def vit_pytorch_vit(shape: Shape, weights: Weights) -> nn.Module:
    """Another function of as much arithmetic: no bias in its qkv, norms around its embedding."""
    from vit_pytorch import ViT as Other

    return Other(
        image_size=shape["img_size"],
        patch_size=shape["patch_size"],
        num_classes=shape["num_classes"],
        dim=shape["embed_dim"],
        depth=shape["depth"],
        heads=shape["num_heads"],
        dim_head=shape["embed_dim"] // shape["num_heads"],
        mlp_dim=4 * shape["embed_dim"],
    )


Builder = Callable[[Shape, Weights], nn.Module]
BUILDERS: dict[str, Builder] = {
    "vitlit": vitlit_vit,
    "timm": timm_vit,
    "transformers": transformers_vit,
    "torchvision": torchvision_vit,
    "vit_pytorch": vit_pytorch_vit,
}
OTHER_FUNCTION = ("vit_pytorch",)


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def reference_weights(shape: Shape) -> Weights:
    """Initial values plus noise: no bias stays 0, so none can be missed or swapped."""
    draw = torch.Generator().manual_seed(0)
    state = ViT(**shape, patch_embed="conv").state_dict()
    return {k: v + 0.02 * torch.randn(v.shape, generator=draw) for k, v in state.items()}


def build_all(shape: Shape, device: str, names: Iterable[str] = BUILDERS) -> dict[str, nn.Module]:
    """Those libraries that are installed; those of the same function give the same logits."""
    weights = reference_weights(shape)
    found = {name: BUILDERS[name](shape, weights) for name in names if is_installed(name)}
    images = torch.randn(2, 3, shape["img_size"], shape["img_size"])  # on the CPU: never TF32
    with torch.no_grad():
        logits = {name: model.eval()(images) for name, model in found.items()}
    for name, own in logits.items():
        gap = (own - logits["vitlit"]).abs().max().item()
        if name not in OTHER_FUNCTION and not gap <= 2e-4:  # NaN fails too
            raise RuntimeError(f"logits of {name} are {gap:.1e} off vitlit's, over 2e-4")
    return {name: model.to(device).train() for name, model in found.items()}
