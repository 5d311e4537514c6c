"""What is explained and what is found: images, maps, and a figure of the maps of several classes.

images uint8 (n, C, h, w), labels -> Findings of each -> class overview, maps (n, K, rows, cols)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.explain.overview import attention_overview


@dataclass(frozen=True)
class Subjects:
    """The images to explain: names, uint8 pixels ``(n, C, h, w)``, labels or -1 ``(n,)``.

    labels: of several classes for each image, targets of 0 and 1 ``(n, K)``.
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
            given = label.nonzero()[:, 0].tolist()
            return "; ".join(class_names[i] for i in given) or "no class"
        return None if label < 0 else class_names[int(label)]


class Findings(NamedTuple):
    """What was found in one image; maps on the patch grid are ``(rows, cols)``.

    Without a head there is no predicted class, and so no relevance and no probabilities.
    """

    shown: Tensor  # (C, H, W) in [0, 1], as the model sees it before normalisation
    attention: Tensor  # (L, h, N, N)
    flow: Tensor  # rollout, (N, N)
    relevant: Tensor | None  # relevance for the predicted class, (N, N)
    cls_map: Tensor
    rollout: Tensor
    relevance: Tensor | None
    probabilities: Tensor | None  # (K,)
    distance: Tensor  # (L, h) in pixels
    shares: Tensor | None  # of all tokens in the poolings seq and map, (N,)
    classes: Tensor | None  # the classes that are explained, the surest first, (m,)
    class_maps: Tensor | None  # relevance for each of these, (m, rows, cols)


def class_overview(subjects: Subjects, found: list[Findings], class_names: Sequence[str]) -> Any:
    """Each image once for each class that it was given, beside its map for that class."""
    pairs = [(i, j) for i, one in enumerate(found) for j in range(len(_known(one.classes)))]
    shown = torch.stack([found[i].shown for i, _ in pairs])
    maps = torch.stack([_known(found[i].class_maps)[j] for i, j in pairs])
    chances = torch.zeros(len(pairs), len(class_names))
    for row, (i, j) in enumerate(pairs):
        k = int(_known(found[i].classes)[j])
        chances[row, k] = _known(found[i].probabilities)[k]
    names = [subjects.names[i] for i, _ in pairs]
    about: Any = {"probabilities": chances, "class_names": class_names, "names": names}
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
