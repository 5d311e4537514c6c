"""What a teacher, a probe and structured initialisation gain on few labels.

    python benchmarks/small_data.py teacher_digits --write
    python benchmarks/small_data.py teacher_mnist --data-dir DIR --write
    python benchmarks/small_data.py teacher_same_digits --write
    python benchmarks/small_data.py teacher_same_mnist --data-dir DIR --write
    python benchmarks/small_data.py teacher_plain --write
    python benchmarks/small_data.py teacher_cifar10 --data-dir DIR --teacher RUN --write
    python benchmarks/small_data.py init --data-dir DIR --write
    python benchmarks/small_data.py probe --write
    python benchmarks/small_data.py init --quick               # does it run?

teacher_digits: a plain ViT, its attention initialised structured, learns from ten digits of each
class, alone or with a teacher, in the same number of steps: few with MixUp, and many with MixUp and
CutMix. The teacher is a ViT with a convolutional stem that has learned from all training digits.
Mixing and steps were chosen with seed 100 on validation images.

teacher_mnist: the same with larger patches and Muon, from a tenth of MNIST's labels. The teacher
has learned from all training images; the temperature hardly matters (3, 10 and 20 were tried with
seed 100 on validation images).

teacher_same_digits, teacher_same_mnist: the same, but the teacher has learned from the images of
its student, and nothing is mixed. Of the digits, weight and temperature were chosen with seed 100
on validation images.

teacher_plain: the same on the digits with the usual start, fewer steps and three kinds of teaching.
(label_counts.py does this on MNIST.)

teacher_cifar10: the same on a folder of CIFAR-10 as JPEGs; the teacher is RUN, which was trained by
`vitlit fit --config cifar10_cpu.yaml` on that folder, with split_seed 0. A seed decides the weights
and the order; the images held out are the teacher's.

init: a plain ViT with learned positions, its attention initialised as usual or structured, on all
digits and on a tenth of MNIST's labels.

probe: `vitlit probe --save` on so many digits of each class, on the features of a ViT of a
published shape and random weights, and of one that masked pretraining made.

The last step is scored once on the test images; --split val scores the validation images instead,
to choose settings by (not those of probe). Scores are kept in few_labels.jsonl as soon as they are
there: the same command trains only what is missing. --write replaces a section of small_data.md.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import kept_scores
from few_labels import STEM, TASKS, TEST_ALONE, Training, Workplace, workplace
from kept_scores import Score
from recipe_record import write_section

Rows = dict[str, dict[str, Training]]  # trainings of a seed by row and column

DIGITS_STEPS = 300
LONG, PATIENT = 2454, 3000  # steps
MIXED: dict[str, Any] = {"mixup": 0.8, "cutmix": 1.0}
MUON: dict[str, Any] = {"optimizer": "muon", "muon_lr": 0.01}
CIFAR_STEPS = 500
SOFT: dict[str, Any] = {"teacher_weight": 0.9, "teacher_temperature": 3.0}
TEACHING: dict[str, dict[str, Any]] = {
    "half of the loss": {"teacher_weight": 0.5},
    "0.9, temperature 3": SOFT,
    "half, hard": {"teacher_weight": 0.5, "teacher_hard": True},
}
LEARNED = {"pos_embed": "learn"}
STRUCTURED: dict[str, Any] = LEARNED | {"attention_init": "structured"}
TEACHER_ALONE: dict[str, Any] = {"teacher_weight": 1.0, "teacher_temperature": 2.0}
# Its labels are not smoothed, which would leave fewer differences between wrong classes to learn
# from (Müller et al., 2019, section 4).
GOOD_TEACHER: dict[str, Any] = MUON | {
    "patch_embed": STEM,
    "stem_convs": 2,
    "stem_norm": "batch",
    "embed_dim": 32,
    "depth": 1,
    "lr": 2e-3,
    "label_smoothing": 0.0,
}
TEACHER_NAME, NOT_MIXED = "weight 1, temperature 2", "no teacher, nothing mixed"
INIT_STEPS = {"digits": 600, "mnist": 300}
PRETRAINING = 2000  # steps
TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4}


def teacher_digits(seed: int, quick: bool) -> Rows:
    columns = [
        Training("digits", seed, 10 if quick else steps, data={"shots": 10} | mix, model=STRUCTURED)
        for steps, mix in ((600, {"mixup": 0.8}), (PATIENT, MIXED))
    ]
    teacher = Training("digits", seed, 10 if quick else 600, model={"patch_embed": STEM})
    rows: Rows = {}
    for alone, mix in zip(columns, ("MixUp", "MixUp, CutMix"), strict=True):
        images = f"10 of each class, {mix}"
        found = alone_and_taught(alone, images, TEACHER_NAME, TEACHER_ALONE, teacher)
        column = next(iter(found["no teacher"]))
        found[NOT_MIXED] = {column: replace(alone, data={"shots": 10})}
        for row, cells in found.items():
            rows.setdefault(row, {}).update(cells)
    return rows


def teacher_mnist(seed: int, quick: bool) -> Rows:
    alone = Training(
        "mnist",
        seed,
        10 if quick else 4 * PATIENT,
        data=MIXED | {"train_fraction": 0.1},
        model=STRUCTURED | MUON | {"patch_size": 7, "embed_dim": 48, "depth": 3, "num_heads": 3},
    )
    teacher = Training("mnist", 0, 10 if quick else 4000, model=GOOD_TEACHER, split_seed=0)
    name, teaching = "weight 1, temperature 10", TEACHER_ALONE | {"teacher_temperature": 10.0}
    rows = alone_and_taught(alone, "a tenth, MixUp, CutMix", name, teaching, teacher)
    column = next(iter(rows["no teacher"]))
    plain = replace(alone, data={"train_fraction": 0.1})
    return rows | {NOT_MIXED: {column: plain}}


def teacher_same_digits(seed: int, quick: bool) -> Rows:
    alone = Training("digits", seed, 10 if quick else 600, data={"shots": 10}, model=STRUCTURED)
    return alone_and_taught(alone, "10 of each class", TEACHER_NAME, TEACHER_ALONE)


def teacher_same_mnist(seed: int, quick: bool) -> Rows:
    steps = 10 if quick else LONG  # as many as without a teacher in pretrain.py
    alone = Training("mnist", seed, steps, data={"train_fraction": 0.1})
    return alone_and_taught(alone, "a tenth", "weight 0.9, temperature 3", SOFT)


def alone_and_taught(
    alone: Training,
    images: str,
    name: str,
    teaching: dict[str, Any],
    teacher: Training | None = None,
) -> Rows:
    """A student without and with a teacher, by default of the same images and steps.

    images, name: the images and the teaching, in words.
    """
    teacher = teacher or replace(alone, model={"patch_embed": STEM})
    taught = replace(alone, model=dict(alone.model) | teaching, teacher=teacher)
    rows = {"the teacher: conv stem": teacher, "no teacher": alone, name: taught}
    return {row: {f"{images}, {alone.steps} steps": one} for row, one in rows.items()}


def teacher_plain(seed: int, quick: bool) -> Rows:
    steps, data, column = 10 if quick else DIGITS_STEPS, {"shots": 10}, "10 of each class"
    teacher = Training("digits", seed, steps, data=data, model={"patch_embed": STEM})
    rows: Rows = {
        "the teacher: conv stem": {column: teacher},
        "no teacher": {column: Training("digits", seed, steps, data=data)},
    }
    for name, model in TEACHING.items():
        taught = Training("digits", seed, steps, data=data, model=model, teacher=teacher)
        rows[name] = {column: taught}
    return rows


def teacher_cifar10(seed: int, quick: bool) -> Rows:
    steps = 10 if quick else CIFAR_STEPS
    column = f"all training images, {steps} steps"
    return {
        name: {column: Training("cifar10", seed, steps, model=model, teacher=by, split_seed=0)}
        for name, model, by in (
            ("no teacher", {}, None),
            ("weight 0.9, temperature 3", SOFT, "given"),
        )
    }


def init(seed: int, quick: bool) -> Rows:
    columns = {"digits": ("digits, all", {}), "mnist": ("MNIST, a tenth", {"train_fraction": 0.1})}
    return {
        kind: {
            f"{title}, {INIT_STEPS[task]} steps": Training(
                task,
                seed,
                10 if quick else INIT_STEPS[task],
                data=data,
                model=LEARNED | {"attention_init": kind},
            )
            for task, (title, data) in columns.items()
        }
        for kind in ("xavier", "structured")
    }


def probe(seed: int, quick: bool) -> Rows:
    """Rows by the weights; no training but that of the pretraining."""
    masked = Training("digits", seed, 10 if quick else PRETRAINING, goal="patches")
    large = {"img_size": 224}
    untrained = Training("digits", seed, 0, data=large, model=TINY)
    starts = {
        "ViT-Ti/16 at 224 pixels, random weights": (untrained, large),
        f"{PRETRAINING} steps of masked pretraining, at 8 pixels": (masked, {}),
    }
    return {
        name: {
            f"{shots} of each class": Training(
                "digits", seed, 0, data=size | {"shots": shots}, start=start, goal="probe"
            )
            for shots in (10, 30)
        }
        for name, (start, size) in starts.items()
    }


PARTS: dict[str, tuple[str, Callable[[int, bool], Rows]]] = {
    "teacher_digits": ("a teacher that knows all digits", teacher_digits),
    "teacher_mnist": ("a teacher that knows all of MNIST", teacher_mnist),
    "teacher_same_digits": ("a teacher on the digits", teacher_same_digits),
    "teacher_same_mnist": ("a teacher on a tenth of MNIST", teacher_same_mnist),
    "teacher_plain": ("a teacher on the digits, usual start", teacher_plain),
    "teacher_cifar10": ("a teacher on CIFAR-10 (JPEG)", teacher_cifar10),
    "init": ("structured initialisation", init),
    "probe": ("a probe of the digits", probe),
}


def table(args: argparse.Namespace, place: Workplace) -> str:
    """Mean and standard deviation over the seeds; each seed is finished before the next."""
    scores: dict[str, dict[str, dict[str, Score]]] = {}  # by digest: a teacher may be one for all
    for seed in args.seeds:
        for row, columns in PARTS[args.part][1](seed, args.quick).items():
            for column, training in columns.items():
                found = scores.setdefault(row, {}).setdefault(column, {})
                found[training.digest(place.split)] = place.score(training)
    heads = list(next(iter(scores.values())))
    lines = [
        [row, *(cell(args.part, list(own[head].values())) for head in heads)]
        for row, own in scores.items()
    ]
    return kept_scores.table(["", *heads], lines)


def cell(part: str, scores: list[Score]) -> str:
    """Of a probe with the seconds, since there is nothing else that it costs."""
    spread = kept_scores.spread(score.accuracy for score in scores)
    seconds = mean(score.seconds for score in scores)
    return f"{spread}, {seconds:.0f} s" if part == "probe" else spread


def main() -> None:
    parser = kept_scores.parser(__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="of teacher_cifar10")
    args = kept_scores.parsed(parser)
    if (
        args.part in ("teacher_mnist", "teacher_same_mnist", "teacher_cifar10", "init")
        and args.data_dir is None
    ):
        parser.error("give --data-dir, the folder that holds MNIST/raw, train and test")
    if (args.part == "teacher_cifar10") != (args.teacher is not None):
        parser.error("teacher_cifar10, and no other part, takes --teacher, the run of a model")
    if args.part == "probe" and args.split != "test":
        parser.error(TEST_ALONE)
    with workplace(args) as place:
        found = table(args, place)
    title = PARTS[args.part][0]
    batches = f"{TASKS['digits'].data['batch_size']} images in a step"
    more = {
        "teacher_plain": f"{DIGITS_STEPS} steps; {batches}",
        "probe": "seconds of the processor for all that the command does, on 1,797 images",
    }
    text = (
        f"{kept_scores.about()}\n\nTest accuracy, mean and standard deviation over seeds "
        f"{args.seeds}; {more.get(args.part, batches)}.\n\n{found}"
    )
    print(text)
    if args.write:
        write_section(Path(__file__).with_suffix(".md"), title, text)


if __name__ == "__main__":
    sys.exit(main())
