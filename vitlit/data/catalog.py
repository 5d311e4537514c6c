"""The catalogue of data sets: image size, channels, statistics and class names.

The order of the names is the order of the published labels: to sort them would rename classes.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from vitlit.data.published.hub_name import is_hub
from vitlit.errors import InputError, did_you_mean
from vitlit.images.framing import PLAIN_FRAMING, Framing, padded_with_mean
from vitlit.images.preprocess import Preprocess
from vitlit.patches import pair

DatasetName = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "eurosat",
    "flowers102", "oxford_pets", "imagenet", "folder", "shards",
]  # fmt: skip
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
STL10_NAMES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip
EUROSAT_NAMES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
    "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
PET_NAMES = (
    "Abyssinian", "American Bulldog", "American Pit Bull Terrier", "Basset Hound", "Beagle",
    "Bengal", "Birman", "Bombay", "Boxer", "British Shorthair", "Chihuahua", "Egyptian Mau",
    "English Cocker Spaniel", "English Setter", "German Shorthaired", "Great Pyrenees", "Havanese",
    "Japanese Chin", "Keeshond", "Leonberger", "Maine Coon", "Miniature Pinscher", "Newfoundland",
    "Persian", "Pomeranian", "Pug", "Ragdoll", "Russian Blue", "Saint Bernard", "Samoyed",
    "Scottish Terrier", "Shiba Inu", "Siamese", "Sphynx", "Staffordshire Bull Terrier",
    "Wheaten Terrier", "Yorkshire Terrier",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One row of the catalogue: side in pixels, channels, mean and std of pixels in [0, 1].

    torchvision: name of the class in torchvision.datasets that downloads and reads it, if any;
    parts: those that were published, ``all`` if it was published undivided.
    """

    size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()  # empty: read from the folders on disk
    torchvision: str | None = None
    parts: tuple[str, ...] = ("train", "test")


SOURCES: dict[str, Source] = {
    "digits": Source(8, 1, (0.3053,), (0.3761,), DIGIT_NAMES, parts=("all",)),
    "mnist": Source(28, 1, (0.1307,), (0.3081,), DIGIT_NAMES, "MNIST"),
    "fashion_mnist": Source(28, 1, (0.2860,), (0.3530,), FASHION_NAMES, "FashionMNIST"),
    "cifar10": Source(
        32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CIFAR10_NAMES, "CIFAR10"
    ),
    "cifar100": Source(
        32, 3, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), CIFAR100_NAMES, "CIFAR100"
    ),
    # as published code has them; those of STL-10 differ there, so ImageNet's stand for it
    "svhn": Source(32, 3, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), DIGIT_NAMES, "SVHN"),
    "stl10": Source(96, 3, IMAGENET_MEAN, IMAGENET_STD, STL10_NAMES, "STL10"),
    "eurosat": Source(64, 3, IMAGENET_MEAN, IMAGENET_STD, EUROSAT_NAMES, "EuroSAT", ("all",)),
    "flowers102": Source(
        224, 3, IMAGENET_MEAN, IMAGENET_STD, (), "Flowers102", ("train", "val", "test")
    ),
    "oxford_pets": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD, PET_NAMES, "OxfordIIITPet"),
    "imagenet": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
    "folder": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
    "shards": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
}

# made of image files, which are fitted to the model's input; those of the hub are too
FILE_SETS = ("folder", "shards", "imagenet", "eurosat", "flowers102", "oxford_pets")


def source_of(dataset: str) -> Source:
    """The row of a data set; one of the hub is read as a folder is."""
    return SOURCES["folder" if is_hub(dataset) else dataset]


def is_file_set(dataset: str) -> bool:
    """Whether a data set is made of image files."""
    return is_hub(dataset) or dataset in FILE_SETS


def may_change(dataset: str) -> bool:
    """Whether images may come and go: someone's own, and sets of the hub, which have revisions."""
    return dataset in ("folder", "shards") or is_hub(dataset)


def check_class_count(
    dataset: str, names: list[str], place: object, *, is_file: bool = False, least: int = 2
) -> None:
    """Raise InputError unless the class names are different, and as many as the set has.

    place: the folder or file that they come from; is_file: it is a file of labels; least: classes
    that a set of someone's own must have.
    """
    if may_change(dataset) and len(names) < least:
        way = "name other classes too" if is_file else "give each class a folder of its own"
        raise InputError(
            f"{place} has one class, {names[0]}, and a classifier needs two or more; {way}",
            argument="labels" if is_file else "data_dir",
        )
    expected = len(source_of(dataset).class_names) or max(least, len(names))
    if len(set(names)) != len(names) or len(names) != expected:
        raise InputError(
            f"{len(names)} class_names {names[:5]} are not {expected} different names, "
            f"which {dataset} needs; check {place} or class_names",
            argument="class_names",
        )


def check_dataset(dataset: str, labels: str | None, *columns: str | None) -> None:
    """Raise InputError for an unknown data set, and for labels beside a set that has its own.

    columns: image_column and label_column, which only sets of the hub have.
    """
    known = get_args(DatasetName)
    if dataset not in known and not is_hub(dataset):
        raise InputError(
            f"unknown dataset {dataset!r}{did_you_mean(str(dataset), list(known))}; known: "
            f"{', '.join(known)}, or hub:OWNER/NAME",
            argument="dataset",
        )
    if any(columns) and not is_hub(dataset):
        raise InputError(
            f"image_column and label_column are for data sets of the hub, and {dataset} is none; "
            f"leave them out",
            argument=("image_column", "label_column"),
        )
    if labels is not None and dataset != "folder":
        message = f"labels {labels} needs dataset folder; {dataset} has its own"
        raise InputError(message, argument="dataset")


def make_preprocess(
    dataset: str,
    img_size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    plain: bool,
    invert: bool,
    framing: Framing = PLAIN_FRAMING,
) -> Preprocess:
    """What is done to the images of a data set before the model.

    img_size: (height, width) of the model; mean, std: per channel, of pixels that are not inverted;
    plain: pixels stay in [0, 1]; framing: how image files are fitted. Raises InputError for another
    than the usual framing of a set that is not made of image files.
    """
    framing.check()
    channels, is_files = len(mean), is_file_set(dataset)
    if not is_files and framing != PLAIN_FRAMING:
        raise InputError(
            f"fit {framing.fit}, crop_fraction {framing.crop_fraction:g} and interpolation "
            f"{framing.interpolation} apply to image files, and {dataset} has none; leave "
            f"them out, or give fit cover, crop_fraction 1 and interpolation bicubic",
            argument="fit",
        )
    if plain:  # the pixels that become 0: white, if images are inverted
        mean, std = (float(invert),) * channels, (1.0,) * channels
    return Preprocess(
        in_chans=channels,
        source_size=img_size if is_files else pair(SOURCES[dataset].size),
        img_size=img_size,
        mean=tuple(1 - value for value in mean) if invert else mean,
        std=std,
        invert=invert,
        framing=padded_with_mean(framing, mean),
    )
