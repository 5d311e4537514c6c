"""Writes what a model looks at to a folder: figures, arrays, and an interactive page.

images uint8 (n, C, h, w) -> overview.png heads.png distance.png positions.png filters.png
                             arrays.npz index.html
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vitlit.errors import InputError
from vitlit.explain import figures
from vitlit.explain.analysis import (
    analyse_weights,
    attention_fact,
    head_arrays,
    mean_attention_distance,
    positions_fact,
)
from vitlit.explain.attribution import (
    Fusion,
    attention_maps,
    cls_map,
    patch_map,
    pooled_shares,
    relevance,
    rollout,
)
from vitlit.explain.findings import Findings, Subjects, class_overview, maps_by_class
from vitlit.explain.overview import attention_overview
from vitlit.explain.page import Example, prefix_names, without_own, write_page
from vitlit.explain.page_figures import model_figures
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.task import Task

Answer = Callable[[Tensor], Tensor]  # normalised images (B, C, H, W) -> logits (B, K)
MAX_IMAGES = 64  # of each, all attention maps are in memory until the page is written


def check_count(count: int) -> None:
    """Refuse more images than fit in memory together, and fewer than one."""
    if not 1 <= count <= MAX_IMAGES:
        raise InputError(
            f"explain takes 1 to {MAX_IMAGES} images, not {count}; give a count in that range",
            argument="count",
        )


def explain_image(
    model: ViT,
    pixels: Tensor,
    preprocess: Preprocess,
    fusion: Fusion,
    answer: Answer | None = None,
    task: Task = DEFAULT,
) -> Findings:
    """Explain one image, uint8 ``(C, h, w)``, on the model's device; the findings are on the CPU.

    answer: computes the logits whose probabilities are shown; by default the model itself; task:
    what they mean. Raises InputError if the model gives NaN.
    """
    device = next(model.parameters()).device
    x = pixels[None].to(device)
    # the same cutting and resizing, but neither normalised nor inverted: as the file looks
    mean, std = (0.0,) * len(preprocess.mean), (1.0,) * len(preprocess.std)
    plain = replace(preprocess, mean=mean, std=std, invert=False)
    normalised = preprocess(x)
    maps, logits = attention_maps(model, normalised)
    if answer is not None:
        with torch.no_grad():
            logits = answer(normalised)
    if not logits.isfinite().all():
        raise InputError(
            "the outputs of the model are not finite, so there is nothing to explain; its weights "
            "are damaged"
        )
    prefix: Any = {"grid": model.grid_size, "prefix": model.num_prefix_tokens}
    shares = pooled_shares(model, normalised)
    place = {**prefix, "pool": model.global_pool, "shares": shares}
    flow = rollout(maps, fusion=fusion, prefix=model.num_prefix_tokens)
    has_head = model.num_classes > 0
    # for the class that is shown, even if the model in full precision prefers another one
    classes = task.shown_classes(logits[0]) if has_head else []
    each = [relevance(model, normalised, logits.new_tensor([k], dtype=torch.long)) for k in classes]
    relevant = each[0] if each else None
    maps_of_classes = [patch_map(without_own(one), **place)[0] for one in each]
    found = Findings(
        shown=plain(x)[0],
        attention=maps[:, 0],
        flow=flow[0],
        relevant=None if relevant is None else relevant[0],
        cls_map=cls_map(maps, **place)[0],
        rollout=patch_map(flow, **place)[0],
        relevance=maps_of_classes[0] if each else None,
        probabilities=task.answers(logits)[0] if has_head else None,
        distance=mean_attention_distance(maps, patch_size=model.config["patch_size"], **prefix),
        shares=None if shares is None else shares[0],
        classes=torch.tensor(classes) if each else None,
        class_maps=torch.stack(maps_of_classes) if each else None,
    )
    return Findings(*(None if part is None else part.cpu() for part in found))  # type: ignore[arg-type]


def explain_images(
    model: ViT,
    subjects: Subjects,
    preprocess: Preprocess,
    class_names: Sequence[str],
    out: Path,
    *,
    fusion: Fusion = "mean",
    answer: Answer | None = None,
    task: Task = DEFAULT,
) -> None:
    """Write the folder ``out``, which exists and is empty.

    class_names: of the labels and, if the model has a head, of its outputs. answer: computes the
    logits whose probabilities are shown, such as the model in another precision; task: their kind.
    """
    # one image at a time: the maps of a batch, and their gradients, need much memory
    options: Any = {"leave": False, "disable": None, "dynamic_ncols": True}  # None: none in a file
    with tqdm(subjects.pixels, desc="explaining", unit="img", **options) as bar:
        found = [explain_image(model, one, preprocess, fusion, answer, task) for one in bar]
    distance = torch.stack([one.distance for one in found]).mean(dim=0)
    similarity, filters = analyse_weights(model)
    for name, figure in draw_figures(
        model, subjects, found, class_names, distance, similarity, filters
    ):
        figure.savefig(out / name)
    has_several = task.name != DEFAULT.name and model.num_classes > 0
    if has_several:
        class_overview(subjects, found, class_names).savefig(out / "classes.png")
    of_model = {"distance": distance, "filters": filters, "similarity": similarity}
    arrays = of_model | head_arrays(model) | arrays_of(model, found)
    names = {"names": np.array(subjects.names)}
    if model.num_classes:
        names["class_names"] = np.array(class_names)
    if has_several:
        arrays["class_maps"] = maps_by_class(found, model.num_classes)
    known = {name: value.numpy() for name, value in arrays.items() if value is not None}
    np.savez_compressed(out / "arrays.npz", allow_pickle=False, **known, **names)
    write_page(
        out / "index.html",
        [_page_example(subjects, i, one, class_names) for i, one in enumerate(found)],
        title="What the model looks at",
        facts=model_facts(model, class_names),
        grid=model.grid_size,
        prefix=prefix_names(model),
        pool=model.global_pool,
        figures=model_figures(
            distance=distance,
            filters=filters,
            similarity=similarity,
            uniform=uniform_distance(model),
        ),
    )


def arrays_of(model: ViT, found: list[Findings]) -> dict[str, Tensor]:
    """The findings of all images, stacked ``(n, ...)``: maps on the patch grid, probabilities."""
    shares = _pooled_patches(model, found)
    pooled = {} if shares is None else {"shares": shares}
    return {
        "attention": rows_of_interest(model, found),
        "rollout": torch.stack([one.rollout for one in found]),
        "cls_map": torch.stack([one.cls_map for one in found]),
        **_stack_known("relevance", [one.relevance for one in found]),
        **_stack_known("probabilities", [one.probabilities for one in found]),
        **pooled,
    }


def _pooled_patches(model: ViT, found: list[Findings]) -> Tensor | None:
    """The weights of the patches in the pooling, ``(n, rows, cols)``; None if they are fixed."""
    prefix = model.num_prefix_tokens
    shares = [one.shares[prefix:] for one in found if one.shares is not None]
    return torch.unflatten(torch.stack(shares), 1, model.grid_size) if shares else None


def _stack_known(name: str, parts: list[Tensor | None]) -> dict[str, Tensor]:
    """The parts as one tensor under its name; an empty dict if there are none."""
    there = [part for part in parts if part is not None]
    return {name: torch.stack(there)} if there else {}


def _page_example(
    subjects: Subjects, number: int, found: Findings, class_names: Sequence[str]
) -> Example:
    pairs: list[tuple[int, float]] = []
    if found.probabilities is not None:
        top = found.probabilities.topk(min(5, len(class_names)))
        pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Example(
        name=subjects.names[number],
        image=(found.shown * 255).round().byte(),
        maps=found.attention,
        rollout=found.flow,
        probabilities=[(class_names[i], p) for i, p in pairs],
        label=subjects.label_text(number, class_names),
        relevance=found.relevant,
        shares=found.shares,
    )


def model_facts(model: ViT, class_names: Sequence[str]) -> dict[str, str]:
    """Facts about the model, by name, for the head of the page."""
    height, width = model.img_size
    told, count = model.config, sum(parameter.numel() for parameter in model.parameters())
    return {
        "Image": f"{height}x{width} pixels",
        "Patches": f"{model.grid_size[0]}x{model.grid_size[1]} "
        f"of {told['patch_size']} pixels, {told['patch_embed']}",
        "Positions": positions_fact(model),
        "Attention": attention_fact(model),
        "Pooling": model.global_pool,
        "Blocks": str(told["depth"]),
        "Width": str(model.embed_dim),
        "Parameters": f"{count:,}",
        "Classes": str(len(class_names)) if model.num_classes else "none, without a head",
    }


def rows_of_interest(model: ViT, found: list[Findings]) -> Tensor:
    """Attention of the pooled output to the patches: ``(n, L, h, rows, cols)``."""
    place: Any = {"grid": model.grid_size, "prefix": model.num_prefix_tokens}
    place["pool"] = model.global_pool
    rows = [patch_map(one.attention, **place, shares=one.shares) for one in found]
    return torch.stack(rows)


def draw_figures(
    model: ViT,
    subjects: Subjects,
    found: list[Findings],
    class_names: Sequence[str],
    distance: Tensor,
    similarity: Tensor | None,
    filters: Tensor,
) -> Iterator[tuple[str, Any]]:
    """Names of files, and figures; one after the other, so that each can be freed."""
    maps = {
        "last block": torch.stack([one.cls_map for one in found]),
        "rollout": torch.stack([one.rollout for one in found]),
        **_stack_known("for its class", [one.relevance for one in found]),
    }
    shares = _pooled_patches(model, found)
    if shares is not None:
        maps["pooling"] = shares
    shown = torch.stack([one.shown for one in found])
    answers = _stack_known("probabilities", [one.probabilities for one in found])
    yield (
        "overview.png",
        attention_overview(
            shown,
            maps,
            **answers,
            class_names=class_names,
            names=subjects.names,
            labels=subjects.single_labels(),
        ),
    )
    heads = rows_of_interest(model, found[:1])[0, -1]
    last = model.config["depth"] - 1
    name = subjects.names[0]
    yield "heads.png", figures.attention_heads(shown[0], heads, block=last, name=name)
    yield "distance.png", figures.attention_distance(distance, uniform=uniform_distance(model))
    if similarity is not None:
        yield "positions.png", figures.position_grid(similarity)
    yield "filters.png", figures.embedding_filters(filters)


def uniform_distance(model: ViT) -> float:
    """The mean attention distance of uniform attention, in pixels: a reference for the heads."""
    tokens = model.num_prefix_tokens + model.grid_size[0] * model.grid_size[1]
    maps = torch.full((1, 1, 1, tokens, tokens), 1 / tokens)
    return mean_attention_distance(
        maps,
        grid=model.grid_size,
        patch_size=model.config["patch_size"],
        prefix=model.num_prefix_tokens,
    ).item()
