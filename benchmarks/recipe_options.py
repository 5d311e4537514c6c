"""The options of recipe.py: read, and refused where they could only fail after a training."""

import argparse
from pathlib import Path
from typing import Any

import yaml
from recipe_record import expected

from vitlit.cli.configs import find_config
from vitlit.data.catalog import SOURCES
from vitlit.errors import InputError


def parse_args(title: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=title,
        epilog="Other options, such as --model.depth 6, go to `vitlit fit`.",
    )
    parser.add_argument("config", help="name of a shipped recipe, or a path")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--folder", action="store_true", help="DIR/train/CLASS, DIR/test/CLASS")
    parser.add_argument("--called", metavar="NAME", help="what the tables call the folder's images")
    parser.add_argument("--weights", metavar="NAME", help="what the tables call published weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split-seeds", type=int, nargs="+", help="vary these in place of seeds")
    parser.add_argument("--trained", type=Path, metavar="RUN", help="score this run; train none")
    parser.add_argument("--budget-minutes", type=float, help="as many epochs as fit, each seed")
    parser.add_argument("--verify", action="store_true", help="pass or fail: exit status 0 or 1")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs: does it run?")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs, in a new folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="into recipe.md")
    known, rest = parser.parse_known_args()
    known.rest = [word for word in rest if word != "--"]
    _check(parser, known)
    return known


def _check(parser: argparse.ArgumentParser, known: argparse.Namespace) -> None:
    """Refuse what could only fail after a training."""
    try:
        content = yaml.safe_load(find_config(known.config).read_text())
    except InputError as error:
        parser.error(str(error))
    if "dataset" not in content.get("data", {}):
        parser.error(f"{known.config} is no recipe: it names no data set")
    if "# vitlit pretrain " in find_config(known.config).read_text():
        parser.error(f"{known.config} is for `vitlit pretrain`, which learns no classes to score")
    if known.verify and expected(known.config) is None:
        parser.error(f"{known.config} states no accuracy; there is nothing to verify")
    if known.budget_minutes is not None and known.budget_minutes <= 0:
        parser.error(f"--budget-minutes {known.budget_minutes} is not positive")
    if known.json and not known.json.absolute().parent.is_dir():
        parser.error(f"--json {known.json}: there is no such folder")
    if known.trained and (known.budget_minutes or known.rest or known.quick or known.keep):
        parser.error("--trained trains nothing, and takes no option of a training")
    if known.trained and not (known.trained / "checkpoints" / "last.ckpt").is_file():
        parser.error(f"--trained {known.trained}: there is no checkpoints/last.ckpt")
    if known.write and _is_fine_tuning(content) and not known.weights:
        parser.error(f"{known.config} starts from published weights: --write needs --weights NAME")
    if known.weights and not _is_fine_tuning(content):
        parser.error(f"{known.config} starts from no published weights; leave out --weights")
    if known.called and not known.folder:
        parser.error("--called is for --folder: other data sets have names")
    if known.folder and known.data_dir is None:
        parser.error("--folder needs --data-dir")
    if known.keep and known.keep.exists():
        parser.error(f"{known.keep} exists; give --keep another name")
    if known.quick and (known.write or known.verify):
        parser.error("--quick is too short to keep; leave it out, or --write and --verify")


def _is_fine_tuning(recipe: dict[str, Any]) -> bool:
    return "pretrained" in recipe.get("model", {})


def data_options(args: argparse.Namespace) -> tuple[list[str], str]:
    """Where the images are, for `vitlit fit`, and the data set's name for the table."""
    content = yaml.safe_load(find_config(args.config).read_text())
    source = content["data"]["dataset"]
    options = [f"--data.data_dir={args.data_dir.absolute()}"] if args.data_dir else []
    if not args.folder:
        return options, source
    # of fine-tuning, size, mean and spread are the weights' own
    own = ["--data.dataset=folder"] if _is_fine_tuning(content) else as_files(source)
    return options + own, args.called or f"{source} (files)"


def as_files(source: str) -> list[str]:
    """Options for a data set's images as files."""
    return [f"--data.{name}={value}" for name, value in file_settings(source).items()]


def file_settings(source: str) -> dict[str, Any]:
    """Arguments of ImageData for the same: the set's size, mean and standard deviation."""
    row = SOURCES[source]
    return {
        "dataset": "folder",
        "img_size": row.size,
        "mean": list(row.mean),
        "std": list(row.std),
    }
