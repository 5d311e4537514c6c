"""The catalogue of data sets: image size, channels, statistics and class names.

The order of the names is the order of the published labels: to sort them would rename classes.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torchvision import datasets as tv

from vitlit.errors import InputError

DatasetName = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet", "folder"
]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One row of the catalogue: side in pixels, channels, mean and std of pixels in [0, 1].

    torchvision: the class of torchvision.datasets that downloads and reads the set, if any.
    """

    size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()  # empty: read from the folders on disk
    torchvision: Any = None


SOURCES: dict[str, Source] = {
    "digits": Source(8, 1, (0.3053,), (0.3761,), DIGIT_NAMES),
    "mnist": Source(28, 1, (0.1307,), (0.3081,), DIGIT_NAMES, tv.MNIST),
    "fashion_mnist": Source(28, 1, (0.2860,), (0.3530,), FASHION_NAMES, tv.FashionMNIST),
    "cifar10": Source(
        32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CIFAR10_NAMES, tv.CIFAR10
    ),
    "cifar100": Source(
        32, 3, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), CIFAR100_NAMES, tv.CIFAR100
    ),
    "imagenet": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
    "folder": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
}


def check_class_count(dataset: str, names: list[str], place: object) -> None:
    """Raise InputError unless the class names are different, and as many as the set has.

    place: the folder or file that they come from.
    """
    expected = len(SOURCES[dataset].class_names) or max(2, len(names))
    if len(set(names)) != len(names) or len(names) != expected:
        raise InputError(
            f"{len(names)} class_names {names[:5]} are not {expected} different names, "
            f"which {dataset} needs; check {place} or class_names",
            argument="class_names",
        )


def check_dataset(dataset: str, labels: str | None) -> None:
    """Raise InputError for an unknown data set, and for labels beside a set that has its own."""
    known = get_args(DatasetName)
    if dataset not in known:
        raise InputError(f"unknown dataset {dataset!r}; known: {', '.join(known)}")
    if labels is not None and dataset != "folder":
        message = f"labels {labels} needs dataset folder; {dataset} has its own"
        raise InputError(message, argument="dataset")
