"""Accuracy against the number of labels on MNIST: plain, with a teacher, pretrained, and probed.

    python benchmarks/label_counts.py --data-dir DIR --write
    python benchmarks/label_counts.py --data-dir DIR --quick       # does it run?

From so many labelled images of each class a tiny plain ViT learns alone; with a teacher, a ViT with
a convolutional stem that has learned from the same images in as many steps; from the weights that
masked pretraining on all training images leaves; and a linear head alone learns on these weights
(``vitlit probe``). A seed decides the weights, the order, and which images have labels; those of a
smaller number are among those of a larger one. The last step is scored once on the test images.

Scores are kept in few_labels.jsonl as soon as they are there: the same command trains only what is
missing. --write replaces the table in label_counts.md and docs/pictures/label_counts.png.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean, stdev

import kept_scores
from bias_scores import COLOURS, MARKERS
from few_labels import STEM, TASKS, TEST_ALONE, Training, Workplace, workplace
from kept_scores import Score
from recipe_record import write_section

STEPS = {10: 200, 30: 200, 100: 300, 540: 300}  # by labels of each class; 540 are a tenth of all
PRETRAINING = 3000  # steps, as in pretrain.py
TEACHING = {"teacher_weight": 0.9, "teacher_temperature": 3.0}
PROBE = {"c": 1.0}  # not chosen on the validation images: their labels would be many more
NAMES = {
    "plain": "plain ViT",
    "taught": "with a teacher",
    "pretrained": "pretrained",
    "probe": "probe of the pretrained",
    "teacher": "the teacher: conv stem",
}


def trainings(seed: int, labels: int, steps: int, pretraining: int) -> dict[str, Training]:
    """By way, in the order in which they are made."""
    data = {"shots": labels}
    teacher = Training("mnist", seed, steps, data=data, model={"patch_embed": STEM})
    start = Training("mnist", seed, pretraining, goal="patches")
    return {
        "plain": Training("mnist", seed, steps, data=data),
        "pretrained": Training("mnist", seed, steps, data=data, start=start),
        "probe": Training("mnist", seed, 0, data=data, model=PROBE, start=start, goal="probe"),
        "teacher": teacher,
        "taught": Training("mnist", seed, steps, data=data, model=TEACHING, teacher=teacher),
    }


def sweep(args: argparse.Namespace, place: Workplace) -> dict[str, dict[int, list[Score]]]:
    """Scores of the seeds by way and number of labels."""
    found: dict[str, dict[int, list[Score]]] = {name: {} for name in NAMES}
    for seed in args.seeds:
        for labels in args.labels:
            steps, before = (10, 10) if args.quick else (STEPS[labels], PRETRAINING)
            for name, training in trainings(seed, labels, steps, before).items():
                found[name].setdefault(labels, []).append(place.score(training))
    return found


def text_of(found: dict[str, dict[int, list[Score]]], args: argparse.Namespace) -> str:
    counts = list(next(iter(found.values())))
    heads = ["labels of each class", *map(str, counts)]
    steps = ["steps", *("10" if args.quick else str(STEPS[count]) for count in counts)]
    rows = [
        [NAMES[name], *(kept_scores.spread(s.accuracy for s in own[count]) for count in counts)]
        for name, own in found.items()
    ]
    probes = mean(score.seconds for own in found["probe"].values() for score in own)
    return (
        f"{kept_scores.about()}\n\nTest accuracy, mean and standard deviation over seeds "
        f"{args.seeds}; {TASKS['mnist'].data['batch_size']} images in a step; {PRETRAINING} steps "
        f"of pretraining.\n\n{kept_scores.table(heads, [steps, *rows])}\n\nA probe took "
        f"{probes:.0f} seconds of the processor on average: the features of the labelled images "
        f"and of all validation and test images, the fit, and the test of the saved checkpoint."
    )


def draw(found: dict[str, dict[int, list[Score]]], path: Path) -> None:
    """One line for each way: the mean over the seeds, and bars of a standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, own) in enumerate(found.items()):
        scores = [[100 * score.accuracy for score in row] for row in own.values()]
        shift = 1.03 ** (number - 2)  # so that bars stand beside each other
        axes.errorbar(
            [count * shift for count in own],
            [mean(row) for row in scores],
            yerr=[stdev(row) if len(row) > 1 else 0.0 for row in scores],
            label=NAMES[name],
            color="black" if name == "teacher" else COLOURS[number],
            linestyle="--" if name == "teacher" else "-",
            marker=MARKERS[number],
            markersize=5,
            linewidth=1.3,
            capsize=2,
        )
    counts = list(next(iter(found.values())))
    axes.set_xscale("log")
    axes.set_xticks(counts, list(map(str, counts)))
    axes.minorticks_off()
    axes.set(xlabel="labelled images of each class", ylabel="test accuracy, %")
    runs = len(next(iter(found["plain"].values())))
    title = f"MNIST: mean and standard deviation of {runs} trainings"
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = kept_scores.parser(__doc__)
    parser.add_argument("--labels", type=int, nargs="+", choices=list(STEPS), default=list(STEPS))
    args = kept_scores.parsed(parser)
    if args.data_dir is None:
        parser.error("give --data-dir, the folder that holds MNIST/raw")
    if args.split != "test":
        parser.error(TEST_ALONE)
    with workplace(args) as place:
        found = sweep(args, place)
    text = text_of(found, args)
    print(text)
    if args.write:
        here = Path(__file__).parent
        write_section(here / "label_counts.md", "MNIST", text)
        draw(found, here.parent / "docs" / "pictures" / "label_counts.png")


if __name__ == "__main__":
    sys.exit(main())
