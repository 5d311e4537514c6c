"""What a training remembers of its images, and what may be scored and trained on afterwards."""

from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image

from vitlit.data.datamodule import PlainImageData
from vitlit.data.leakage import PastTraining
from vitlit.data.split_record import (
    FILES_OF_A_TASK,
    RECORD_KEY,
    file_hashes,
    is_same_data,
    may_be_trained_on,
    record_of,
    unique_rows,
    was_trained_on,
)
from vitlit.data.splits import Split
from vitlit.errors import InputError

Names = set[str]
EMPTY = torch.empty(0, 2, dtype=torch.long)


def photos(root: Path, **settings: Any) -> PlainImageData:
    return PlainImageData(
        dataset="folder", data_dir=str(root), img_size=8, patch_size=4, **settings
    )


def names_of(split: Split) -> Names:
    """The names below the data folder: class/file."""
    return {"/".join(Path(path).parts[-2:]) for path in split.files(torch.arange(len(split)))}


def fitted(root: Path, known: PlainImageData | None = None, **settings: object) -> PlainImageData:
    """The data of a training; known: of the one that it resumes."""
    data = photos(root, **settings)
    if known is not None:
        data.hold_to(PastTraining(known.hparams, known.state_dict()))
    data.setup("fit")
    data.setup("test")
    return data


def all_names(data: PlainImageData) -> dict[str, Names]:
    return {name: names_of(split) for name, split in data.splits.items()}


def add(root: Path, like: str, *names: str) -> None:
    """Images of their own: pixels of one file, and a few bytes more at its end."""
    for name in names:
        (root / name).write_bytes((root / like).read_bytes() + name.encode())


@pytest.mark.parametrize("rule", ["hash", "position"])
def test_only_what_was_held_out_is_scored_when_images_come_and_go(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture, rule: str
) -> None:
    root = photo_folder(count=50)
    then = fitted(root, split_by=rule)
    before = all_names(then)
    add(root, "cat/0.png", *(f"{label}/00{i}.png" for label in ("cat", "dog") for i in range(15)))
    gone = sorted(before["test"])[:2] + sorted(before["train"])[:3]
    for name in gone:
        (root / name).unlink()
    caplog.clear()
    after = all_names(fitted(root, then, split_by=rule))
    assert not after["train"] & (before["test"] | before["val"])
    assert "since the training: 30 images added, 5 gone, 0 with other files" in caplog.text
    count = len(before["test"])
    assert f"test has {count - 2} of the {count} images that the training held out" in caplog.text
    assert after["test"] == before["test"] - set(gone)
    assert after["val"] == before["val"]
    if rule == "hash":
        assert after["train"] >= before["train"] - set(gone)


