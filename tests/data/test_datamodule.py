"""From a data set to batches of patches: who is in which split, and what a step is given."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from photo_folder import PhotoFolder
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2

import vitlit
from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.data.splits import Split
from vitlit.data.stratify import stratified_split, tell_repeats
from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.images.image_io import read_image
from vitlit.images.image_store import FileImages
from vitlit.seeding import Stream, address, uniform

IMAGENET = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
THREE = "train+val+test"


def ready(stage: str = "fit", **settings: Any) -> PlainImageData:
    """A data module after setup, without a trainer; digits in patches of 4 by default."""
    data = PlainImageData(**{"patch_size": 4, "batch_size": 4, **settings})
    data.setup(stage)
    return data


def photos(root: Path, stage: str = "fit", **settings: Any) -> PlainImageData:
    """The same for a folder, at 8x8 pixels."""
    settings = {"dataset": "folder", "data_dir": str(root), "img_size": 8, **settings}
    return ready(stage, **settings)


def raw(split: Split) -> Tensor:
    """All pixels of a split as floats in [0, 1], ``(n, C, h, w)``."""
    return split.images.gather(split.members) / 255


def first(data: PlainImageData, loader: Iterable[Any]) -> Batch:
    """The first batch of a loader as a step of an evaluation sees it."""
    return data.transform(next(iter(loader)), augment=False)


def files(split: Split) -> list[Path]:
    assert isinstance(split.images, FileImages)
    return [Path(split.images.paths[member]) for member in split.members.tolist()]


# -- splits -----------------------------------------------------------------------------------

LABELS = torch.tensor([0] * 10 + [1] * 25 + [2] * 60)[
    torch.randperm(95, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize(("fraction", "shares"), [(0.2, [2, 5, 12]), (0.5, [5, 12, 30])])
def test_each_class_gives_its_share(fraction: float, shares: list[int]) -> None:
    _, held = stratified_split(LABELS, fraction, key=1)
    assert LABELS[held].bincount().tolist() == shares


def test_every_sample_is_either_kept_or_held_out() -> None:
    kept, held = stratified_split(LABELS, 0.3, key=1)
    assert sorted(kept.tolist() + held.tolist()) == list(range(95))


def test_the_same_key_holds_out_the_same_samples() -> None:
    assert torch.equal(*(stratified_split(LABELS, 0.3, key=1)[1] for _ in range(2)))


def test_another_key_holds_out_other_samples() -> None:
    assert not torch.equal(*(stratified_split(LABELS, 0.3, key=key)[1] for key in (1, 2)))


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_class_of_two_keeps_one_and_gives_one(fraction: float) -> None:
    kept, held = stratified_split(torch.tensor([0, 0]), fraction, key=1)
    assert (len(kept), len(held)) == (1, 1)


def digit_splits(**settings: Any) -> dict[str, Split]:
    data = ready("fit", **settings)
    data.setup("test")
    return data.splits


def test_a_fifth_of_each_digit_is_for_testing() -> None:
    counts = np.bincount(load_digits().target)
    held = digit_splits()["test"].labels.bincount()
    np.testing.assert_allclose(held, counts / 5, atol=0.5)


def test_a_tenth_of_the_other_digits_is_for_validation() -> None:
    splits = digit_splits()
    rest = 1797 - len(splits["test"])
    assert len(splits["val"]) == pytest.approx(rest / 10, abs=5)  # rounded in each class


def test_every_digit_is_in_one_split() -> None:
    members = torch.cat([split.members for split in digit_splits().values()])
    assert sorted(members.tolist()) == list(range(1797))


def test_labels_stay_with_their_digits() -> None:
    split = digit_splits()["val"]
    np.testing.assert_array_equal(split.labels, load_digits().target[split.members])


def test_the_split_seed_decides_which_digits_are_held_out() -> None:
    members = [digit_splits(split_seed=seed)["test"].members.tolist() for seed in (0, 0, 1)]
    assert members[0] == members[1] != members[2]


def test_the_training_seed_does_not_move_the_splits() -> None:
    members = [digit_splits(seed=seed)["train"].members for seed in (0, 1)]
    assert torch.equal(*members)


@pytest.mark.parametrize(
    ("stage", "names"),
    [("fit", {"train", "val"}), ("validate", {"val"}), ("test", {"test"})],
)
def test_a_stage_makes_the_splits_it_needs(stage: str, names: set[str]) -> None:
    assert set(ready(stage).splits) == names


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_test_scores_the_split_that_is_asked_for(split: str) -> None:
    data = ready("test", split=split)
    shown = sum(len(batch.y) for batch in data.test_dataloader())
    assert shown == len(digit_splits()[split])


def test_training_reads_no_test_images(photo_folder: PhotoFolder) -> None:
    root = photo_folder(THREE)
    for path in (root / "test").rglob("*.*"):
        path.write_bytes(b"unreadable")
    assert len(photos(root).splits["train"]) == 8


@pytest.mark.parametrize(("stage", "part"), [("fit", "train"), ("fit", "val"), ("test", "test")])
def test_named_parts_are_used_as_they_are(photo_folder: PhotoFolder, stage: str, part: str) -> None:
    root = photo_folder(THREE)
    data = photos(root, stage, memory_gb=0)
    expected = sorted(path for path in (root / part).rglob("*.*"))
    assert sorted(files(data.splits[part])) == expected


def test_without_val_it_is_split_from_the_training_images(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+test", count=10)
    splits = photos(root, memory_gb=0, val_fraction=0.2).splits
    assert len(splits["val"]) == 4
    assert sorted(files(splits["train"]) + files(splits["val"])) == sorted(
        (root / "train").rglob("*.*")
    )


def test_without_test_the_way_out_is_named(photo_folder: PhotoFolder) -> None:
    with pytest.raises(
        InputError, match=r"no test folder; score the validation split, val, or add .*test"
    ):
        photos(photo_folder("train+val"), "test")


def test_class_folders_alone_are_split_in_three(photo_folder: PhotoFolder) -> None:
    root = photo_folder(count=20)
    data = photos(root, memory_gb=0, split_by="position")
    data.setup("test")
    found = {name: files(split) for name, split in data.splits.items()}
    assert {name: len(paths) for name, paths in found.items()} == {
        "train": 28,  # a fifth of 20 is held out for testing, a tenth of 16 for validation
        "val": 4,
        "test": 8,
    }
    together = [path for paths in found.values() for path in paths]
    assert sorted(together) == sorted(root.rglob("*.*"))


# -- class names ------------------------------------------------------------------------------


def test_class_names_are_those_of_the_folder(photo_folder: PhotoFolder) -> None:
    assert photos(photo_folder(classes=["b", "a", "c"])).class_names == ["a", "b", "c"]


def test_given_class_names_need_no_folder(tmp_path: Path) -> None:
    data = PlainImageData(dataset="folder", data_dir=str(tmp_path / "gone"), class_names=["a", "b"])
    assert data.num_classes == 2


@pytest.mark.parametrize(
    ("names", "complaint"),
    [(["cat", "wolf"], "folder has dog; only the model has wolf"), (["dog", "cat"], "order")],
)
def test_given_class_names_must_be_the_folders(
    photo_folder: PhotoFolder, names: list[str], complaint: str
) -> None:
    with pytest.raises(InputError, match=rf"classes in .*photos.*{complaint}"):
        photos(photo_folder(), class_names=names)


def test_given_class_names_must_be_as_many_as_the_sets() -> None:
    with pytest.raises(InputError, match=r"\b2\b.*\b10\b|\b10\b.*\b2\b"):
        ready(class_names=["even", "odd"])


# -- what a step is given ---------------------------------------------------------------------


def test_a_step_is_given_patches_of_the_normalised_images() -> None:
    data = ready()
    batch = first(data, data.train_dataloader())
    normalise = v2.Normalize([0.3053], [0.3761])
    images = normalise(raw(data.splits["train"])[batch.sample])
    expected = F.unfold(images, 4, stride=4).mT  # torch's own cutting: (B, N, C*P*P)
    torch.testing.assert_close(batch.x, expected, rtol=0, atol=2e-6)


def test_patches_of_colour_rectangles_keep_their_order(photo_folder: PhotoFolder) -> None:
    data = photos(photo_folder(THREE), img_size=[8, 12])
    batch = first(data, data.val_dataloader())
    images = IMAGENET(raw(data.splits["val"])[:4])
    expected = F.unfold(images, 4, stride=4).mT
    torch.testing.assert_close(batch.x, expected, rtol=0, atol=2e-6)


def test_a_step_is_given_images_where_the_model_wants_them() -> None:
    data = ready(patchify=False, normalize="none")
    batch = first(data, data.val_dataloader())
    torch.testing.assert_close(batch.x, raw(data.splits["val"])[:4])


def test_a_batch_carries_the_labels_of_its_samples() -> None:
    data = ready()
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.y, data.splits["train"].labels[batch.sample])


def test_evaluation_marks_the_rows_that_count() -> None:
    data = ready("validate", batch_size=50)
    assert sum(int(batch.valid.sum()) for batch in data.val_dataloader()) == len(data.splits["val"])


@pytest.mark.parametrize(
    ("limits", "mixes"),
    [({}, False), ({"val": 1.0, "test": 1.0}, False), ({"val": 2}, True), ({"test": 0.5}, True)],
    ids=str,
)
def test_a_limited_evaluation_takes_images_of_all_classes(
    photo_folder: PhotoFolder, limits: dict[str, float], mixes: bool
) -> None:
    """In order, the first half of a folder would hold the first half of its classes."""
    root = photo_folder(THREE, count=16)
    given: Any = {f"limit_{name}_batches": limit for name, limit in limits.items()}
    data = photos(root, stage="fit")
    data.setup("test")
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, **given)
    loader = data.val_dataloader() if "val" in limits else data.test_dataloader()
    batches = list(loader)
    assert torch.cat([batch.sample for batch in batches]).unique().tolist() == [*range(32)]
    first_half = torch.cat([batch.y for batch in batches[:4]])
    assert (first_half.unique().tolist() == [0, 1]) is mixes


def test_images_are_resized_to_the_model() -> None:
    data = ready(img_size=[16, 24], patchify=False)
    assert first(data, data.val_dataloader()).x.shape == (4, 1, 16, 24)


def normalised(**settings: Any) -> tuple[Tensor, Tensor]:
    """Validation images as a step sees them, and their pixels in [0, 1]."""
    data = ready(patchify=False, **settings)
    batch = first(data, data.val_dataloader())
    return batch.x, raw(data.splits["val"])[:4]


def test_given_statistics_replace_those_of_the_set() -> None:
    found, pixels = normalised(mean=[0.5], std=[0.25])
    torch.testing.assert_close(found, (pixels - 0.5) / 0.25)


def test_inversion_mirrors_the_mean_too() -> None:
    found, pixels = normalised(invert=True, mean=[0.3], std=[0.25])
    torch.testing.assert_close(found, ((1 - pixels) - (1 - 0.3)) / 0.25)


def test_inversion_without_normalising_turns_p_into_1_minus_p() -> None:
    found, pixels = normalised(invert=True, normalize="none")
    torch.testing.assert_close(found, 1 - pixels, rtol=0, atol=1e-6)


def test_grey_images_for_a_colour_model_are_repeated_with_their_statistics() -> None:
    grey, _ = normalised()
    colour, _ = normalised(in_chans=3)
    torch.testing.assert_close(colour, grey.expand(-1, 3, -1, -1))


def test_colour_photos_for_a_grey_model_have_the_luma_of_the_mean(
    photo_folder: PhotoFolder,
) -> None:
    data = photos(photo_folder(THREE), in_chans=1, patchify=False)
    batch = first(data, data.val_dataloader())
    grey = raw(data.splits["val"])[:4]
    mean = 0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406
    std = 0.299 * 0.229 + 0.587 * 0.224 + 0.114 * 0.225
    torch.testing.assert_close(batch.x, (grey - mean) / std)


# -- augmentation -----------------------------------------------------------------------------


def augmented(data: PlainImageData, epoch: int = 0) -> Tensor:
    """The training images of an epoch in the order of the split, ``(n, ...)``."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    seen: dict[int, Tensor] = {}
    for batch in loader:
        seen.update(zip(batch.sample.tolist(), data.transform(batch, augment=True).x, strict=True))
    return torch.stack([seen[sample] for sample in sorted(seen)])


