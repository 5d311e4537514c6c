"""Data sets of the hub, against folders of the same files and the library that saved them."""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from hub_tables import NAMES, datasets, encoded, save, table

from vitlit.data.datamodule import PlainImageData
from vitlit.data.datasets import read_part
from vitlit.data.published import hub_cells
from vitlit.data.published.hub_columns import labels_of_column
from vitlit.data.published.hub_sets import name_parts
from vitlit.errors import InputError

SMALL: dict[str, Any] = {"img_size": 16, "patch_size": 8, "batch_size": 2}
Value = datasets.Value


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bars, and the library's cache in a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "library"))
    datasets.disable_progress_bars()


def data_of(dataset: str, tmp_path: Path, **more: Any) -> PlainImageData:
    return PlainImageData(dataset=dataset, data_dir=str(tmp_path / "data"), **SMALL, **more)


def pixels(data: PlainImageData, part: str) -> torch.Tensor:
    images = read_part(
        data.dataset, part, data.data_dir, num_classes=2, in_chans=3, size=(16, 16), memory_gb=0
    )
    return images.gather(torch.arange(len(images)))


# -- layouts of the library -------------------------------------------------------------------


def as_saved(folder: Path, tables: dict[str, Any]) -> str:
    return save(folder, tables)


def as_parquet(folder: Path, tables: dict[str, Any]) -> str:
    folder.mkdir()
    for split, one in tables.items():
        one.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return f"hub:{folder}"


LAYOUTS = pytest.mark.parametrize("layout", [as_saved, as_parquet])
Layout = Callable[[Path, dict[str, Any]], str]


@LAYOUTS
def test_images_labels_and_class_names_are_those_that_were_saved(
    tmp_path: Path, layout: Layout
) -> None:
    labels = {"train": [1, 0, 1, 1, 0], "validation": [0, 1]}
    name = layout(tmp_path / "set", {split: table(labels[split]) for split in labels})
    data = data_of(name, tmp_path)
    data.setup("fit")
    assert data.class_names == NAMES
    for part, split in (("train", "train"), ("val", "validation")):
        found = [Path(file) for file in data.splits[part].paths]
        rows = {int(file.stem): file for file in found}
        assert [rows[row].read_bytes() for row in range(len(rows))] == [
            encoded(row) for row in range(len(labels[split]))
        ]
        assert data.splits[part].labels.tolist() == labels[split]


def test_pixels_are_those_of_a_folder_of_the_same_files(tmp_path: Path) -> None:
    name = save(tmp_path / "set", {"train": table([0, 1, 0]), "test": table([1, 0], seed=9)})
    for row, label in enumerate([0, 1, 0]):
        folder = tmp_path / "photos" / "train" / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.jpg").write_bytes(encoded(row))
    folder_data = PlainImageData(dataset="folder", data_dir=str(tmp_path / "photos"), **SMALL)
    # the folder's images are sorted by class
    assert torch.equal(
        pixels(data_of(name, tmp_path), "train")[[0, 2, 1]], pixels(folder_data, "train")
    )


def test_image_folders_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for row in range(4):
            folder = tmp_path / "set" / part / ("dog" if row % 2 else "cat")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row}.jpg").write_bytes(encoded(row))
    data = data_of(f"hub:{tmp_path / 'set'}", tmp_path)
    known = datasets.load_dataset(str(tmp_path / "set"))["train"]
    data.setup("test")
    assert data.class_names == known.features["label"].names
    assert sorted(data.splits["test"].labels.tolist()) == sorted(known["label"])


def test_one_table_is_split_in_three(tmp_path: Path) -> None:
    data = data_of(save(tmp_path / "set", table([0, 1] * 10)), tmp_path)
    data.setup("fit")
    data.setup("test")
    rows = [row for split in data.splits.values() for row in split.members.tolist()]
    assert sorted(rows) == list(range(20))
    assert set(data.state_dict()) == {"train", "val", "test"}


