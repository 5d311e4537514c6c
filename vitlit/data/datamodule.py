"""Images to batches of patches: splits, loaders, and the stages on the model's device.

dataset -> train | val | test -> uint8 (B, C, h, w)
        -> augmentation, resize, normalise (B, C, H, W) -> patches (B, N, C*P*P)
"""

from dataclasses import replace
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from vitlit.augment.pipeline import Augmentation
from vitlit.augment.stages import apply_stages
from vitlit.data.batch import Batch
from vitlit.data.catalog import DatasetName, check_dataset, is_file_set, make_preprocess, source_of
from vitlit.data.csv_labels import find_task, names_of_classes
from vitlit.data.datasets import locate, prepare_data_set
from vitlit.data.leakage import PastTraining, data_identity, split_rule
from vitlit.data.loading import batch_images, check_process_count
from vitlit.data.resident import ResidentPixels
from vitlit.data.shards.places import place_of, place_text
from vitlit.data.split_builder import SPLIT_NAMES, SplitBuilder, SplitName, SplitRule
from vitlit.data.split_loaders import SHUFFLE_SHARDS, SplitLoaders
from vitlit.data.splits import Split
from vitlit.data.stratify import check_fractions, check_shots
from vitlit.errors import check_at_least, check_choice, check_known_names
from vitlit.files import expanded
from vitlit.images.bad_images import OnBadImage
from vitlit.images.framing import Fit, Framing, Interpolation
from vitlit.images.image_store import FileImages
from vitlit.images.preprocess import check_image_size, check_statistics, per_channel
from vitlit.patches import grid_size, pair, patchify
from vitlit.tasks.task import TaskName