AUGMENT: dict[str, Any] = {
    "crop_padding": 2,
    "flip": True,
    "rotation": 20.0,
    "auto_augment": "randaugment",
    "erasing": 0.5,
}
CUT: dict[str, Any] = {"resized_crop": [0.3, 1.0]}
MIXED: dict[str, Any] = {"mixup": 0.8, "cutmix": 1.0, "mix_prob": 0.9}


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # from Python 3.12
@pytest.mark.parametrize("changes", [{"batch_size": 6}, {"num_workers": 2}, {"memory_gb": 0}])
def test_an_images_augmentation_depends_on_its_address_alone(
    photo_folder: PhotoFolder, changes: dict[str, Any]
) -> None:
    root = photo_folder("train+val", count=6)
    expected = augmented(photos(root, **AUGMENT))
    assert torch.equal(augmented(photos(root, **AUGMENT, **changes)), expected)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("memory_gb", [0, 1], ids=["files", "memory"])
@pytest.mark.parametrize("changes", [{"batch_size": 6}, {"num_workers": 2}])
def test_a_resized_crop_depends_on_its_address_alone(
    photo_folder: PhotoFolder, memory_gb: int, changes: dict[str, Any]
) -> None:
    root = photo_folder("train+val", count=6)
    settings = {**AUGMENT, **CUT, "memory_gb": memory_gb}
    assert torch.equal(
        augmented(photos(root, **settings)), augmented(photos(root, **settings, **changes))
    )


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("memory_gb", [0, 1], ids=["files", "memory"])
def test_mixed_batches_are_the_same_with_workers_and_without(
    photo_folder: PhotoFolder, memory_gb: int, num_workers: int
) -> None:
    root = photo_folder("train+val", count=6)
    settings = {**AUGMENT, **CUT, **MIXED, "memory_gb": memory_gb}
    alone, helped = (
        [data.transform(batch, augment=True) for batch in data.train_dataloader()]
        for data in (photos(root, **settings, num_workers=n) for n in (0, num_workers))
    )
    assert len(alone) == 3
    for expected, found in zip(alone, helped, strict=True):
        assert torch.equal(expected.x, found.x)
        assert torch.equal(expected.y, found.y)


