"""Trainings of tiny ViTs on few labels.

what decides a training -> a checkpoint -> accuracy on the test images, scored once

pretrain.py, small_data.py and label_counts.py share this.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import pytorch_lightning as pl
from kept_scores import Score, append, read
from pytorch_lightning.callbacks import Callback

from vitlit import ImageData
from vitlit.__main__ import main as vitlit
from vitlit.data.catalog import SOURCES
from vitlit.pretraining.masked_autoencoder import MaskedAutoencoder
from vitlit.training.classifier import Classifier
from vitlit.weights.pretrained import load_weights

STEM = "conv_stem"
TEST_ALONE = "`vitlit probe` scores the test images alone; leave out --split val"


@dataclass(frozen=True)
class Task:
    """A data set, and a plain ViT and its training that suit it."""

    data: dict[str, Any]
    model: dict[str, Any]


COMMON: dict[str, Any] = {
    "patch_embed": "linear",
    "pos_embed": "sincos2d",
    "global_pool": "avg",
    "mlp_ratio": 2,
    "label_smoothing": 0.1,
    "warmup_fraction": 0.1,
}
CIFAR10 = SOURCES["cifar10"]
TASKS = {
    "digits": Task(
        {"batch_size": 64, "crop_padding": 1},
        {"patch_size": 2, "embed_dim": 48, "depth": 3, "num_heads": 3, "lr": 5e-3},
    ),
    "mnist": Task(
        {"dataset": "mnist", "download": False, "batch_size": 64, "crop_padding": 2},
        {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4, "lr": 2e-3},
    ),
    "cifar10": Task(
        {
            "dataset": "folder",
            "img_size": CIFAR10.size,
            "mean": list(CIFAR10.mean),
            "std": list(CIFAR10.std),
            "batch_size": 64,
            "crop_padding": 4,
            "flip": True,
        },
        {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4, "lr": 2e-3},
    ),
}
NAMES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10 (JPEG)"}


@dataclass(frozen=True)
class Training:
    """All that decides a training.

    seed: of the weights and the order; split_seed: of the images held out and used, by default the
    same. data, model: changes to those of the task. teacher, start: the training whose result
    teaches, or whose weights are the first; given stands for the run of --teacher. goal: what is
    learned: labels, the masked patches, or by ``vitlit probe`` a linear head alone.
    """

    task: str
    seed: int
    steps: int
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    teacher: "Training | Literal['given'] | None" = None
    start: "Training | None" = None
    goal: Literal["labels", "patches", "probe"] = "labels"
    split_seed: int | None = None

    def settings(self) -> dict[str, Any]:
        """Of the model, as the Classifier takes them."""
        return COMMON | TASKS[self.task].model | dict(self.model)

    def digest(self, split: str) -> str:
        """Short name of all that decides the training, and what it is scored on."""
        tasks = {name: asdict(task) for name, task in TASKS.items() if name == self.task}
        whole = [asdict(self), tasks, COMMON, split]
        return sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]

    def images(self, data_dir: Path | None, split: str = "test") -> ImageData:
        """The data of the training; scores are of ``split``."""
        place = {} if self.task == "digits" else {"data_dir": str(data_dir)}
        settings, split_seed = self.settings(), self.split_seed
        return ImageData(
            **TASKS[self.task].data | dict(self.data),
            **place,
            patch_size=settings["patch_size"],
            patchify=settings["patch_embed"] != STEM,
            seed=self.seed,
            split_seed=self.seed if split_seed is None else split_seed,
            split=split,
        )

    def module(self, data: ImageData, **changes: Any) -> Classifier | MaskedAutoencoder:
        pl.seed_everything(self.seed, verbose=False)
        settings = self.settings() | changes
        settings |= {"img_size": data.img_size, "in_chans": data.in_chans}
        if self.goal == "patches":
            del settings["label_smoothing"]
            return MaskedAutoencoder(**settings)
        own = {"num_classes": data.num_classes, "class_names": data.class_names}
        return Classifier(**settings, **own)


def trainer_for(steps: int, *callbacks: Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


class Workplace:
    """Makes trainings, and keeps their scores in ``file`` and their checkpoints in ``folder``.

    split: what is scored: test, or val to choose settings by; given: the run of --teacher.
    """

    def __init__(
        self,
        file: Path,
        folder: Path,
        *,
        data_dir: Path | None = None,
        split: str = "test",
        given: Path | None = None,
    ) -> None:
        self.file, self.folder, self.data_dir = file, folder, data_dir
        self.split, self.given = split, given

    @classmethod
    def of(cls, args: argparse.Namespace, folder: Path) -> Self:
        """As the options of :func:`parser` say; a quick run keeps its scores in the folder."""
        file = folder / "scores.jsonl" if args.quick else Path(__file__).with_suffix(".jsonl")
        given = getattr(args, "teacher", None)
        return cls(file, folder, data_dir=args.data_dir, split=args.split, given=given)

    def score(self, training: Training) -> Score:
        """From the file if it is there, else the training is made."""
        digest = training.digest(self.split)
        kept = read(self.file)
        if digest not in kept:
            found = self._probe(training) if training.goal == "probe" else self._fit(training)
            append(
                self.file, {"digest": digest, "split": self.split, "of": asdict(training)}, found
            )
            print(f"{found.accuracy:.4f} {found.seconds:6.0f} s  {brief(training)}", flush=True)
            return found
        return kept[digest]

    def checkpoint(self, training: Training) -> Path:
        """The file of its last step; the training is made if there is no file."""
        path = self.folder / f"{training.digest('')}.ckpt"
        if not path.exists():
            self._train(training)
        return path

    def _train(self, training: Training) -> tuple[ImageData, Any, pl.Trainer, float]:
        data = training.images(self.data_dir, self.split)
        changes: dict[str, Any] = {}
        if training.teacher is not None:
            source = self.given if training.teacher == "given" else None
            changes["teacher"] = str(source or self.checkpoint(training.teacher))  # type: ignore[arg-type]
        start = None if training.start is None else self.checkpoint(training.start)
        began = time.process_time()
        model = training.module(data, **changes, **({"pretrained": str(start)} if start else {}))
        if start is not None:
            model.load_pretrained(load_weights(start))
        trainer = trainer_for(training.steps)
        trainer.fit(model, data)
        path = self.folder / f"{training.digest('')}.ckpt"
        trainer.save_checkpoint(path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        return data, model, trainer, time.process_time() - began

    def _fit(self, training: Training) -> Score:
        data, model, trainer, seconds = self._train(training)
        found = trainer.test(model, data, verbose=False)[0][f"{self.split}/acc"]
        return Score(round(found, 6), len(data.splits["train"]), round(seconds, 1))

    def _probe(self, training: Training) -> Score:
        """By the command, in this process; ``seconds`` are those of all that it does."""
        assert training.start is not None
        if self.split != "test":
            sys.exit(TEST_ALONE)
        start = self.checkpoint(training.start).absolute()
        given = TASKS[training.task].data | dict(training.data)
        given = {name: given[name] for name in given if name not in ("crop_padding", "flip")}
        seed = training.seed if training.split_seed is None else training.split_seed
        shown = {name: v if isinstance(v, str) else json.dumps(v) for name, v in given.items()}
        options = [f"--data.{name}={value}" for name, value in shown.items()]
        options += [f"--data.data_dir={self.data_dir}"] if self.data_dir else []
        options += [f"--data.split_seed={seed}", f"--model.pretrained={start}"]
        options += [f"--{name}={value}" for name, value in training.model.items()]
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            with contextlib.redirect_stdout(io.StringIO()):
                status = vitlit(["probe", *options, "--save=probed", "--out=found"])
            if status:
                sys.exit(f"the probe failed: {brief(training)}")
            metrics = json.loads(Path("found/metrics.json").read_text())
        seconds = round(time.process_time() - began, 1)
        return Score(round(metrics["linear"]["acc"], 6), metrics["train_images"], seconds)


def brief(training: Training) -> str:
    """In a line, for the person who waits."""
    parts = [NAMES[training.task], f"seed {training.seed}", f"{training.steps} steps"]
    parts += [f"{name} {value}" for name, value in {**training.data, **training.model}.items()]
    parts += ["taught"] if training.teacher else []
    parts += ["pretrained"] if training.start else []
    return ", ".join([*parts, *([training.goal] if training.goal != "labels" else [])])


@contextlib.contextmanager
def workplace(args: argparse.Namespace) -> Iterator[Workplace]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        yield Workplace.of(args, folder)