def test_images_with_other_files_are_told(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    kept = sorted(all_names(then)["train"])
    assert "since the training" not in caplog.text
    fitted(root, then)
    assert "since the training" not in caplog.text
    for name in kept[:3]:
        add(root, name, name)  # the same pixels, but another file
    fitted(root, then)
    assert "since the training: 0 images added, 0 gone, 3 with other files" in caplog.text


def test_held_out_images_that_became_copies_are_told(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    names = all_names(then)
    used = sorted(names["train"])[0]
    held = [name for name in sorted(names["test"]) if name[:3] == used[:3]]
    (root / held[0]).write_bytes((root / used).read_bytes())
    after = all_names(fitted(root, then))
    assert after["test"] == names["test"] - {held[0]}
    assert "the others are gone, or have become copies of training images" in caplog.text


def test_an_unchanged_folder_is_opened_without_a_word(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    assert all_names(fitted(root, then)) == all_names(then)
    assert caplog.records == []


def test_a_training_image_that_took_the_name_of_a_held_out_one_is_not_scored(
    photo_folder: PhotoFolder,
) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    before = all_names(then)
    lost, new = sorted(before["test"])[0], sorted(before["train"])[0]
    (root / new).replace(root / lost)
    assert names_of(fitted(root, then).splits["test"]) == before["test"] - {lost}


def test_a_held_out_image_that_was_renamed_is_not_trained_on(photo_folder: PhotoFolder) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    renamed = {f"{Path(name).parent}/new-{i}.png" for i, name in enumerate(all_names(then)["test"])}
    for name, new in zip(all_names(then)["test"], renamed, strict=True):
        (root / name).replace(root / new)
    data = photos(root)
    data.hold_to(PastTraining(then.hparams, then.state_dict()))
    data.setup("fit")
    assert not names_of(data.splits["train"]) & renamed
    with pytest.raises(InputError, match=r"test has 0 of the \d+ images that the training held"):
        data.setup("test")


def test_a_moved_folder_is_known_by_its_files(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    before = all_names(then)
    moved = root.rename(tmp_path / "elsewhere")
    first = sorted(before["train"])[:5]
    for i, name in enumerate(first):
        (moved / name).replace(moved / Path(name).parent / f"r{i}.png")
    after = all_names(fitted(moved, then))
    assert (after["test"], after["val"]) == (before["test"], before["val"])


def test_another_folder_with_the_same_names_is_scored_whole(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root = photo_folder(count=50)
    then = fitted(root)
    other = root.rename(tmp_path / "others")
    for path in other.rglob("*.*"):
        path.write_bytes(path.read_bytes() + b"other")
    (other / "cat" / "more.png").write_bytes((other / "cat" / "0.png").read_bytes() + b"more")
    assert all_names(fitted(other, then)) == all_names(fitted(other))


def test_what_was_ever_trained_on_is_never_scored(photo_folder: PhotoFolder) -> None:
    root = photo_folder(count=50)
    first = fitted(root)
    name = sorted(all_names(first)["train"])[0]
    held = sorted(all_names(first)["test"])[0]
    away = (root / name).rename(root / "away")
    second = fitted(root, first)
    away.replace(root / held)
    assert held not in all_names(fitted(root, second))["test"]


def test_a_file_that_cannot_be_read_is_not_taken_for_one_that_was_trained_on() -> None:
    """Both have the hash 0; the reason why it is left out is told later."""
    record = {"train": torch.tensor([[1, 0], [2, 9]]), "val": torch.tensor([[3, 0]])}
    paths, files = torch.tensor([4, 5]), torch.tensor([0, 9])
    assert was_trained_on(record, paths, files, same=True).tolist() == [False, True]
    assert may_be_trained_on(record, paths, files, same=True).tolist() == [True, True]


def test_files_are_told_apart_by_size_start_and_end(tmp_path: Path) -> None:
    middle = bytes(2**18)
    files = [b"", b"a", b"b", b"a" + middle, middle + b"a", middle, middle[1:], b"a"]
    for i, content in enumerate(files):
        (tmp_path / str(i)).write_bytes(content)
    found = file_hashes([str(tmp_path / str(i)) for i in range(len(files))]).tolist()
    assert found[-1] == found[1]
    assert len(set(found)) == len(files) - 1


def test_files_are_hashed_in_their_order_whatever_the_threads(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(i)) for i in range(2 * FILES_OF_A_TASK + 1)]
    for i, path in enumerate(paths[:-1]):
        Path(path).write_bytes(str(i).encode())
    each = [int(file_hashes([path])) for path in paths]
    assert file_hashes(paths).tolist() == each
    assert each[-1] == 0  # there is no such file
    assert file_hashes([]).tolist() == []


def test_short_reads_of_the_system_change_no_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As network drives and file systems in user space may give."""

    class Halting(FileIO):
        def read(self, size: int = -1, /) -> bytes:
            return super().read(min(size, 1000))

    (tmp_path / "a").write_bytes(bytes(range(256)) * 700)
    expected = file_hashes([str(tmp_path / "a")])
    monkeypatch.setattr("vitlit.images.image_bytes.FileIO", Halting)
    assert file_hashes([str(tmp_path / "a")]) == expected


def test_unique_rows_are_those_of_torch() -> None:
    rows = torch.randint(-3, 3, (200, 2), generator=torch.Generator().manual_seed(0))
    for some in (rows, rows[:1], rows[:0]):
        assert unique_rows(some).tolist() == torch.unique(some, dim=0).tolist()


def test_sets_that_never_change_have_no_record(photo_folder: PhotoFolder) -> None:
    digits = PlainImageData(patch_size=4)
    digits.setup("fit")
    assert digits.state_dict() == {}
    assert digits.hparams["split_by"] is None
    assert fitted(photo_folder("train+val+test")).state_dict() == {}


def test_a_set_of_arrays_is_split_as_if_no_folder_had_been_trained_on(
    photo_folder: PhotoFolder,
) -> None:
    before = fitted(photo_folder(count=8))
    digits, plain = PlainImageData(patch_size=4), PlainImageData(patch_size=4)
    digits.hold_to(PastTraining(before.hparams, before.state_dict()))
    for data in (digits, plain):
        data.setup("fit")
        data.setup("test")
    assert digits.state_dict() == {}
    for name, split in plain.splits.items():
        assert torch.equal(digits.splits[name].members, split.members)


@pytest.mark.parametrize(
    "odd", [None, 3, {}, {"train": EMPTY}, {"train": EMPTY, "val": [1]}, {"train": 1, "val": EMPTY}]
)
def test_a_record_that_makes_no_sense_is_none(odd: object) -> None:
    assert record_of({RECORD_KEY: odd}) == {}
    assert record_of({}) == {}


def test_images_that_were_all_saved_anew_keep_their_sides(photo_folder: PhotoFolder) -> None:
    root = photo_folder(count=20)
    before = fitted(root)
    trained = names_of(before.splits["train"])
    for path in root.glob("*/*"):
        with Image.open(path) as image:
            turned = image.convert("RGB").rotate(90)
        turned.save(path)
    now = photos(root, split_seed=5)
    now.hold_to(PastTraining(before.hparams, before.state_dict()))
    now.setup("test")
    found = names_of(now.splits["test"])
    assert found
    assert not found & trained


def test_one_known_image_in_ten_makes_a_folder_that_of_the_training() -> None:
    record = {"train": torch.tensor([[1, 7]]), "val": torch.tensor([[2, 8]])}
    assert is_same_data(record, torch.tensor([8, *range(100, 109)]))
    assert not is_same_data(record, torch.tensor([8, *range(100, 110)]))


def test_a_folder_without_a_test_part_names_the_split_as_what_to_change(
    photo_folder: PhotoFolder,
) -> None:
    root = photo_folder(count=8)
    (root / "train").mkdir()
    for name in ("cat", "dog"):
        (root / name).rename(root / "train" / name)
    with pytest.raises(InputError, match="has no test folder; score the validation split") as found:
        photos(root).setup("test")
    assert found.value.arguments == ("split",)