def test_two_processes_augment_each_image_as_one_does() -> None:
    settings = {**AUGMENT, **CUT}
    seen: list[dict[int, Tensor]] = []
    for world in (1, 2):
        found: dict[int, Tensor] = {}
        for rank in range(world):
            data = placed(ready(**settings), global_rank=rank, world_size=world)
            for batch in data.train_dataloader():
                x = data.transform(batch, augment=True).x
                found.update(zip(batch.sample.tolist(), x, strict=True))
        seen.append(found)
    both = seen[0].keys() & seen[1].keys()
    assert len(both) > 1000
    assert all(torch.equal(seen[0][sample], seen[1][sample]) for sample in both)


def test_large_sets_are_cut_at_the_resolution_of_their_files(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+val", count=6, size=(40, 48))
    data = photos(root, memory_gb=0, **CUT, patchify=False, normalize="none")
    split = data.splits["train"]
    assert isinstance(split.images, FileImages)
    for batch in data.train_dataloader():
        draws = uniform(address(0, Stream.AUGMENT, 0, 0), batch.sample, 22)
        members = split.members[batch.sample]
        boxes = {"scale": (0.3, 1.0), "ratio": (3 / 4, 4 / 3)}
        expected = split.images.gather_crops(members, draws, **boxes)
        assert torch.equal(batch.x, expected)
        torch.testing.assert_close(data.transform(batch, augment=True).x, expected / 255)


@pytest.mark.parametrize("memory_gb", [0, 1])
def test_the_copies_of_an_image_in_a_batch_are_cut_apart(
    photo_folder: PhotoFolder, memory_gb: float
) -> None:
    root = photo_folder("train+val", count=6, size=(40, 48))
    how: dict[str, Any] = {"batch_size": 4, "patchify": False, "normalize": "none"}
    data = photos(root, **how | CUT, repeated_augment=2, memory_gb=memory_gb)
    plain = photos(root, **how | CUT | {"batch_size": 2}, memory_gb=memory_gb)
    for batch, once in zip(data.train_dataloader(), plain.train_dataloader(), strict=False):
        first, second = data.transform(batch, augment=True).x.chunk(2)
        assert torch.equal(first, plain.transform(once, augment=True).x)  # as without copies
        assert (first != second).flatten(1).any(dim=1).all()
        assert torch.equal(batch.sample[:2], batch.sample[2:])
        assert torch.equal(batch.y[:2], batch.y[2:])


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader"])
def test_large_sets_are_evaluated_on_the_same_pixels(
    photo_folder: PhotoFolder, loader: str
) -> None:
    root = photo_folder(THREE, count=6)
    both = []
    for memory_gb in (0, 1):
        data = photos(root, memory_gb=memory_gb, **AUGMENT, **CUT, **MIXED)
        data.setup("test")
        both.append([data.transform(batch, augment=False) for batch in getattr(data, loader)()])
    for file, memory in zip(*both, strict=True):
        assert torch.equal(file.x, memory.x)
        assert torch.equal(file.y, memory.y)


def test_sample_numbers_stay_where_draws_are_decided() -> None:
    data = ready()
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    devices = [part.device.type for part in (moved.x, moved.y, moved.valid, moved.sample)]
    assert devices == ["meta", "meta", "meta", "cpu"]


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)])
def test_another_seed_or_epoch_augments_differently(
    photo_folder: PhotoFolder, seed: int, epoch: int
) -> None:
    root = photo_folder("train+val", count=6)
    expected = augmented(photos(root, **AUGMENT))
    assert not torch.equal(augmented(photos(root, **AUGMENT, seed=seed), epoch), expected)


