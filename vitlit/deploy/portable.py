"""A ViT prepared for other programs, which normalise pixels but never invert them.

ViT, Preprocess, class names -> Portable
arguments of a ViT -> timm | huggingface | vitlit: the naming whose library can hold it
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vitlit.deploy.transformers_kinds import lacks
from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.task import Task

Naming = Literal["timm", "huggingface", "vitlit"]
TimmKind = Literal["vit", "eva", "beit", "aimv2"]

# The architecture that config.json names if no published one fits; model_args overrule its sizes,
# but not the epsilon of its LayerNorm.
TIMM_MODELS_BY_EPS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
EVA_MODELS_BY_EPS = {1e-6: "eva02_base_patch14_224", 1e-5: "vit_small_patch16_dinov3"}
BEIT_MODEL, AIMV2_MODEL = "beit_base_patch16_224", "aimv2_large_patch14_224"


@dataclass(frozen=True)
class Portable:
    """A model that takes ordinary pixels, and what its users must know.

    model: on the CPU, float32, in evaluation mode; its input is ``(pixels / 255 - mean) / std``;
    arguments: of ViT's constructor; mean, std: per channel; framing: how a file is fitted to
    ``input_size``; task: what its outputs mean.
    """

    model: ViT
    arguments: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]
    framing: Framing
    task: Task = DEFAULT

    @property
    def output(self) -> str:
        """The name of its outputs: logits, or features ``(B, D)`` if it has no head."""
        return "logits" if self.model.num_classes else "features"

    @property
    def input_size(self) -> list[int]:
        """Channels, height and width in pixels."""
        return [self.model.in_chans, *self.model.img_size]


def make_portable(
    model: ViT, preprocess: Preprocess, class_names: Sequence[str], task: Task = DEFAULT
) -> Portable:
    """The same model, with shared weights, for pixels that are not inverted.

    With p' = 1 - p, (p' - m) / s = -(p - (1 - m)) / s: the sign goes into the patch embedding.
    Raises InputError if the number of class names is not that of the outputs.
    """
    if len(class_names) != model.num_classes:
        raise InputError(
            f"{len(class_names)} class names for {model.num_classes} outputs; give one for each"
        )
    arguments = model_arguments(model)
    state, mean = model.state_dict(), preprocess.mean
    if preprocess.invert:
        mean = tuple(1 - value for value in mean)
        # the parameter whose sign is the sign of the input; a new tensor, the model keeps its own
        odd = f"patch_embed.{model.patch_embed.odd}"
        state[odd] = -state[odd]
    with torch.device("meta"):  # assigned weights are shared, so none are drawn or allocated here
        copy = ViT(**arguments)
    copy.load_state_dict(state, assign=True)
    framing = preprocess.framing
    if preprocess.source_size != preprocess.img_size:  # resized once more, by bilinear resampling
        framing = replace(framing, interpolation="bilinear")
    return Portable(copy.eval(), arguments, mean, preprocess.std, list(class_names), framing, task)


def model_arguments(model: ViT) -> dict[str, Any]:
    """The arguments that rebuild this model for inference, without the rates of dropout."""
    return {name: value for name, value in model.config.items() if not name.endswith("_rate")}


def move_patch_bias(state: dict[str, Tensor], prefix: int) -> None:
    """Add the bias of the patches to their positions, in place, after ``prefix`` tokens.

    Other libraries have no such bias before a norm, as in CLIP.
    """
    bias, table = state.pop("patch_embed.proj.bias"), state["pos_embed"].clone()
    table[:, prefix:] += bias
    state["pos_embed"] = table


def choose_naming(asked: Naming | None, arguments: dict[str, Any]) -> tuple[Naming, str]:
    """The naming, and in words why; by default the first that can hold the model.

    arguments: all of ViT's constructor. Raises InputError if the naming asked for cannot hold it.
    """
    if asked is not None:
        _check_naming(asked, arguments)
        return asked, f"its weights have the names of {asked}, as asked for"
    reasons = []
    for naming in get_args(Naming):  # vitlit comes last and holds every model: the loop ends there
        if not (refused := _inexpressible(naming, arguments)):
            break
        reasons.append(f"{naming} has no models with {' and '.join(refused)}")
    why = ", since " + ", and ".join(reasons) if reasons else ", the default"
    return naming, f"its weights have the names of {naming}{why}"


def _check_naming(naming: Naming, arguments: dict[str, Any]) -> None:
    """Refuse a model that the naming's code cannot compute."""
    refused = _inexpressible(naming, arguments)
    if not refused:
        return
    other: Naming = "huggingface" if naming == "timm" else "timm"
    way = "" if _inexpressible(other, arguments) else f"naming {other}, "
    raise InputError(
        f"{naming} has no models with {' and '.join(refused)}; give {way}naming vitlit, or "
        f"format onnx or pt2, which hold any model",
        argument=("naming", "format"),
    )


