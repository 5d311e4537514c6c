"""Which model of transformers computes what a ViT computes.

arguments of a ViT -> vit | dinov2 | dinov3 | clip | siglip, and the settings that it does not have
"""

from typing import Any, Literal

from vitlit.patches import pair

Kind = Literal["vit", "dinov2", "dinov3", "clip", "siglip"]
CLASSES: dict[Kind, tuple[str, str]] = {  # of transformers: without a head, with one
    "vit": ("ViTModel", "ViTForImageClassification"),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification"),
    "dinov3": ("DINOv3ViTModel", ""),
    "clip": ("CLIPVisionModel", "CLIPForImageClassification"),
    "siglip": ("SiglipVisionModel", "SiglipForImageClassification"),
}


def kind_of(told: dict[str, Any]) -> Kind:
    """The kind that has what is special about a model; :func:`lacks` says whether it has all.

    told: all arguments of ViT's constructor, as in :func:`lacks`.
    """
    if told["pre_norm"]:
        return "clip"
    if told["rope"] != "none":
        return "dinov3"
    if told["global_pool"] == "map" or not told["class_token"]:
        return "siglip"
    if told["reg_tokens"] or told["init_values"] is not None:
        return "dinov2"
    return "dinov2" if told["mlp"] == "swiglu" or told["global_pool"] == "avg" else "vit"


def class_of(told: dict[str, Any]) -> str:
    """The name of the class in transformers that reads the weights."""
    kind = kind_of(told)
    name = CLASSES[kind][told["num_classes"] > 0]
    is_registers = kind == "dinov2" and told["reg_tokens"] > 0
    return name.replace("Dinov2", "Dinov2WithRegisters") if is_registers else name


def lacks(told: dict[str, Any]) -> dict[str, bool]:
    """Settings that the kind of a model may not have, and whether it lacks them."""
    mlp, rope, positions = told["mlp"], told["rope"], told["pos_embed"]
    refused = {
        "qk_norm": told["qk_norm"],
        f"sub_norm {told['sub_norm']}": told["sub_norm"] != "none",
    }
    match kind_of(told):
        case "dinov3":
            return refused | {
                f"rope {rope}": rope != "centred",
                f"rope with pos_embed {positions}": positions != "none",
                "rope_offset": told["rope_offset"] != 0,
                "rope and a head": told["num_classes"] > 0,
                **_other_pooling(told, "token"),
            }
        case "dinov2":
            pool = "avg" if told["global_pool"] == "avg" and told["num_classes"] else "token"
            return refused | {
                f"mlp_ratio {told['mlp_ratio']:.4g}": dinov2_ratio(told) is None,
                **_other_pooling(told, pool),
                **_not_square(told),
            }
        case "clip":
            is_pooled = not told["num_classes"]
            return refused | {
                f"rope {rope}": rope != "none",
                f"mlp {mlp}": mlp != "gelu",
                "init_values (LayerScale)": told["init_values"] is not None,
                f"reg_tokens {told['reg_tokens']}": told["reg_tokens"] > 0,
                **_other_pooling(told, "token" if is_pooled else "avg", final_norm=is_pooled),
                **_not_square(told),
            }
        case "siglip":
            is_map = told["global_pool"] == "map"
            return refused | {
                f"mlp {mlp}": mlp != "gelu",
                "init_values (LayerScale)": told["init_values"] is not None,
                f"reg_tokens {told['reg_tokens']}": told["reg_tokens"] > 0,
                "global_pool map with class_token": bool(told["class_token"]),
                "pool_heads": is_map and told["pool_heads"] != told["num_heads"],
                "pool_mlp_ratio": is_map and told["pool_mlp_ratio"] != told["mlp_ratio"],
                **_other_pooling(told, "avg" if told["num_classes"] else "map"),
                **_not_square(told),
            }
    return refused | {**_other_pooling(told, "token")}


def _other_pooling(told: dict[str, Any], pool: str, *, final_norm: bool = True) -> dict[str, bool]:
    """Whether a model pools otherwise than by ``pool``, after a last norm or after none."""
    found = told["global_pool"]
    head = " and a head" if told["num_classes"] else ""
    return {
        f"global_pool {found}{head}": found != pool,
        f"final_norm {str(told['final_norm']).lower()}{head}": told["final_norm"] != final_norm,
        # before or after taking one token is the same
        f"global_pool {found} with fc_norm": bool(told["fc_norm"]) and pool != "token",
    }


def _not_square(told: dict[str, Any]) -> dict[str, bool]:
    height, width = pair(told["img_size"])
    return {f"img_size {height}x{width}, which is not square": height != width}


def dinov2_ratio(told: dict[str, Any]) -> int | None:
    """The whole number from which Dinov2Config computes the width of the MLP; None without one."""
    width = told["embed_dim"]
    hidden = int(width * told["mlp_ratio"])
    for ratio in range(1, 4 * hidden // width + 2):
        found = width * ratio
        if told["mlp"] == "swiglu":  # two thirds, rounded up to a multiple of 8
            found = (int(found * 2 / 3) + 7) // 8 * 8
        if found == hidden:
            return ratio
    return None