def test_a_flipped_training_image_is_itself_or_its_mirror_image(photo_folder: PhotoFolder) -> None:
    data = photos(photo_folder("train+val", count=12), flip=True, patchify=False, normalize="none")
    pixels = raw(data.splits["train"])
    pairs = list(zip(augmented(data), pixels, strict=True))
    mirrored = [bool((found - image.flip(-1)).abs().max() < 1e-6) for found, image in pairs]
    same = [bool((found - image).abs().max() < 1e-6) for found, image in pairs]
    assert all(one != other for one, other in zip(mirrored, same, strict=True))
    assert 4 < sum(mirrored) < 20


def test_where_an_image_is_cut_says_nothing_about_its_mirroring(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+val", count=24)
    plain: dict[str, Any] = {"crop_padding": 1, "patchify": False, "normalize": "none"}
    cropped = augmented(photos(root, **plain))
    mirrored = (augmented(photos(root, **plain, flip=True)) != cropped).flatten(1).any(1)
    for edge in (cropped[:, :, 0], cropped[:, :, :, 0]):  # black where the cut reached outside
        outside = edge.flatten(1).amax(1) == 0
        assert 0 < mirrored[outside].sum() < outside.sum()


def placed(data: PlainImageData, **place: Any) -> PlainImageData:
    """As a trainer would place it: training, rank and world."""
    on_cpu = SimpleNamespace(root_device=torch.device("cpu"))
    one = {"global_rank": 0, "world_size": 1, "num_devices": 1, "strategy": on_cpu}
    data.trainer = SimpleNamespace(**{**one, **place})  # type: ignore
    return data


@pytest.mark.parametrize("training", [True, False])
def test_only_training_batches_are_augmented(training: bool) -> None:
    data = placed(ready(crop_padding=2), training=training)
    batch = next(iter(data.train_dataloader()))
    expected = data.transform(batch, augment=training).x
    other = data.transform(batch, augment=not training).x
    found = data.on_after_batch_transfer(batch, 0).x
    assert torch.equal(found, expected)
    assert not torch.equal(found, other)


def test_two_processes_together_train_on_the_batches_of_one() -> None:
    both = [placed(ready(), global_rank=rank, world_size=2) for rank in range(2)]
    halves = zip(*(data.train_dataloader() for data in both), strict=True)
    pairs = [torch.cat([first.sample, second.sample]) for first, second in halves]
    alone = [batch.sample for batch in ready(batch_size=8).train_dataloader()]
    assert torch.equal(torch.stack(pairs), torch.stack(alone))


class Listener(pl.LightningModule):
    """Learns nothing; notes the epoch that each training batch says it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.heard: list[int] = []

    def training_step(self, batch: Batch) -> Tensor:
        self.heard.append(batch.epoch)
        return self.weight * batch.x.mean()

    def validation_step(self, batch: Batch) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_lightning_tells_the_batches_their_epoch(photo_folder: PhotoFolder) -> None:
    data = vitlit.ImageData(
        dataset="folder", data_dir=str(photo_folder("train+val")), img_size=16, batch_size=4
    )
    listener = Listener()
    pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    ).fit(listener, data)
    assert listener.heard == [0, 0, 1, 1]


# -- prediction -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_chans", [1, 3])
def test_predict_reads_files_of_any_size_grey_and_colour(tmp_path: Path, in_chans: int) -> None:
    Image.new("L", (30, 9), 200).save(tmp_path / "a.png")
    Image.new("RGB", (5, 17), (200, 200, 200)).save(tmp_path / "b.png")
    data = ready(
        "predict", images=[str(tmp_path)], in_chans=in_chans, patchify=False, normalize="none"
    )
    batch = first(data, data.predict_dataloader())
    torch.testing.assert_close(batch.x, torch.full((2, in_chans, 8, 8), 200 / 255))


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["cached", "decoded each time"])
def test_folders_and_predicted_files_are_fitted_alike(
    photo_folder: PhotoFolder, memory_gb: float
) -> None:
    root = photo_folder(THREE)
    how = {"fit": "letterbox", "crop_fraction": 0.8, "interpolation": "bilinear"}
    data = photos(root, "test", memory_gb=memory_gb, **how)
    [path, *_] = sorted(root.glob("test/*/*"))
    framing = Framing("letterbox", 0.8, "bilinear", (124, 116, 104))  # ImageNet's mean
    wanted = read_image(path, in_chans=3, size=(8, 8), framing=framing)
    assert data.preprocess.framing == framing
    assert torch.equal(raw(data.splits["test"])[0] * 255, wanted.float())
    found = photos(root, "predict", images=[str(path)], **how).splits["predict"]
    assert torch.equal(raw(found)[0] * 255, wanted.float())
    assert torch.equal(data.preprocess.read(path), wanted)


def test_images_named_in_a_csv_file_are_fitted_as_asked(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root = photo_folder(count=6)
    names = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.glob("*/*"))]
    (tmp_path / "labels.csv").write_text("\n".join(["file,class", *names]))
    data = photos(root, "test", labels=str(tmp_path / "labels.csv"), fit="squash")
    split = data.splits["test"]
    [path, *_] = split.files(torch.tensor([0]))
    wanted = read_image(path, in_chans=3, size=(8, 8), framing=Framing("squash"))
    assert torch.equal(raw(split)[0] * 255, wanted.float())


def test_arrays_are_not_fitted() -> None:
    with pytest.raises(InputError, match=r"fit squash, .*digits has none; leave them out"):
        PlainImageData(fit="squash")


def test_predict_keeps_the_order_of_the_files(tmp_path: Path) -> None:
    for name, level in (("b", 10), ("a", 20), ("c", 30)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
    data = ready("predict", images=[str(tmp_path / "c.png"), str(tmp_path)], normalize="none")
    levels = first(data, data.predict_dataloader()).x[:, 0, 0] * 255
    assert [Path(path).stem for path in data.files] == ["c", "a", "b", "c"]
    assert levels.round().tolist() == [30, 20, 10, 30]


def test_predict_needs_no_training_data(tmp_path: Path, photo_folder: PhotoFolder) -> None:
    images = [str(photo_folder())]
    data = photos(tmp_path / "gone", "predict", images=images, class_names=["a", "b", "c"])
    assert len(data.splits["predict"]) == 8


@pytest.mark.parametrize("images", [None, []])
def test_predict_without_images_names_the_argument(images: list[str] | None) -> None:
    with pytest.raises(InputError, match="predict needs images; give files or folders") as caught:
        ready("predict", images=images)
    assert caught.value.arguments == ("images",)


# -- bad settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"val_fraction": 0.0}, r"val_fraction 0\.0 .*between 0 and 1"),
        ({"val_fraction": 1.0}, r"val_fraction 1\.0 .*between 0 and 1"),
        ({"test_fraction": -0.1}, r"test_fraction -0\.1 .*between 0 and 1"),
        ({"test_fraction": float("nan")}, "test_fraction nan .*between 0 and 1"),
        ({"batch_size": 0}, "batch_size 0 is too small"),
        ({"crop_padding": 9}, "crop_padding 9 is larger than the image, 8x8"),
        ({"patch_size": 3}, "patch_size 3 does not divide the image size 8x8"),
        ({"patch_size": 0}, "patch_size 0 is not positive"),
        ({"img_size": [8, 9]}, "patch_size 4 does not divide the image size 8x9"),
        ({"img_size": [8, 8, 8]}, r"\[8, 8, 8\]"),
        ({"dataset": "minst"}, "'minst'; did you mean mnist"),
        ({"std": [0.0]}, r"std \[0\.0\] must be positive"),
        ({"std": [float("nan")]}, r"std \[nan\] must be positive"),
        ({"mean": [float("nan")]}, r"mean \[nan\] is not finite"),
        ({"crop_padding": 9, "img_size": 64}, "crop_padding 9 is larger than the image, 8x8"),
        ({"mean": [0.5, 0.5]}, r"mean \[0\.5, 0\.5\] has 2 numbers for 1 channels"),
        ({"std": [0.5] * 3, "dataset": "cifar10", "mean": [0.1] * 4}, "4 numbers for 3 channels"),
    ],
)
def test_a_bad_setting_names_its_value_and_the_rule(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        PlainImageData(**{"patch_size": 4, **settings})


@pytest.mark.parametrize("world", [1, 2])
def test_a_batch_that_repeats_a_small_set_is_told(
    caplog: pytest.LogCaptureFixture, world: int
) -> None:
    tell_repeats(8, 4, world)
    assert not caplog.text
    tell_repeats(11, 10, world)
    assert ("repeats each of the 11 training images up to 2 times" in caplog.text) == (world == 2)


def test_a_batch_far_above_the_set_is_refused() -> None:
    data = ready(batch_size=2000)
    with pytest.raises(InputError, match=r"batch_size 2000 .* 1295 training .* 1295 or less"):
        data.train_dataloader()
    tell_repeats(8, 1024, 1)
    tell_repeats(2000, 2000, 8)
    tell_repeats(1500, 3000, 1, copies=2)
    with pytest.raises(InputError, match="batch_size 4096 is more than 2 copies of the 1500") as no:
        tell_repeats(1500, 4096, 1, copies=2)
    assert str(no.value).endswith("give 3000 or less")


def test_files_of_other_kinds_in_class_folders_are_counted_and_named(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder()
    for name in ("cat/1.heic", "dog/2.avif", "dog/3.HEIC"):
        (root / name).touch()
    photos(root)
    assert f"(1 .avif, 2 .heic), such as {root}/cat/1.heic; convert" in caplog.text
    caplog.clear()
    ready("predict", images=[str(root / "dog")], in_chans=3)
    assert f"(1 .avif, 1 .heic), such as {root}/dog/2.avif;" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("split", "validation", "unknown split 'validation'; known: train, val, test"),
        ("split_by", "Hash", "unknown split_by 'Hash'; known: hash, position"),
        ("normalize", "None", "unknown normalize 'None'; known: dataset, none"),
        ("on_bad_image", "Skip", "unknown on_bad_image 'Skip'; known: refuse, skip"),
        ("in_chans", 2, r"in_chans 2 is neither 1 \(grey\) nor 3 \(RGB\)"),
        ("batch_size", 2.5, "batch_size 2.5 is not a whole number"),
        ("batch_size", None, "batch_size None is not a number"),
    ],
)
def test_a_word_that_python_would_let_pass_is_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        PlainImageData(**{"patch_size": 4, name: value})
    assert caught.value.arguments == (name,)


def test_a_data_module_survives_pickling() -> None:
    data = pickle.loads(pickle.dumps(vitlit.ImageData(patch_size=4, rotation=3.0)))
    assert type(data) is vitlit.ImageData
    assert data.augmentation.rotation == 3.0
