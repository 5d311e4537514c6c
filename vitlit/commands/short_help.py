"""The help of each command on one screen, made from the parser into help.json.

parser of a command -> ten options, two examples

Reading the file takes no time, making a parser seconds. After a change of an option or its words:
``python -m vitlit.commands.short_help``.
"""

import argparse
import json
import re
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningCLI

from vitlit.cli.overview import COMMANDS, HELP_FILE
from vitlit.cli.parser_internals import options_of
from vitlit.commands.inspect_images import make_inspect_parser
from vitlit.commands.runs import list_runs
from vitlit.commands.shard_command import make_shard_parser
from vitlit.commands.trainer import Trainer
from vitlit.commands.without_lightning import OWN_PARAMETERS, make_parser

COMMON = "data.batch_size trainer.accelerator trainer.precision"
MODEL = "ckpt_path model.pretrained"
OPTIONS = {  # the options that most people need
    "fit": "config data.dataset data.data_dir data.batch_size model.pretrained model.lr "
    "trainer.max_epochs trainer.accelerator run ckpt_path",
    "inspect": "config ckpt_path model.pretrained data.dataset data.data_dir data.labels "
    "data.img_size data.batch_size out",
    "pretrain": "config data.dataset data.data_dir data.batch_size model.mask_ratio model.lr "
    "trainer.max_epochs trainer.accelerator run ckpt_path",
    "validate": f"{MODEL} run data.dataset data.data_dir data.num_workers {COMMON}",
    "test": f"{MODEL} run data.split data.data_dir flip out {COMMON}",
    "compare": f"data.split data.data_dir data.num_workers flip {COMMON}",
    "predict": f"{MODEL} run data.images out output top_k abstain_below"
    " data.batch_size trainer.accelerator",
    "probe": f"{MODEL} data.dataset data.data_dir data.images k c query save out",
    "anomaly": f"{MODEL} normal data.images good bank layer count out trainer.accelerator",
    "explain": f"{MODEL} run data.images data.data_dir count fusion out trainer.accelerator",
    "export": f"{MODEL} run format naming preprocess push out",
    "shard": "to labels images megabytes bad_images",
    "runs": "sort csv",
}
EXAMPLES = {
    "fit": ("fit --config digits.yaml", "fit PHOTOS --model.pretrained timm/vit_small_patch16_224"),
    "inspect": ("inspect PHOTOS", "inspect PHOTOS --model.pretrained WEIGHTS --out report"),
    "pretrain": ("pretrain --config digits_pretrain.yaml", "pretrain PHOTOS --run photos"),
    "validate": ("validate --ckpt_path best", "validate --ckpt_path lightning_logs/RUN"),
    "test": ("test --ckpt_path best", "test --ckpt_path best --flip true --out report"),
    "compare": ("compare A.ckpt B.ckpt", "compare A.ckpt B.ckpt --data.split val"),
    "predict": (
        "predict --ckpt_path best --data.images PHOTOS",
        "predict --ckpt_path best --data.images a.jpg b.jpg --output features",
    ),
    "probe": (
        "probe --ckpt_path best --data.dataset digits",
        "probe --ckpt_path best --data.images PHOTOS --query a.jpg",
    ),
    "anomaly": (
        "anomaly --normal GOOD --data.images NEW --ckpt_path best",
        "anomaly --normal GOOD --data.images NEW --model.pretrained WEIGHTS",
    ),
    "explain": ("explain --ckpt_path best", "explain --ckpt_path best --data.images a.jpg"),
    "export": (
        "export --ckpt_path best --format onnx",
        "export --ckpt_path best --format web --out page",
    ),
    "shard": ("shard PHOTOS --to SHARDS", "shard PHOTOS --labels labels.csv --to SHARDS"),
    "runs": ("runs --sort score", "runs other/lightning_logs --csv runs.csv"),
}


def short_help(command: str) -> str:
    """The help of a command: what it does, its most used options, examples."""
    options = {one.dest: one for one in command_options(command)}
    lines = [textwrap.fill(f"vitlit {command}: {COMMANDS[command]}", 80), ""]
    for name in OPTIONS[command].split():
        lines.append(f"  --{name}{_default(options[name])}")
        about = " ".join(str(options[name].help).split())
        sentence = re.split(r"(?<=[.])\s", about)[0].rstrip(".")
        lines.append(textwrap.indent(textwrap.fill(sentence, 72), " " * 6))
    lines += ["", "examples:", *(f"  vitlit {words}" for words in EXAMPLES[command])]
    return "\n".join([*lines, "", f"`vitlit {command} --help all` lists every option"])


def command_options(command: str) -> list[argparse.Action]:
    """Every option of a command, as its parser has them."""
    return options_of(_parser_of(command))


def _parser_of(command: str) -> argparse.ArgumentParser:
    if command == "runs":
        return list_runs.make_parser()
    if command == "shard":
        return make_shard_parser()
    if command == "inspect":
        return make_inspect_parser()[1]
    skip = LightningCLI.subcommands().get(command, OWN_PARAMETERS)
    return make_parser(command, Trainer, skip)[1]


def _default(option: Any) -> str:
    # those of the parser's own actions, such as --config, are marks and no values
    is_value = isinstance(option.default, str | int | float) and "==" not in str(option.default)
    return f"  (default: {option.default})" if is_value else ""


def all_help() -> dict[str, str]:
    """The help of all commands, as help.json holds it."""
    return {command: short_help(command) for command in COMMANDS}


if __name__ == "__main__":
    text = json.dumps(all_help(), indent=1, ensure_ascii=False) + "\n"
    Path(str(files("vitlit.cli") / HELP_FILE)).write_text(text, encoding="utf-8")
