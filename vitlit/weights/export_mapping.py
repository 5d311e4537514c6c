"""Whose names exported weights get: those of a library whose code computes the same.

arguments of a ViT -> timm | huggingface | vitlit
"""

from typing import Any, Literal, get_args

from vitlit.errors import InputError

Naming = Literal["timm", "huggingface", "vitlit"]

TIMM_EPS = 1e-6  # of timm's LayerNorm, which no config.json changes


def choose_naming(asked: Naming | None, arguments: dict[str, Any]) -> tuple[Naming, str]:
    """The naming, and why it is that one, in words; the first that can tell the model by default.

    arguments: of ViT's constructor, all of them.
    """
    if asked is not None:
        _check_naming(asked, arguments)
        return asked, f"its weights are named as {asked} names them, as asked for"
    reasons = []
    for naming in get_args(Naming):
        if not (refused := _inexpressible(naming, arguments)):
            break
        reasons.append(f"{naming} has no models with {' and '.join(refused)}")
    why = ", since " + ", and ".join(reasons) if reasons else ", the usual choice"
    return naming, f"its weights are named as {naming} names them{why}"


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
    """The settings of a model that the naming cannot tell."""
    if naming == "vitlit":
        return []
    refused = {
        f"patch_embed {told['patch_embed']}": told["patch_embed"] not in ("linear", "conv"),
        f"attention {told['attention']}": told["attention"] != "softmax",
        "pos_embed rope": told["pos_embed"] == "rope",
        "global_pool seq": told["global_pool"] == "seq",
    }
    if naming == "timm":
        refused[f"norm_eps {told['norm_eps']}"] = told["norm_eps"] != TIMM_EPS
        return [setting for setting, is_refused in refused.items() if is_refused]
    refused |= {
        "global_pool avg": told["global_pool"] == "avg",
        f"reg_tokens {told['reg_tokens']}": told["reg_tokens"] > 0,
        "init_values (LayerScale)": told["init_values"] is not None,
    }
    return [setting for setting, is_refused in refused.items() if is_refused]
