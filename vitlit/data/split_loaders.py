"""The splits of a data module and their loaders: one for each split that a command needs.

Split -> loader of Batch, uint8 images (B, C, h, w)
"""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from vitlit.augment.pipeline import Augmentation
from vitlit.data.batch import Batch
from vitlit.data.loading import make_loader
from vitlit.data.resident import ResidentPixels
from vitlit.data.sampler import EvalOrder, TrainOrder
from vitlit.data.shards.shard_images import ShardImages
from vitlit.data.split_builder import SplitBuilder, SplitName
from vitlit.data.splits import CroppedSplit, Split, found_files
from vitlit.data.stratify import tell_repeats
from vitlit.errors import InputError, say
from vitlit.images.image_store import FileImages
from vitlit.images.preprocess import Preprocess

SHUFFLE_SHARDS = 16  # that an epoch mixes at a time, if nobody gives another number


class SplitLoaders:
    """Splits and loaders, under the names that Lightning calls; ImageData sets the attributes.

    split: the name of the split that ``test`` scores; trainer: Lightning's, None outside of it.
    """

    splits: dict[str, Split]
    split: SplitName
    augmentation: Augmentation
    resident: ResidentPixels
    trainer: Any
    batch_size: int
    num_workers: int | None
    seed: int
    shuffle_shards: int
    in_chans: int
    preprocess: Preprocess
    split_builder: SplitBuilder
    image_paths: list[str] | None  # that predict reads
    files: list[str]  # that it found there
    _record: dict[str, Tensor]  # which images are in which split
    _told: set[str]  # notes on loading

    @property
    def place(self) -> dict[str, int]:
        """The rank of this process and the number of processes, as keyword arguments."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return {"rank": rank, "world": world}

    def loader(self, split: Split, order: TrainOrder | EvalOrder) -> DataLoader[Batch]:
        devices = self.trainer.num_devices if self.trainer else 1
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        loader, note = make_loader(
            split, order, asked=self.num_workers, devices=devices, pinned=on_gpu
        )
        if note and note not in self._told:  # training and validation often have the same
            say(note)
            self._told.add(note)
        return loader

    def _eval_loader(self, name: str, limit: int | float = 1.0) -> DataLoader[Batch]:
        """The images of a split, in order. limit: how many batches, or which share, are taken."""
        split = self.splits[name]
        split = self.resident.hold(split, self.trainer) if name == "val" else split
        is_limited = limit != 1 or isinstance(limit, int)  # 1 is one batch, 1.0 all
        how: Any = {"batch_size": self.batch_size, "mixed": is_limited}
        return self.loader(split, EvalOrder(len(split), **how | self.place))

    def train_dataloader(self) -> DataLoader[Batch]:
        split = self.splits["train"]
        if isinstance(split.images, FileImages):
            # files keep their resolution for the crop, so it happens where they are decoded
            split = CroppedSplit(split.images, split.members, self.augmentation)
        split = self.resident.hold(split, self.trainer)
        repeats = self.augmentation.repeats
        how: Any = {"batch_size": self.batch_size, "repeats": repeats, "seed": self.seed}
        if isinstance(split.images, ShardImages):  # neighbours in an epoch are so on the disk too
            how |= {"shards": split.images.shard[split.members], "window": self.shuffle_shards}
        elif self.shuffle_shards != SHUFFLE_SHARDS:
            say(f"shuffle_shards {self.shuffle_shards} has no effect: the images are in no shards")
        order = TrainOrder(len(split), **how | self.place)
        tell_repeats(len(split), self.batch_size, self.place["world"], repeats)
        return self.loader(split, order)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("val", getattr(self.trainer, "limit_val_batches", 1.0))

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader(self.split, getattr(self.trainer, "limit_test_batches", 1.0))

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("predict")

    @property
    def test_count(self) -> int | None:
        """Images held out for ``test``; None if they are a part of their own: it stays unread."""
        kept = self._record.get("test")
        return self.split_builder.test_count() if kept is None else len(kept)

    def state_dict(self) -> dict[str, Any]:
        """Which images were in which split of a training: Lightning puts it into checkpoints."""
        return self._record

    def check_images(self) -> None:
        """Refuse a prediction without images."""
        if not self.image_paths:
            raise InputError("predict needs images; give files or folders", argument="images")

    def _predict_split(self) -> Split:
        self.check_images()
        assert self.image_paths
        about = self.preprocess
        split = found_files(self.image_paths, self.in_chans, about.source_size, about.framing)
        self.files = list(split.images.paths)
        return split