# vitlit.ImageData is the same for a Trainer. This one has another name because the parser looks the
# name of a class up in ``vitlit``, and would import Lightning there, which takes seconds.
class PlainImageData(SplitLoaders):
    """Batches of patches from a data set; only the ``test`` stage reads test images.

    Args:
        dataset: digits (shipped with the package), mnist, fashion_mnist, cifar10, cifar100, svhn,
            stl10, eurosat, flowers102, oxford_pets, imagenet, hub:OWNER/NAME (Hugging Face), or
            folder: data_dir has train/ and perhaps val/ and test/ with a folder for each class, or
            the class folders themselves, which are split into three; or shards: tar files of
            images in the layout of WebDataset.
        data_dir: The folder that holds the data set, or that it is downloaded to; with shards also
            a pattern or a URL, such as 'https://host/set/train-{000..099}.tar'.
        labels: With folder: a CSV file in place of class folders, with the columns file (a path
            below data_dir) and class; its images are split into three.
        task: single_label (a class for each image), multi_label (any number of classes: listed in a
            column classes, separated by ; or |, or a column of 0 and 1 for each class) or
            regression (a number); by default as the file of labels shows.
        target: The column of numbers to learn, for regression; by default the one called target.
        image_column: Column of images of a set of the hub; by default the only one there is.
        label_column: Column of classes of a set of the hub; by default the only one there is.
        img_size: Height and width of the model's input in pixels, one number or two, such as 64
            or '[32,48]'; the data set's own by default, 224 for a folder.
        in_chans: 1 for grey, 3 for RGB; the data set's own by default.
        fit: How image files become the model's input: cover scales and crops what is outside,
            squash stretches, letterbox scales and pads with the mean. Published weights that state
            how their images were fitted change the default of this and the next two arguments.
        crop_fraction: Side of the centre crop of the fitted image, as a share of the image's side;
            1 crops nothing.
        interpolation: Resampling of image files: bicubic or bilinear.
        class_names: Names in the order of the labels; by default those of the data set.
        unlabelled: Whether all image files of a folder are used, in any subfolders and without
            classes; set by the command.
        batch_size: Images in a batch of one process. In fit on one GPU, auto uses the largest power
            of two that fits into its memory.
        val_fraction: Share of each class of the training images that is held out for validation, if
            the data set has no validation part; with split_by hash it varies between classes.
        test_fraction: Share of each class held out for testing, if the data set has no test part
            (digits and a folder of class folders); with split_by hash it varies too.
        train_fraction: Share of the training images to use, of each class; 1 uses all.
        shots: Number of training images to use of each class, in place of train_fraction.
        split_seed: Decides which images are held out, and which are used.
        fold: The fold that is the test split, in place of a share: 2/5 is the second of five.
        split_by: How a folder is split: hash uses only the path of each image, so that adding or
            removing images moves no other image to another split (to another fold it can, as folds
            stay equally large); position uses its place among the sorted paths, as earlier versions
            did and as for data sets that never change.
        normalize: dataset subtracts the data set's mean and divides by its standard deviation
            (ImageNet's for a folder); none leaves pixels in [0, 1] and ignores mean and std.
        mean: Mean of each channel, in place of the data set's, for pixels in [0, 1].
        std: Standard deviation of each channel, in place of the data set's.
        invert: Replace pixels p by 1 - p; the mean becomes 1 - mean.
        num_workers: Processes that load batches; by default none for sets in memory, else one for
            each processor that vitlit may use, at most 8, or as many as /dev/shm has room for.
        memory_gb: Image files that fit this many gigabytes when decoded are decoded once, into a
            cache in $VITLIT_CACHE or ~/.cache/vitlit; larger sets are decoded in each epoch.
        on_bad_image: What to do with image files that cannot be read: refuse lists them before
            training, validation or testing starts; skip leaves them out of every split and says
            how many (sets larger than memory_gb are decoded once to find them).
        shuffle_shards: With shards: how many of them an epoch mixes at a time, in an order of its
            own; fewer read the disk or network with fewer jumps.
        download: Download data sets that are missing, all but imagenet.
        split: The split that test and compare score: train, val or test.
        images: Files and folders that predict, explain, probe and anomaly read.
        patch_size: Side of a patch in pixels, from the model.
        patchify: Whether batches hold patches or images, from the model.
        seed: Decides the order and the augmentation of training images.
    """

    trainer: Any = None  # Lightning's

    def __init__(
        self,
        *,
        dataset: DatasetName | str = "digits",
        data_dir: str = "~/.cache/vitlit",
        labels: str | None = None,
        task: TaskName | None = None,
        target: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        img_size: int | list[int] | None = None,
        in_chans: Literal[1, 3] | None = None,
        fit: Fit = "cover",
        crop_fraction: float = 1.0,
        interpolation: Interpolation = "bicubic",
        class_names: list[str] | None = None,
        unlabelled: bool = False,
        batch_size: int | Literal["auto"] = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        train_fraction: float = 1.0,
        shots: int | None = None,
        split_seed: int = 0,
        fold: str | None = None,
        split_by: SplitRule | None = None,
        normalize: Literal["dataset", "none"] = "dataset",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        invert: bool = False,
        num_workers: int | None = None,
        memory_gb: float = 4.0,
        on_bad_image: OnBadImage = "refuse",
        shuffle_shards: int = SHUFFLE_SHARDS,
        download: bool = True,
        split: SplitName = "test",
        images: list[str] | None = None,
        patch_size: int = 16,
        patchify: bool = True,
        seed: int = 0,
        **augmentation: Any,
    ) -> None:
        settings = {**locals(), **augmentation}
        super().__init__()
        known = [*signature(type(self)).parameters, *signature(Augmentation).parameters]
        check_known_names("ImageData", augmentation, known)
        check_choice(SPLIT_NAMES, split=split)
        check_choice(("dataset", "none"), normalize=normalize)
        check_dataset(dataset, labels, image_column, label_column)
        check_fractions(val=val_fraction, test=test_fraction, train=train_fraction)
        check_shots(shots, train_fraction)
        batch_size = settings["batch_size"] = batch_images(batch_size)
        check_at_least(1, shuffle_shards=shuffle_shards)
        check_at_least(0, memory_gb=memory_gb, num_workers=num_workers or 0)
        check_process_count(num_workers or 0)
        # not saved: split and images are of one command, and seed comes from seed_everything
        left_out = ("split", "images", "seed", "augmentation", "self", "__class__")
        self.keep_settings({key: settings[key] for key in settings if key not in left_out})
        source = source_of(dataset)
        self.columns = image_column, label_column
        place: Any = {"download": download, "is_read": images is None, "has_names": class_names}
        home = place_of(data_dir)
        self.dataset, self.data_dir = dataset, _ = locate(dataset, home, self.columns, **place)
        self.img_size = source.size if img_size is None else img_size
        self.in_chans = source.in_chans if in_chans is None else in_chans
        self.labels = None if labels is None else expanded(labels).absolute()
        self.task: TaskName = find_task(task, None if unlabelled else self.labels, target)
        self.class_names = names_of_classes(
            dataset, self.data_dir, self.labels, class_names, self.task, target,
            unlabelled=unlabelled,
        )  # fmt: skip
        self.num_classes = len(self.class_names)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.download = seed, download
        self.split, self.image_paths, self.shuffle_shards = split, images, shuffle_shards
        self.patch_size, self.patchify = patch_size, patchify
        # keep literal: the command line reads the options of Augmentation here
        self.augmentation = Augmentation(seed=seed, num_classes=self.num_classes, **augmentation)
        self.mean = per_channel("mean", list(source.mean) if mean is None else mean, self.in_chans)
        self.std = per_channel("std", list(source.std) if std is None else std, self.in_chans)
        self.preprocess = make_preprocess(
            dataset,
            pair(self.img_size),
            self.mean,
            self.std,
            plain=normalize == "none",
            invert=invert,
            framing=Framing(fit, crop_fraction, interpolation),
        )
        self._check_pixels()
        self._save_what_follows()
        self.splits: dict[str, Split] = {}
        self._record: dict[str, Tensor] = {}
        size, framing = self.preprocess.source_size, self.preprocess.framing
        self.split_builder = SplitBuilder.of(self.hparams, size=size, framing=framing)
        self.resident, self._told = ResidentPixels(), set()
        self._apply_stages = apply_stages

    def keep_settings(self, settings: dict[str, Any]) -> None:
        """Keep the arguments as ``hparams``, which checkpoints hold."""
        self.hparams = settings

    def use_batch_size(self, images: int) -> None:
        """Take another number of images in a batch, before there are any loaders."""
        self.batch_size = self.hparams["batch_size"] = images

    def _check_pixels(self) -> None:
        check_image_size(self.preprocess.img_size)
        grid_size(self.img_size, self.patch_size)
        check_statistics(self.mean, self.std)
        cut = self.augmentation.resized_crop  # which leaves images of the model's size
        self.augmentation.check_size(pair(self.img_size) if cut else self.preprocess.source_size)

    def _save_what_follows(self) -> None:
        """Save what the data set decided, so that predict needs no data set to see images alike."""
        self.hparams.update(
            class_names=self.class_names,
            task=self.task,
            dataset=self.dataset,
            data_dir=place_text(self.data_dir),
            labels=None if self.labels is None else str(self.labels),
            img_size=self.img_size,
            in_chans=self.in_chans,
            # None: no choice, and none that another data set would inherit from a checkpoint
            split_by=split_rule(self.hparams),
        )
        if self.hparams["normalize"] == "dataset":
            self.hparams.update(mean=list(self.mean), std=list(self.std))

    def prepare_data(self) -> None:
        if self.image_paths is None:
            prepare_data_set(self.dataset, self.data_dir, self.columns, download=self.download)

    def setup(self, stage: str) -> None:
        match stage:
            case "fit":
                names: tuple[SplitName, ...] = ("train", "val")
                if self.trainer:
                    self.augmentation = self.augmentation.of_run(
                        self.trainer.max_epochs, self.trainer.max_steps
                    )
            case "validate":
                names = ("val",)
            case "test":
                names = (self.split,)
            case _:
                names = ()
                self.splits["predict"] = self._predict_split()
        missing = [name for name in names if name not in self.splits]  # validate after fit has val
        self.splits |= self.split_builder.splits(missing)
        if stage == "fit":
            self._record = self.split_builder.record()

    def hold_to(self, past: PastTraining) -> None:
        """Before setup: score only what a training held out, and train on none of it."""
        same = data_identity(past.data) == data_identity(self.hparams)
        # it knows images by their files, and sets that come as arrays have none
        known = past.record if is_file_set(self.dataset) else {}
        self.split_builder = replace(self.split_builder, known=known, is_same_place=same)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move all but ``sample``: its draws are computed on the CPU, so nothing waits."""
        return batch.on(device)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        training = self.trainer is not None and self.trainer.training  # False in validation
        batch = self.resident.gather(batch, self.splits.get("train" if training else "val"))
        return self.transform(batch, augment=training)

    def compile_augmentation(self, **options: Any) -> None:
        """Compile the stages of the augmentation; options: those of torch.compile."""
        self._apply_stages = torch.compile(apply_stages, dynamic=False, **options)

    def transform(self, batch: Batch, *, augment: bool) -> Batch:
        """A loader's batch (uint8 images) to a step's batch (float patches or images)."""
        x, y = (
            (self.preprocess(batch.x), batch.y)
            if not augment
            else self.augmentation(
                batch.x,
                batch.y,
                batch.address,
                size=self.preprocess.img_size,
                normalise=self.preprocess.on(batch.x.device),
                cropped=isinstance(self.splits["train"].images, FileImages),
                apply=self._apply_stages,
            )
        )
        batch = batch._replace(x=x, y=y)
        return batch._replace(x=patchify(batch.x, self.patch_size)) if self.patchify else batch
