"""What a teacher gains on few labels, and how soon Muon reaches an accuracy, on the digits.

    python benchmarks/small_data.py teacher --write
    python benchmarks/small_data.py muon --write
    python benchmarks/small_data.py muon --quick       # does it run?

teacher: a plain ViT learns from so many images of each class, alone or with a teacher, in the same
number of steps. The teacher is a ViT with a convolutional stem that has learned from the same
images. The last step is scored once on the test images; a seed decides the weights, the order, and
which images are for testing and for training.

muon: steps until a plain ViT has 95 % of the validation images right, looked at every ten steps, by
optimiser and learning rate. --write replaces a section of small_data.md.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import measure
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from recipe import write_section

from vitlit import ImageData
from vitlit.evaluation.inference import collect, loader_of
from vitlit.training.classifier import Classifier

MODEL: dict[str, Any] = {
    "patch_size": 2,
    "patch_embed": "linear",
    "pos_embed": "sincos2d",
    "global_pool": "avg",
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 2,
    "lr": 5e-3,
    "label_smoothing": 0.1,
}
STEPS = {10: 300, 30: 400}  # of the optimiser, by images of each class
TEACHING: dict[str, dict[str, Any]] = {  # settings of a student, by row
    "no teacher": {},
    "half of the loss": {"teacher_weight": 0.5},
    "0.9, temperature 3": {"teacher_weight": 0.9, "teacher_temperature": 3.0},
    "half, hard": {"teacher_weight": 0.5, "teacher_hard": True},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {  # by row; lr is AdamW's
    "AdamW, lr 0.0025": {"lr": 2.5e-3},
    "AdamW, lr 0.005": {},
    "AdamW, lr 0.01": {"lr": 1e-2},
    "Muon, muon_lr 0.005": {"optimizer": "muon"},
    "Muon, muon_lr 0.01": {"optimizer": "muon", "muon_lr": 1e-2},
    "Muon, muon_lr 0.02": {"optimizer": "muon", "muon_lr": 2e-2},
}
GOAL, LOOK_EVERY, LIMIT = 0.95, 10, 600  # accuracy, and steps


class Reach(Callback):
    """Notes the first step, of those looked at, after which the accuracy is ``GOAL``."""

    step: int | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        done = trainer.global_step
        if done % LOOK_EVERY:
            return
        data, vit = trainer.datamodule, pl_module.vit.eval()
        split = data.splits["val"]
        rows = collect(data, loader_of(data, split), vit.forward, torch.device("cpu")).rows()
        vit.train()
        if (rows.values.argmax(dim=1) == rows.labels).float().mean() >= GOAL:
            self.step, trainer.should_stop = done, True


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


def digits(seed: int, *, stem: bool = False, **changes: Any) -> ImageData:
    own = {"batch_size": 64, "crop_padding": 1, "patch_size": MODEL["patch_size"]}
    return ImageData(**own, split_seed=seed, seed=seed, patchify=not stem, **changes)


def classifier(data: ImageData, seed: int, **changes: Any) -> Classifier:
    pl.seed_everything(seed, verbose=False)
    sizes = {"img_size": data.img_size, "in_chans": data.in_chans, "num_classes": data.num_classes}
    return Classifier(**{**MODEL, **changes}, **sizes, class_names=data.class_names)


def accuracy_of(
    shots: int, steps: int, seed: int, keep: Path | None = None, **settings: Any
) -> float:
    """Accuracy after a training; keep: where to leave its checkpoint."""
    data = digits(seed, stem="patch_embed" in settings, shots=shots)
    model, trainer = classifier(data, seed, warmup_fraction=0.1, **settings), trainer_for(steps)
    trainer.fit(model, data)
    if keep is not None:
        trainer.save_checkpoint(keep)
    return float(trainer.test(model, data, verbose=False)[0]["test/acc"])


def teacher_rows(args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Accuracies by row: for each number of shots those of the seeds."""
    found: dict[str, list[list[float]]] = {
        "the teacher: conv stem": [],
        **{n: [] for n in TEACHING},
    }
    for shots in args.shots:
        steps = args.steps or STEPS[shots]
        scores: dict[str, list[float]] = {name: [] for name in found}
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "teacher.ckpt"
                own = accuracy_of(shots, steps, seed, file, patch_embed="conv_stem")
                scores["the teacher: conv stem"].append(own)
                for name, settings in TEACHING.items():
                    taught = {"teacher": str(file), **settings} if settings else {}
                    scores[name].append(accuracy_of(shots, steps, seed, **taught))
            print(
                shots, seed, {name: round(row[-1], 4) for name, row in scores.items()}, flush=True
            )
        for name, row in scores.items():
            found[name].append(row)
    return found


def muon_rows(args: argparse.Namespace) -> dict[str, list[int | None]]:
    """The step at which each seed reaches the goal, by row; None if it does not."""
    found: dict[str, list[int | None]] = {}
    for name, settings in OPTIMIZERS.items():
        found[name] = []
        for seed in args.seeds:
            data, reach = digits(seed, val_fraction=0.25), Reach()
            given = {"schedule": "constant", "warmup_steps": 20, **settings}
            model = classifier(data, seed, **given)
            trainer_for(args.steps or LIMIT, reach).fit(model, data)
            found[name].append(reach.step)
        print(name, found[name], flush=True)
    return found


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} +- {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def teacher_table(args: argparse.Namespace) -> str:
    rows = [[name, *map(spread, columns)] for name, columns in teacher_rows(args).items()]
    steps = [args.steps or STEPS[shots] for shots in args.shots]
    head = ["", *(f"{n} of each class, {s} steps" for n, s in zip(args.shots, steps, strict=True))]
    lines = [measure.row(head), measure.row(["---"] * len(head)), *map(measure.row, rows)]
    return f"Test accuracy, mean and standard deviation over seeds {args.seeds}.\n\n" + "\n".join(
        lines
    )


def muon_table(args: argparse.Namespace) -> str:
    limit = args.steps or LIMIT
    lines = [measure.row(["optimiser", "steps of each seed", "mean"]), measure.row(["---"] * 3)]
    for name, steps in muon_rows(args).items():
        shown = [f"more than {limit}" if step is None else str(step) for step in steps]
        reached = [step for step in steps if step is not None]
        average = f"{mean(reached):.0f}" if len(reached) == len(steps) else "-"
        lines.append(measure.row([name, ", ".join(shown), average]))
    return (
        f"Steps of 64 images until {GOAL:.0%} of the validation images are right, at a constant "
        f"rate after 20 steps of warmup; seeds {args.seeds}.\n\n" + "\n".join(lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("part", choices=["teacher", "muon"])
    parser.add_argument("--shots", type=int, nargs="+", choices=list(STEPS), default=[10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed, ten steps: does it run?")
    parser.add_argument("--write", action="store_true", help="into small_data.md")
    args = parser.parse_args()
    args.steps = 10 if args.quick else None
    if args.quick:
        if args.write:
            parser.error("--quick is too short to keep; leave it out, or --write")
        args.seeds = args.seeds[:1]
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities|torch.nn")
    table = teacher_table(args) if args.part == "teacher" else muon_table(args)
    device = measure.device_name("cpu", torch.get_num_threads())
    about = f"{datetime.now(UTC).date()}, {device}, {measure.packages()}"
    text = f"{about}\n\n`{measure.command()}`\n\n{table}"
    print(text)
    if args.write:
        title = {"teacher": "a teacher on few labels", "muon": "Muon"}[args.part]
        write_section(Path(__file__).parent / "small_data.md", title, text)


if __name__ == "__main__":
    sys.exit(main())