def test_rows_without_image_or_label_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = table([0, 1, -1, 1, 0])
    rows = [{**row, "image": None} if i == 3 else row for i, row in enumerate(found.to_list())]
    found = datasets.Dataset.from_list(rows, features=found.features)
    data = data_of(save(tmp_path / "set", found), tmp_path)
    assert len(read_part(data.dataset, "all", data.data_dir, num_classes=2, in_chans=3,
                         size=(8, 8), memory_gb=0)) == 3  # fmt: skip
    assert "left out 2 rows of all without an image or a label" in caplog.text


def test_a_split_without_labels_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {"train": table([0, 1]), "validation": table([0, 1]), "test": table([-1, -1])}
    data = data_of(save(tmp_path / "set", tables), tmp_path)
    assert data.split_builder.names() == ["train", "val"]
    assert "left out test of" in caplog.text


# -- columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [(Value("int64"), [7, 3, 7], ["3", "7"]), (Value("string"), ["b", "a", "b"], ["a", "b"])],
)
def test_labels_without_names_are_named_by_their_values(
    tmp_path: Path, kind: Any, labels: list[Any], names: list[str]
) -> None:
    data = data_of(save(tmp_path / "set", {"train": table(labels, kind)}), tmp_path)
    assert data.class_names == names
    assert [names[i] for i in data.split_builder.unchecked(["train"])["train"].images.labels] == [
        str(label) for label in labels
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_of_several_label_columns_one_must_be_named(tmp_path: Path, count: int) -> None:
    other = datasets.ClassLabel(names=["x", "y", "z"])
    found = table([0, 1, 0], coarse=(other, [2, 1, 0]))
    if count == 1:  # none is named as usual
        found = found.rename_column("label", "kind").cast_column("kind", Value("int64"))
        found = found.cast_column("coarse", Value("int64"))
    name = save(tmp_path / "set", found)
    words = "label and coarse" if count == 2 else r"image \(Image\), kind \(int64\)"
    with pytest.raises(InputError, match=words) as error:
        data_of(name, tmp_path)
    assert error.value.arguments == ("label_column",)
    assert data_of(name, tmp_path, label_column="coarse").num_classes == 3


def test_of_several_image_columns_one_must_be_named(tmp_path: Path) -> None:
    masks = [{"bytes": encoded(50 + i, "PNG"), "path": None} for i in range(2)]
    name = save(tmp_path / "set", table([0, 1], mask=(datasets.Image(), masks)))
    with pytest.raises(InputError, match="image and mask") as error:
        data_of(name, tmp_path)
    assert error.value.arguments == ("image_column",)
    data = data_of(name, tmp_path, image_column="mask")
    assert {path.suffix for path in data.data_dir.rglob("*/*.*")} == {".png"}


def as_tables(folder: Path, paths: list[str]) -> str:
    """A Parquet file whose images are but named."""
    folder.mkdir(exist_ok=True)
    cells = [{"bytes": None, "path": path} for path in paths]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    labels = [row % 2 for row in range(len(paths))]
    found = datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)
    # not to_parquet, which reads the images that are named
    pyarrow.parquet.write_table(
        found.data.table.cast(features.arrow_schema), folder / "train.parquet"
    )
    return f"hub:{folder}"


def test_images_that_a_table_names_are_read_from_the_folder_of_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(encoded(0))
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("a/1.jpg", encoded(1))
        archive.writestr("a: b/2.jpg", encoded(2))
    inside = [f"zip://{name}::{folder / 'more.zip'}" for name in ("a/1.jpg", "a: b/2.jpg")]
    data = data_of(as_tables(folder, [str(folder / "0.jpg"), *inside]), tmp_path)
    files = data.data_dir.rglob("all/*/*")
    assert {file.read_bytes() for file in files} == {encoded(seed) for seed in range(3)}


@pytest.mark.parametrize(
    "place", ["{}/gone.jpg", "zip://gone.jpg::{}/more.zip", "zip://a::{}/no.zip"]
)
def test_an_image_that_is_gone_is_named(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "no.zip").write_text("none")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("a", "none")
    name = as_tables(folder, [place.format(folder)] * 2)
    with pytest.raises(
        InputError, match=r"cannot read .* of hub:.*; give a data set that is compl"
    ):
        data_of(name, tmp_path)


