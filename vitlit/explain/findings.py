"""What is explained and what is found in an image, by attention, relevance and the kind of answer.

image uint8 (C, h, w) -> Findings: attention (L, h, N, N), maps (rows, cols), probabilities (K,)
Findings of n images  -> a figure of the maps of several classes, maps (n, K, rows, cols)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.errors import InputError
from vitlit.explain.analysis import mean_attention_distance
from vitlit.explain.attribution import (
    Fusion,
    attention_maps,
    cls_map,
    patch_map,
    pooled_shares,
    relevance,
    rollout,
)
from vitlit.explain.overview import attention_overview
from vitlit.explain.page import without_own
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.task import Task

Answer = Callable[[Tensor], Tensor]  # normalised images (B, C, H, W) -> logits (B, K)
MAX_PAIRS = 64  # of an image and a class on classes.png, which could have a thousand of them
MAX_IMAGES = 64  # of each, all attention maps are in memory until the page is written


@dataclass(frozen=True)
class Subjects:
    """The images to explain: names, uint8 pixels ``(n, C, h, w)``, labels or -1 ``(n,)``.

    labels: of several classes for each image, targets of 0 and 1 ``(n, K)``; of a number for each,
    ``(n, 1)``.
    """

    names: list[str]
    pixels: Tensor
    labels: Tensor

    def single_labels(self) -> list[int]:
        """The label of each image, -1 where it is not known or not one class."""
        return self.labels.tolist() if self.labels.ndim == 1 else [-1] * len(self.labels)

    def label_text(self, number: int, class_names: Sequence[str]) -> str | None:
        """The true classes of an image in words; None if they are not known."""
        label = self.labels[number]
        if label.ndim == 1:
            return MultiLabel.target_words(label, class_names)
        return None if label < 0 else class_names[int(label)]


class Findings(NamedTuple):
    """What was found in one image; maps on the patch grid are ``(rows, cols)``.

    Without a head there is no predicted class, and so no relevance and no probabilities. A model
    that gives a number has that in their place, and relevance for it.
    """

    shown: Tensor  # (C, H, W) in [0, 1], as the model sees it before normalisation
    attention: Tensor  # (L, h, N, N)
    flow: Tensor  # rollout, (N, N)
    relevant: Tensor | None  # relevance for the first of classes, (N, N)
    cls_map: Tensor
    rollout: Tensor
    relevance: Tensor | None
    probabilities: Tensor | None  # (K,)
    distance: Tensor  # (L, h) in pixels
    shares: Tensor | None  # of all tokens in the poolings seq and map, (N,)
    classes: Tensor | None  # the classes that are explained, the surest first, (m,)
    class_maps: Tensor | None  # relevance for each of these, (m, rows, cols)
    number: Tensor | None  # in its unit, (1,)


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

    answer: computes the logits that are shown; by default the model itself; task: what they mean.
    Raises InputError if the model gives NaN.
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
    answers = task.answers(logits)[0] if has_head else None
    maps_of_classes = [patch_map(without_own(one), **place)[0] for one in each]
    found = Findings(
        shown=plain(x)[0],
        attention=maps[:, 0],
        flow=flow[0],
        relevant=None if relevant is None else relevant[0],
        cls_map=cls_map(maps, **place)[0],
        rollout=patch_map(flow, **place)[0],
        relevance=maps_of_classes[0] if each else None,
        probabilities=None if task.gives == "number" else answers,
        distance=mean_attention_distance(maps, patch_size=model.config["patch_size"], **prefix),
        shares=None if shares is None else shares[0],
        classes=torch.tensor(classes) if each else None,
        class_maps=torch.stack(maps_of_classes) if each else None,
        number=answers if task.gives == "number" else None,
    )
    return Findings(*(None if part is None else part.cpu() for part in found))  # type: ignore[arg-type]


def number_words(
    subjects: Subjects, found: Sequence[Findings], class_names: Sequence[str]
) -> list[str]:
    """The answers of a model of numbers, in words: ``ink 23.4, true 22``; none for classes."""
    known = subjects.labels[:, 0].tolist() if subjects.labels.ndim == 2 else []
    words = [f"{class_names[0]} {float(one.number):.4g}" for one in found if one.number is not None]
    return [f"{text}, true {known[i]:.4g}" if known else text for i, text in enumerate(words)]


def named(subjects: Subjects, words: Sequence[str]) -> Subjects:
    """The images under names that end in their answers, without labels; as they are without."""
    if not words:
        return subjects
    # a slash in the name of a column is no folder
    texts = [text.replace("/", "∕") for text in words]
    files = [PurePath(name).name for name in subjects.names]
    names = [f"{file}: {text}" for file, text in zip(files, texts, strict=True)]
    return Subjects(names, subjects.pixels, torch.full((len(names),), -1))


def class_overview(subjects: Subjects, found: list[Findings], class_names: Sequence[str]) -> Any:
    """Each image once for each class that it was given, beside its map for that class.

    Of more than 64 such pairs it shows 64: the surest class of each image, then the next ones.
    """
    every = [(j, i) for i, one in enumerate(found) for j in range(len(_known(one.classes)))]
    pairs = sorted((i, j) for j, i in sorted(every)[:MAX_PAIRS])
    shown = torch.stack([found[i].shown for i, _ in pairs])
    maps = torch.stack([_known(found[i].class_maps)[j] for i, j in pairs])
    chances = torch.zeros(len(pairs), len(class_names))
    for row, (i, j) in enumerate(pairs):
        k = int(_known(found[i].classes)[j])
        chances[row, k] = _known(found[i].probabilities)[k]
    names = [subjects.names[i] for i, _ in pairs]
    about: Any = {"probabilities": chances, "class_names": class_names, "names": names}
    if len(pairs) < len(every):
        which = f"{len(pairs)} of {len(every):,} pairs of an image and a class"
        about["note"] = f"{which}, the surest classes of each image; arrays.npz has all maps"
    return attention_overview(shown, {"for this class": maps}, **about)


def maps_by_class(found: list[Findings], outputs: int) -> Tensor:
    """Relevance for each class ``(n, K, rows, cols)``; NaN for those not given to an image."""
    size = _known(found[0].class_maps).shape[1:]
    maps = torch.full((len(found), outputs, *size), float("nan"))
    for row, one in zip(maps, found, strict=True):
        row[_known(one.classes)] = _known(one.class_maps)
    return maps


def _known(part: Tensor | None) -> Tensor:
    assert part is not None  # there is a head
    return part
