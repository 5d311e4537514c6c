"""Writes what a model looks at to a folder: figures, arrays, and an interactive page.

images uint8 (n, C, h, w) -> overview.png heads.png distance.png positions.png filters.png
                             arrays.npz index.html
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vitlit.explain import figures
from vitlit.explain.analysis import (
    analyse_weights,
    attention_fact,
    head_arrays,
    mean_attention_distance,
    positions_fact,
)
from vitlit.explain.attribution import Fusion, patch_map
from vitlit.explain.findings import (
    Answer,
    Findings,
    Subjects,
    class_overview,
    explain_image,
    maps_by_class,
    named,
    number_words,
)
from vitlit.explain.overview import attention_overview
from vitlit.explain.page import Example, prefix_names, write_page
from vitlit.explain.page_figures import model_figures
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.task import Task


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
    numbers = number_words(subjects, found, class_names)
    shown = named(subjects, numbers)
    distance = torch.stack([one.distance for one in found]).mean(dim=0)
    similarity, filters = analyse_weights(model)
    for name, figure in draw_figures(
        model, shown, found, class_names, distance, similarity, filters
    ):
        figure.savefig(out / name)
    has_several = task.gives == "classes" and model.num_classes > 0
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
        [
            _page_example(subjects, i, one, class_names, task, numbers[i] if numbers else None)
            for i, one in enumerate(found)
        ],
        title="What the model looks at",
        facts=model_facts(model, class_names, task),
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
        **_stack_known("numbers", [one.number for one in found]),
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
    subjects: Subjects,
    number: int,
    found: Findings,
    class_names: Sequence[str],
    task: Task,
    answer: str | None,
) -> Example:
    pairs: list[tuple[str, float]] = []
    given = None
    if found.probabilities is not None and found.classes is not None:
        # With a threshold for each class, one that is given can be less probable than one that is
        # not. The relevance is for the first that is given.
        top = found.probabilities.topk(min(5, len(class_names))).indices.tolist()
        listed = list(dict.fromkeys([*found.classes.tolist(), *top]))[: max(5, len(found.classes))]
        pairs = [(class_names[i], float(found.probabilities[i])) for i in listed]
        given = task.given(found.probabilities)
    return Example(
        name=subjects.names[number],
        image=(found.shown * 255).round().byte(),
        maps=found.attention,
        rollout=found.flow,
        probabilities=pairs,
        label=None if answer else subjects.label_text(number, class_names),
        given=None if given is None else task.target_words(given, class_names),
        relevance=found.relevant,
        shares=found.shares,
        answer=answer,
    )


def model_facts(model: ViT, class_names: Sequence[str], task: Task = DEFAULT) -> dict[str, str]:
    """Facts about the model, by name, for the head of the page."""
    answers = {"Classes": str(len(class_names)) if model.num_classes else "none, without a head"}
    if task.gives == "number":
        answers = {"Answer": f"a number, {class_names[0]}"}
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
        **answers,
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
    title = "for its class" if found[0].number is None else "for its answer"
    maps = {
        "last block": torch.stack([one.cls_map for one in found]),
        "rollout": torch.stack([one.rollout for one in found]),
        **_stack_known(title, [one.relevance for one in found]),
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
            probabilities=answers.get("probabilities"),
            class_names=class_names,
            names=subjects.names,
            labels=subjects.single_labels(),
            named=[int(one.classes[0]) for one in found if one.classes is not None],
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