@pytest.mark.parametrize("place", ["{}/large.jpg", "zip://large.jpg::{}/more.zip"])
def test_an_image_that_is_too_large_is_refused_before_it_is_read(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, large = tmp_path / "set", bytes(5000)
    folder.mkdir()
    (folder / "large.jpg").write_bytes(large)
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.jpg", large)
    assert (folder / "more.zip").stat().st_size < 1000
    monkeypatch.setattr(hub_cells, "MAX_FILE_BYTES", 4999)
    words = r"has an image of 5,000 bytes at .*large\.jpg.*, more than the maximum of 4,999; give"
    with pytest.raises(InputError, match=words):
        data_of(as_tables(folder, [place.format(folder)] * 2), tmp_path)


def test_a_label_beyond_the_names_of_the_classes_is_refused() -> None:
    labels = labels_of_column(datasets.ClassLabel(names=NAMES), [], "hub:cats")
    assert [labels.number(value) for value in (0, 1, -1, None)] == [0, 1, None, None]
    with pytest.raises(InputError, match=r"hub:cats has the label 2, but .* classes 0 to 1; give"):
        labels.number(2)


@pytest.mark.parametrize(
    "place",
    [
        "{}/private.txt",
        "{}/set/../private.txt",
        "file://{}/private.txt",
        "simplecache::file://{}/private.txt",
        "zip://private.txt::{}/private.zip",
        "http://127.0.0.1:9/private.txt",
        "private.txt",
    ],
)
def test_a_table_cannot_name_files_outside_the_set(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private.txt").write_text("secret")
    with zipfile.ZipFile(tmp_path / "private.zip", "w") as archive:
        archive.writestr("private.txt", "secret")
    monkeypatch.chdir(tmp_path)
    name = as_tables(tmp_path / "set", [place.format(tmp_path)] * 2)
    with pytest.raises(InputError, match=r"has an image at .*, which is none of its own files"):
        data_of(name, tmp_path)
    assert not [*(tmp_path / "data").rglob("*.img")]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("label_column", "nosuch", "has no column nosuch; its columns are image"),
        ("image_column", "label", "has no images in its column label"),
        ("label_column", "image", "has no labels in its column image"),
    ],
)
def test_a_wrong_column_is_refused_with_the_columns(
    tmp_path: Path, column: str, value: str, words: str
) -> None:
    name = save(tmp_path / "set", table([0, 1]))
    with pytest.raises(InputError, match=words):
        data_of(name, tmp_path, **{column: value})


# -- what is unpacked, and when ---------------------------------------------------------------


def test_a_set_is_unpacked_once_and_anew_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save(tmp_path / "set", table([0, 1]))
    first = data_of(name, tmp_path).data_dir
    with monkeypatch.context() as patch:
        patch.setattr("vitlit.data.published.hub_sets._read_tables", None)
        assert data_of(name, tmp_path).data_dir == first
    shutil.rmtree(tmp_path / "set")
    save(tmp_path / "set", table([0, 1, 1]))
    changed = data_of(name, tmp_path)
    assert changed.data_dir != first
    assert len(changed.split_builder._part("all")) == 3


def test_the_settings_of_a_training_need_the_unpacked_folder_alone(tmp_path: Path) -> None:
    data = data_of(save(tmp_path / "set", table([0, 1] * 5)), tmp_path)
    shutil.rmtree(tmp_path / "set")
    again = PlainImageData(**data.hparams)
    again.prepare_data()
    again.setup("test")
    assert again.data_dir == data.data_dir
    shutil.rmtree(data.data_dir)
    PlainImageData(**data.hparams, images=["x.png"])  # predict reads no training data
    with pytest.raises(InputError, match=r"no folder .*set"):
        PlainImageData(**data.hparams).prepare_data()


def test_an_interrupted_unpacking_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save(tmp_path / "set", table([0, 1]))
    left = tmp_path / "data" / "hub" / f".{data_of(name, tmp_path).data_dir.name}.part"
    shutil.rmtree(tmp_path / "data" / "hub")
    left.mkdir(parents=True)  # of a process that was killed

    def fail(self: Any, folder: Path) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("vitlit.data.published.index.Index.write", fail)
        with pytest.raises(InputError, match=r"No space.*data_dir"):
            data_of(name, tmp_path)
    assert [path.name for path in left.parent.iterdir() if path.is_dir()] == []
    assert data_of(name, tmp_path).num_classes == 2


