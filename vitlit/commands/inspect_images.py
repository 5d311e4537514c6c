"""``inspect``: what is in a data set, before any training; needs neither a model nor Lightning.

words -> Request (as for all commands) -> ImageData -> splits, inventory, findings -> a folder
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitlit.cli.check_settings import check_unused
from vitlit.cli.from_checkpoint import FromCheckpoint
from vitlit.cli.from_weights import FromWeights
from vitlit.cli.options import add_options, add_seed, describe_options
from vitlit.cli.parser import (
    INSTANTIATE_LINKS,
    Parser,
    link_settings,
    new_parser,
    only_safe_settings,
)
from vitlit.cli.request import Request, read_request
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError
from vitlit.evaluation.precision import device_type
from vitlit.fault_tolerance.ending import ending_at_signals
from vitlit.features.probe import extractor
from vitlit.files import named_or_free, new_folder, printable, relative_path
from vitlit.inspection.findings import Findings
from vitlit.inspection.inventory import Inventory, take_inventory
from vitlit.inspection.report import Subject, statistics_words, write_inspection
from vitlit.inspection.training_batch import TrainingBatch, first_batch
from vitlit.messages import labelled
from vitlit.model.features import Feature
from vitlit.training.trainable import TrainableViT

INSPECTION_FOLDER = "inspection"
# The arguments of pl.Trainer, so that the config of a training can be given. All but two have no
# effect here: where to look for runs, and where features are computed.
TRAINER_SETTINGS = (
    "accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks",
    "fast_dev_run", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches",
    "overfit_batches", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
    "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic",
    "benchmark", "inference_mode", "use_distributed_sampler", "profiler", "detect_anomaly",
    "barebones", "plugins", "sync_batchnorm", "reload_dataloaders_every_n_epochs",
    "default_root_dir", "enable_autolog_hparams", "model_registry",
)  # fmt: skip
TRAINER_DEFAULTS = {"accelerator": "auto"}


def make_inspect_parser() -> tuple[Parser, Parser]:
    """The parsers of the program and of the command."""
    parser, own = (new_parser(Parser, prog=prog) for prog in ("vitlit", "vitlit inspect"))
    add_seed(own)
    for name in TRAINER_SETTINGS:
        usual = TRAINER_DEFAULTS.get(name)
        words = "As in fit; only accelerator, default_root_dir and max_epochs have an effect."
        own.add_argument(f"--trainer.{name}", type=Any, default=usual, help=words)
    options: Any = {"fail_untyped": False, "sub_configs": True}
    own.add_class_arguments(TrainableViT, "model", **options)
    own.add_class_arguments(PlainImageData, "data", **options)
    add_options(own)
    link_settings(own, "inspect")
    own.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="Checkpoint whose data settings and splits are inspected.",
    )
    describe_options(own)
    own.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder to create; by default inspection, or inspection-2 and so on. In it, "
        "index.html shows everything.",
    )
    parser.add_subcommands(required=True, dest="subcommand").add_subcommand("inspect", own)
    return parser, own


def run_inspect(args: list[str]) -> None:
    """Run the command; args: ``inspect`` and its options."""
    with only_safe_settings(args), ending_at_signals():
        parser, own = make_inspect_parser()
        _check_data_are_named(args)
        request = read_request("inspect", parser, own, args)
        print(*_inspect(request), sep="\n")
    sys.stdout.flush()


def _check_data_are_named(args: list[str]) -> None:
    """Refuse to look at the default data set, which nobody has asked for."""
    names = [word.partition("=")[0] for word in args[1:]]
    asks = ("--config", "-c", "--ckpt_path", "--run", "--data", "--print_config")
    if args[1:] and (not names[0].startswith("-") or set(names) & set(asks)):
        return
    if not any(name.startswith("--data.") for name in names):
        raise InputError(
            "inspect was given no data; name a folder of images, as in `vitlit inspect PHOTOS`, or "
            "give --config digits.yaml to look at the digits"
        )


def _inspect(request: Request) -> list[str]:
    """Look at the data, and write the folder; returns the lines to print."""
    settings = request.settings
    check_unused(settings)
    folder = named_or_free(settings["out"], INSPECTION_FOLDER)
    given: dict[str, Any] = settings["data"].as_dict()
    if given["images"]:
        raise InputError("inspect looks at a data set; leave out images", argument="images")
    if given["dataset"] == "shards":
        raise InputError(
            "inspect looks at files, and shards are made of parts of files; inspect the folder "
            "that they were written from",
            argument="dataset",
        )
    if request.start is None:  # no model, so none whose patches the images must fit
        given |= {"patch_size": 1, "patchify": False}
    data = PlainImageData(**given)
    data.prepare_data()
    start = request.start
    if isinstance(start, FromCheckpoint):
        data.hold_to(start.past)
    builder = replace(data.split_builder, allow_empty=True)
    inventory = take_inventory(builder.unchecked(builder.names()), data.class_names, data.in_chans)
    if not len(inventory):
        first = inventory.unread[0].file
        raise InputError(
            f"none of the {len(inventory.unread)} images in {data.data_dir} can be read; the first "
            f"is {printable(first.path)} ({first.reason})",
            argument="data_dir",
        )
    features = None
    if isinstance(start, FromWeights):
        features = _features(start, data, settings, inventory)
    found = Findings(inventory, features)
    name = data.data_dir.name if data.dataset == "folder" else data.dataset
    with new_folder(folder) as part:
        subject = Subject(
            title=f"Inspection of {name}",
            of=_about(data, settings),
            preprocess=data.preprocess,
            batch=_training_batch(request, given, bool(inventory.unread)),
        )
        sentences = write_inspection(part, found, subject)
    pairs = zip(inventory.split_names, inventory.sizes(), strict=True)
    sizes = ", ".join(f"{name} {count:,}" for name, count in pairs)
    lines = [labelled("images", f"{len(inventory):,}{found.targets.title()}: {sizes}")]
    if not any(one.level == "act" for one in sentences):
        lines.append(labelled("act on", "nothing; no problems were found"))
    lines += [labelled("act on" if one.level == "act" else "know", one.text) for one in sentences]
    lines.append(labelled("statistics", statistics_words(found, " ")))
    return [*lines, labelled("report", relative_path(folder / "index.html"))]


def _about(data: PlainImageData, settings: Any) -> dict[str, Any]:
    """What was inspected, for the page and inspection.json."""
    height, width = data.preprocess.source_size
    return {
        "data set": data.dataset,
        "folder": str(data.data_dir) if data.dataset == "folder" else None,
        "labels": data.hparams["labels"],
        "compared at": f"{height} x {width} pixels",
        "features": settings["model"]["pretrained"] if settings["model"]["pretrained"] else None,
    }


def _training_batch(
    request: Request, given: dict[str, Any], has_unread: bool
) -> TrainingBatch | str:
    """The first batch of ``fit`` with these settings, or in words why there is none.

    has_unread: whether files cannot be read, which fit refuses; the batch is then that of the
    others.
    """
    how = {"on_bad_image": "skip"} if has_unread else {}
    try:
        data = PlainImageData(**given | how | {"num_workers": 0})
        if isinstance(request.start, FromCheckpoint):
            data.hold_to(request.start.past)
        data.setup("fit")
    except InputError as error:
        return f"fit would refuse this data: {error}"
    return first_batch(data, request.settings["trainer"]["max_epochs"])


def _features(start: FromWeights, data: PlainImageData, settings: Any, own: Inventory) -> Tensor:
    """Features of all images by published weights: float32 ``(n, D)``."""
    # the arguments that follow from the data: nothing is instantiated by the parser
    linked = {
        target.removeprefix("model."): getattr(data, source.removeprefix("data."))
        for target, source in INSTANTIATE_LINKS.items()
    }
    model = TrainableViT(**settings["model"].as_dict() | linked)
    start.fill(model, data)
    kind = device_type(str(settings["trainer"]["accelerator"]))
    device = torch.device(kind)
    vit, feature = model.vit.to(device).eval(), Feature(None, None)
    extract = extractor(lambda x: feature(vit, x), device)
    splits = [split for split in own.splits.values() if len(split)]  # of some no file can be read
    return torch.cat([extract(data, split).values for split in splits])
