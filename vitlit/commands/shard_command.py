"""``vitlit shard``: the words of the command, and the folder that they name.

words -> images of each part of a folder -> shards; the lines to print
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vitlit.cli.overview import COMMANDS
from vitlit.data.csv_labels import find_task, labelled_images, names_of_classes
from vitlit.data.image_folder import part_names, part_root, scan_class_folders
from vitlit.data.shards.write_shards import write_shards
from vitlit.errors import InputError, Stopped
from vitlit.files import expanded, relative_path
from vitlit.images.image_store import FileImages
from vitlit.messages import labelled, labelled_command
from vitlit.tasks.known import DEFAULT_TASK

# What the arguments of ImageData are called here, where messages name them.
OWN_WORDS = {
    "give data_dir": "give shard",
    "data_dir": "the folder",
    "on_bad_image skip": "--bad_images skip",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `vitlit shard --help` lists the options")


def make_shard_parser() -> argparse.ArgumentParser:
    """The options of ``vitlit shard``."""
    parser = _Parser(prog="vitlit shard", description=COMMANDS["shard"], allow_abbrev=False)
    parser.add_argument("folder", help="Folder of images, as fit takes it.")
    parser.add_argument(
        "--to",
        required=True,
        metavar="DIR",
        help="Folder to create. If it was left unfinished, the same command goes on.",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="CSV file in place of class folders, with the columns file (a path below the folder) "
        "and class.",
    )
    parser.add_argument(
        "--images", type=int, default=10_000, help="Maximum number of images in a shard."
    )
    parser.add_argument(
        "--megabytes", type=int, default=256, help="Maximum size of a shard in megabytes."
    )
    parser.add_argument(
        "--bad_images",
        default="refuse",
        help="What to do with images that cannot be read: refuse lists them, skip leaves them out.",
    )
    return parser


def run_shard(args: Sequence[str]) -> None:
    """Run ``vitlit shard``. args: the words after it. Raises InputError for wrong ones."""
    asked = make_shard_parser().parse_args(args)
    for name in ("images", "megabytes"):
        if getattr(asked, name) < 1:
            raise InputError(f"--{name} {getattr(asked, name)} is too small; give 1 or more")
    if asked.bad_images not in ("refuse", "skip"):
        raise InputError(f"--bad_images {asked.bad_images!r} is neither refuse nor skip")
    root, to = (expanded(one).absolute() for one in (asked.folder, asked.to))
    if to.is_relative_to(root):
        raise InputError(
            f"{asked.to} is in {asked.folder}, where its folders would be classes; give another "
            f"folder"
        )
    labels = None if asked.labels is None else expanded(asked.labels).absolute()
    try:
        if labels is not None and (task := find_task(None, labels)) != DEFAULT_TASK:
            raise InputError(
                f"{asked.labels} has labels for {task}, and shards hold one class for each image; "
                f"train on the folder itself: `vitlit fit {shlex.quote(asked.folder)} "
                f"--data.labels {shlex.quote(asked.labels)}`"
            )
        names = names_of_classes("folder", root, labels, None)
        done = write_shards(
            _parts(root, labels, names),
            names,
            to,
            max_images=asked.images,
            max_bytes=asked.megabytes * 10**6,
            on_bad_image=asked.bad_images,
        )
    except InputError as error:
        raise InputError(_in_own_words(str(error))) from error
    except Stopped as stop:
        stop.where = "before all shards were written; those that are complete are kept"
        stop.way_on = shlex.join(["vitlit", "shard", *args])
        raise
    sizes = ", ".join(f"{part} {count:,}" for part, count in done.images.items())
    kept = f", of which {done.kept} were there" if done.kept else ""
    print(labelled("images", f"{sum(done.images.values()):,} of {len(names)} classes: {sizes}"))
    print(labelled("shards", f"{done.shards}{kept}, {done.bytes / 1e6:,.0f} MB"))
    print(labelled("wrote", relative_path(to)))
    place = shlex.quote(relative_path(to))
    print(
        labelled_command(
            "train",
            "vitlit fit --config photos.yaml",
            "--data.dataset shards",
            f"--data.data_dir {place}",
        )
    )
    sys.stdout.flush()


def _in_own_words(message: str) -> str:
    """A message about the arguments of ImageData, which this command calls otherwise."""
    for pattern, word in OWN_WORDS.items():
        message = re.sub(f"(?<= ){pattern}(?=[ ;,]|$)", word, message)
    return message


def _parts(root: Path, labels: Path | None, names: list[str]) -> dict[str, tuple[FileImages, Path]]:
    """The image files of each part of a folder, and the folder that its names are relative to."""
    if labels is not None:
        return {"all": (labelled_images(labels, root, names, in_chans=3, size=(1, 1)), root)}
    found = {}
    for part in part_names("folder", root):
        own = part_root(root, part)
        images = scan_class_folders(own, len(names), in_chans=3, size=(1, 1))
        found[part] = images, own
    return found