def _inexpressible(naming: Naming, told: dict[str, Any]) -> list[str]:
    """The settings of a model that the naming's library does not have."""
    if naming == "vitlit":
        return []
    if naming == "huggingface":
        return _named(_beyond_both(told) | lacks(told))
    match timm_kind(told):
        case "beit":
            return _named(_beyond_both(told | {"attention": "softmax"}) | _beyond_beit(told))
        case "aimv2":
            usual = {"norm": "layer", "embed_norm": False}
            return _named(_beyond_both(told | usual) | _beyond_aimv2(told))
    # what only Eva has is no reason against timm
    kinds = [_beyond_eva] if any(_beyond_plain(told).values()) else [_beyond_vit, _beyond_eva]
    return min((_named(_beyond_both(told) | beyond(told)) for beyond in kinds), key=len)


def timm_kind(told: dict[str, Any]) -> TimmKind:
    """The model of timm that holds the ViT, if any does; aimv2 is a VisionTransformer too."""
    if told["attention"] == "relative":
        return "beit"
    if told["norm"] == "rms" or told["embed_norm"]:
        return "aimv2"
    is_eva = any(_beyond_vit(told).values()) and not any(_beyond_eva(told).values())
    return "eva" if is_eva else "vit"


def _named(refused: dict[str, bool]) -> list[str]:
    return [setting for setting, is_refused in refused.items() if is_refused]


def _beyond_both(told: dict[str, Any]) -> dict[str, bool]:
    """Settings that neither timm nor transformers has in the models that are written."""
    return {
        f"patch_embed {told['patch_embed']}": told["patch_embed"] not in ("linear", "conv"),
        f"attention {told['attention']}": told["attention"] != "softmax",
        "global_pool seq": told["global_pool"] == "seq",
        f"norm {told['norm']}": told["norm"] != "layer",
        "embed_norm": told["embed_norm"],
        # the bias of the patches, which no library has before a norm, moves into the positions
        "pre_norm without added positions": told["pre_norm"] and told["pos_embed"] == "none",
    }


def _beyond_plain(told: dict[str, Any]) -> dict[str, bool]:
    return {
        f"rope {told['rope']}": told["rope"] != "none",
        f"mlp {told['mlp']}": told["mlp"] != "gelu",
    }


def _beyond_vit(told: dict[str, Any]) -> dict[str, bool]:
    """Of timm's VisionTransformer."""
    eps, heads, ratio = (told[name] for name in ("norm_eps", "pool_heads", "pool_mlp_ratio"))
    return _beyond_plain(told) | {
        f"norm_eps {eps}": eps not in TIMM_MODELS_BY_EPS,
        "pool_include_prefix": told["pool_include_prefix"],
        f"pool_heads {heads}": heads not in (None, told["num_heads"]),
        f"pool_mlp_ratio {ratio}": ratio not in (None, told["mlp_ratio"]),
    }


def _beyond_eva(told: dict[str, Any]) -> dict[str, bool]:
    """Of timm's Eva, whose activation is no argument, and whose attention pools all tokens."""
    is_map, is_gated = told["global_pool"] == "map", told["mlp"] == "swiglu"
    has_prefix = told["class_token"] or told["reg_tokens"] > 0
    return {
        f"norm_eps {told['norm_eps']}": told["norm_eps"] not in EVA_MODELS_BY_EPS,
        f"act {told['act']}": told["act"] != "gelu" and (is_map or not is_gated),
        "global_pool map without pool_include_prefix": is_map
        and bool(has_prefix)
        and not told["pool_include_prefix"],
    }


def _beyond_beit(told: dict[str, Any]) -> dict[str, bool]:
    """Of timm's Beit, whose norm and activation are no arguments."""
    return _beyond_plain(told) | {
        f"norm_eps {told['norm_eps']}": told["norm_eps"] != 1e-6,
        f"act {told['act']}": told["act"] != "gelu",
        f"global_pool {told['global_pool']}": told["global_pool"] not in ("token", "avg"),
        "attention relative without class_token": not told["class_token"],
        "reg_tokens": told["reg_tokens"] > 0,
        "pre_norm": told["pre_norm"],
        "qk_norm": told["qk_norm"],
        f"sub_norm {told['sub_norm']}": told["sub_norm"] != "none",
        "final_norm false": not told["final_norm"],
    }


def _beyond_aimv2(told: dict[str, Any]) -> dict[str, bool]:
    """Of timm's VisionTransformer with the norms and the MLP of AIMv2, which are no arguments."""
    return {
        f"rope {told['rope']}": told["rope"] != "none",
        f"norm {told['norm']} with embed_norm": told["norm"] != "rms",
        "norm rms without embed_norm": not told["embed_norm"],
        f"norm {told['norm']} with norm_eps {told['norm_eps']}": told["norm_eps"] != 1e-5,
        f"norm {told['norm']} with mlp {told['mlp']}": told["mlp"] != "swiglu",
        "global_pool map": told["global_pool"] == "map",
        "pre_norm": told["pre_norm"],
        "qk_norm": told["qk_norm"],
        f"sub_norm {told['sub_norm']}": told["sub_norm"] != "none",
    }
