"""Who is held out by the hash of a path, and a share of the training images of every class."""

import random
import unicodedata
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder

from vitlit.data.datamodule import PlainImageData
from vitlit.data.stratify import few_of_each, hashed_members, path_hashes, stratified_part
from vitlit.errors import InputError
from vitlit.seeding import Stream, address

ROOT = Path("/data/photos")
SPLITS = ("train", "val", "test")


def sides(names: list[str], root: Path = ROOT, **changes: float) -> dict[str, str]:
    """The split of each image, by its path below the folder."""
    hashes = path_hashes([str(root / name) for name in names], root)
    shares = {"val_fraction": 0.1, "test_fraction": 0.2, "seed": 0, **changes}
    found = {split: hashed_members(hashes, split, **shares).tolist() for split in SPLITS}  # type: ignore[arg-type]
    assert sorted(chain(*found.values())) == list(range(len(names)))
    return {names[i]: split for split, members in found.items() for i in members}


def images(count: int, classes: str = "abc") -> list[str]:
    return [f"{label}/{i:04}.jpg" for label in classes for i in range(count)]


def test_an_image_that_comes_or_goes_moves_no_other() -> None:
    everyone = images(50)
    before = sides(everyone)
    draw = random.Random(0)
    for _ in range(50):
        some = draw.sample(everyone, draw.randint(100, 149))
        draw.shuffle(some)
        assert sides(some).items() <= before.items()
    assert sides(everyone + images(5, "xyz")).items() >= before.items()


def test_an_image_is_held_out_if_its_own_draw_is_below_the_fraction() -> None:
    def slow_draw(name: str, stream: Stream) -> float:
        """SplitMix64 on Python's integers, of the hash of the path."""
        bits, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

        def finalise(value: int) -> int:
            value &= bits
            value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & bits
            value = (value ^ (value >> 27)) * 0x94D049BB133111EB & bits
            return value ^ (value >> 31)

        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
        return (finalise(finalise(digest + address(7, stream) + golden) + golden) >> 40) / 2**24

    for name, side in sides(images(200), seed=7).items():
        if slow_draw(name, Stream.TEST_SPLIT) < 0.2:
            assert side == "test"
        else:
            assert side == ("val" if slow_draw(name, Stream.VAL_SPLIT) < 0.1 else "train")


def test_each_class_gives_about_its_share() -> None:
    found = sides(images(2000))
    for label in "abc":
        own = [side for name, side in found.items() if name.startswith(label)]
        # four standard deviations of a binomial count
        assert own.count("test") == pytest.approx(400, abs=4 * (2000 * 0.2 * 0.8) ** 0.5)
        assert own.count("val") == pytest.approx(160, abs=4 * (2000 * 0.08 * 0.92) ** 0.5)


def test_the_folder_may_lie_anywhere() -> None:
    names = images(50)
    assert sides(names) == sides(names, Path("/")) == sides(names, Path("/mnt/b/photos"))


def test_letters_with_accents_may_be_stored_in_two_ways() -> None:
    names = [f"été/{i}.jpg" for i in range(100)]
    composed, apart = ([unicodedata.normalize(form, n) for n in names] for form in ("NFC", "NFD"))
    assert composed != apart
    assert list(sides(composed).values()) == list(sides(apart).values())


def test_the_split_seed_decides_who_is_held_out() -> None:
    assert sides(images(50)) != sides(images(50), seed=1)


def test_the_share_for_validation_moves_no_image_into_or_out_of_the_test_split() -> None:
    first, other = (sides(images(50), val_fraction=share) for share in (0.1, 0.5))
    assert [s == "test" for s in first.values()] == [s == "test" for s in other.values()]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_split_of_a_tiny_folder_is_empty(count: int) -> None:
    for seed in range(20):
        assert set(sides(images(count), seed=seed).values()) == set(SPLITS)


def test_a_folder_of_two_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"too few images .* give three or more"):
        sides(["a/1.jpg", "b/1.jpg"])


def test_names_that_are_not_utf8_have_a_side() -> None:
    assert len(sides([f"a/\udce9{i}.jpg" for i in range(5)])) == 5


LABELS = torch.tensor([0] * 40 + [1] * 20 + [2] * 3)[torch.randperm(63)]


@pytest.mark.parametrize(("fraction", "counts"), [(0.5, [20, 10, 2]), (0.01, [1, 1, 1])])
def test_each_class_gives_its_share_and_at_least_one(fraction: float, counts: list[int]) -> None:
    members = stratified_part(LABELS, fraction, seed=3)
    assert LABELS[members].bincount().tolist() == counts


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    parts = [set(stratified_part(LABELS, f, seed=3).tolist()) for f in (0.1, 0.3, 0.7, 1.0)]
    assert all(small < large for small, large in pairwise(parts))
    assert len(parts[-1]) == 63


def test_the_seed_alone_decides_which_images() -> None:
    first, again, other = (stratified_part(LABELS, 0.3, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def splits(**changes: float) -> dict[str, torch.Tensor]:
    data = PlainImageData(dataset="digits", patch_size=4, **changes)
    data.setup("fit")
    data.setup("test")
    return {name: split.members for name, split in data.splits.items()}


def test_validation_and_test_images_stay_the_same() -> None:
    whole, part = splits(), splits(train_fraction=0.1)
    assert torch.equal(part["val"], whole["val"])
    assert torch.equal(part["test"], whole["test"])
    assert len(part["train"]) == pytest.approx(0.1 * len(whole["train"]), abs=5)
    assert set(part["train"].tolist()) < set(whole["train"].tolist())


@pytest.mark.parametrize("value", [0.0, 1.5, -0.1])
def test_a_share_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=f"train_fraction {value} is not a share"):
        PlainImageData(dataset="digits", train_fraction=value)


def test_shots_are_so_many_images_of_each_class_and_fewer_are_part_of_more() -> None:
    data = {count: PlainImageData(dataset="digits", patch_size=4, shots=count) for count in (3, 7)}
    for one in data.values():
        one.setup("fit")
    few, more = (one.splits["train"] for one in data.values())
    assert few.labels.bincount().tolist() == [3] * 10
    assert more.labels.bincount().tolist() == [7] * 10
    assert set(few.members.tolist()) < set(more.members.tolist())
    whole = splits()
    assert set(more.members.tolist()) < set(whole["train"].tolist())
    assert torch.equal(data[3].splits["val"].members, whole["val"])


def test_the_seed_decides_which_images_are_the_shots() -> None:
    labels = torch.arange(60) % 3
    first, again, other = (few_of_each(labels, 5, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_classes_with_fewer_images_than_shots_are_named(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder("train+val", count=4)
    data = PlainImageData(dataset="folder", data_dir=str(root), img_size=16, shots=5)
    data.setup("fit")
    assert len(data.splits["train"]) == 8
    assert "shots 5 is more than there are training images of cat (4), dog (4)" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "shots 0 leaves no image"),
        ({"shots": 5, "train_fraction": 0.5}, "leave out one of them"),
    ],
)
def test_shots_that_say_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlainImageData(dataset="digits", **settings)