def test_offline_the_cache_of_the_library_is_enough_and_its_commit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(as_parquet(tmp_path / "set", {"train": table([0, 1] * 5)})[4:])
    datasets.load_dataset(str(folder))
    library, commit = tmp_path / "library", "c0ffee" * 6 + "c0ff"
    [made] = (library / "set" / "default" / "0.0.0").glob("*[!k]")
    home = library / "owner___set" / "default" / "0.0.0"
    home.mkdir(parents=True)
    made.rename(home / commit)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data = data_of("hub:owner/set", tmp_path)
    assert data.hparams["dataset"] == data.dataset == f"hub:owner/set@{commit}"
    assert data.data_dir.name.startswith("owner--set-")
    shutil.rmtree(library)
    assert data_of("hub:owner/set", tmp_path).dataset == data.dataset  # unpacked: nobody is asked
    with pytest.raises(InputError, match=r"cannot read hub:owner/other: .*the hub can be reached"):
        data_of("hub:owner/other", tmp_path)
    with pytest.raises(InputError, match=r"hub:owner/set@other is not unpacked.*download"):
        data_of("hub:owner/set@other", tmp_path, download=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", ["../../private.txt", "all/a/1.jpg"]),
        ("files", ["/etc/passwd", "all/a/1.jpg"]),
        ("files", ["all/a/0.jpg"]),
        ("labels", [0, 7]),
        ("labels", [-1, 0]),
        ("labels", [0, True]),
    ],
)
def test_an_index_from_elsewhere_is_not_trusted(field: str, value: Any, tmp_path: Path) -> None:
    name = save(tmp_path / "set", table([0, 1]))
    file = data_of(name, tmp_path).data_dir / "index.json"
    told = json.loads(file.read_text())
    told["parts"]["all"][field] = value
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match="holds no data set unpacked from the hub"):
        data_of(name, tmp_path)


# -- refused ----------------------------------------------------------------------------------


def test_code_that_comes_with_a_data_set_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="scripts are no longer supported"):
        data_of(f"hub:{tmp_path / 'set'}", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("version", "words"), [(None, r"pip install 'vitlit\[hub\]'"), ("3.6.0", "could run code")]
)
def test_a_missing_or_old_library_is_told_with_the_way_to_get_it(
    tmp_path: Path, version: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version is None:
        monkeypatch.setitem(sys.modules, "datasets", None)
    else:
        monkeypatch.setattr("datasets.__version__", version)
    with pytest.raises(InputError, match=words):
        data_of("hub:owner/name", tmp_path)


@pytest.mark.parametrize("name", ["hub:", "hub:a b", "hub:../../etc", "hub:owner/name/more"])
def test_what_names_no_data_set_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # "../../etc" is a folder from some places
    with pytest.raises(InputError, match=r"names no data set|no folder"):
        data_of(name, tmp_path)


def test_names_of_classes_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    names = ["..", "/etc", "a/../../b", "A", "a", "con.", ""]
    kind = datasets.ClassLabel(names=names)
    data = data_of(save(tmp_path / "set", table(range(7), kind)), tmp_path)
    assert data.class_names == names
    files = [path.relative_to(data.data_dir) for path in data.data_dir.rglob("*.jpg")]
    assert len({file.parent for file in files}) == 7
    assert {len(file.parts) for file in files} == {3}


@pytest.mark.parametrize(
    ("splits", "parts"),
    [
        (["train"], {"train": "all"}),
        (["test"], {"test": "all"}),
        (["train", "extra"], {"train": "all"}),
        (["train", "test"], {"train": "train", "test": "test"}),
        (["train", "dev", "test"], {"train": "train", "dev": "val", "test": "test"}),
    ],
)
def test_splits_are_parts_by_their_names(splits: list[str], parts: dict[str, str]) -> None:
    assert name_parts(splits, "x") == parts


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["one", "two"], "one, two, and a training needs"),
        (["train", "val", "validation"], "two splits for val"),
    ],
)
def test_splits_that_are_no_parts_are_refused(splits: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        name_parts(splits, "x")
