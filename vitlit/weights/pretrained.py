"""Loads published and own weights as the state and the arguments of a ViT.

path | folder | name on the hub | best | last -> Weights(state, arguments, mean, std, ...)

Reads timm, Hugging Face, Google (.npz), torchvision and own checkpoints, recognised by content.
``ViT(**weights.arguments)`` with ``weights.state`` computes what the source computed.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.data.image_folder import find_class_names
from vitlit.data.leakage import PastTraining, with_split_rule
from vitlit.data.split_record import record_of
from vitlit.errors import InputError
from vitlit.files import CHECKPOINTS_FOLDER, expanded
from vitlit.images.framing import Framing
from vitlit.model.arguments import MAP_ARGUMENTS
from vitlit.model.vit import ViT
from vitlit.tasks.known import make_task
from vitlit.weights import checkpoint
from vitlit.weights.architecture import check_finite_weights, check_weights, infer_arguments
from vitlit.weights.config_values import Facts, known_class_names
from vitlit.weights.file_reader import (
    CONFIG_NAME,
    WEIGHT_ENDINGS,
    WEIGHT_NAMES,
    download_weights,
    read_weight_file,
    sha256_of,
    unwrap,
)
from vitlit.weights.key_mapping import PERCEPTION_ENCODER, Translated, renamed, translate_keys
from vitlit.weights.model_config import TASK_SETTINGS, folder_facts, metadata_facts
from vitlit.weights.notes import format_statistics
from vitlit.weights.reshaping import Rotary, joined, rearrange_rotary
from vitlit.weights.weight_formats import TIMM_RULES

OWN_CHECKPOINT_KEY = re.compile(r"vit\.patch_embed\.")  # in a state dict, for any patch embedding


class Weights(NamedTuple):
    """Weights of any source.

    state: float32 tensors by ViT's names, complete for ``arguments``; they may be views of the
    file. arguments: of ViT's constructor. mean, std: per channel, of pixels in [0, 1].
    class_names: in the order of the head. The last three are None if the source does not tell
    them. notes: what was assumed or dropped. invert: whether pixels p are turned into 1 - p; as in
    ImageData, ``mean`` is that of the pixels before inversion. past: the training of an own
    checkpoint, None for others. framing: how images were fitted, None if the source does not tell.
    file: that the weights were read from. task: settings that say what the outputs mean, if any.
    rotary: the layout that rotary positions had in a file of another program, if it had any.
    """

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: list[str] | None
    notes: list[str]
    invert: bool = False
    past: PastTraining | None = None
    framing: Framing | None = None
    file: Path | None = None
    task: Mapping[str, Any] = MappingProxyType({})
    rotary: Rotary | None = None


def load_weights(
    source: str | Path, given: dict[str, Any] | None = None, known: Facts | None = None
) -> Weights:
    """The weights that ``source`` names, in any known format.

    source: a file; the folder of a model (config.json beside model.safetensors or
    pytorch_model.bin) or of a run; a name on the Hugging Face hub, ``owner/model`` or
    ``owner/model@revision``; or ``best`` or ``last`` as for checkpoints. given: arguments of ViT
    (img_size, num_heads, norm_eps, act) to use if the source does not tell them. known: what
    stands in place of a config.json. Raises InputError if the source cannot be read, is of another
    architecture, or holds NaN.
    """
    file, folder = locate_weights(str(source))
    weights = _read_source(file, folder, str(source), given or {}, known)
    check_finite_weights(weights.state, str(source))
    return weights._replace(file=file)


def _read_source(
    file: Path, folder: Path | None, source: str, given: dict[str, Any], known: Facts | None
) -> Weights:
    content = read_weight_file(file)
    # own checkpoints and own exports first: they tell all that published weights leave open
    if is_own(content.parts):
        return _from_checkpoint(file)
    tensors, notes = unwrap(content.parts, file)
    if facts := metadata_facts(content.metadata):
        # timm has no bias of the patches before a norm, and other names in its Eva
        tensors = joined(renamed(tensors, TIMM_RULES))
        check_weights(tensors, facts.arguments, source)
        told = (facts.mean, facts.std, facts.class_names)
        return Weights(tensors, facts.arguments, *told, [], framing=facts.framing, task=facts.task)
    facts = known or (Facts({}) if folder is None else folder_facts(folder))
    return _from_published(translate_keys(tensors, source), facts, given, source, notes)


def class_names_of(weights: Weights) -> list[str]:
    """The class names of the weights, else ImageNet's for 1,000 classes, else numbers."""
    count = weights.arguments["num_classes"]
    if weights.class_names is None and count == 1000:
        return find_class_names("imagenet", Path())
    return weights.class_names or [str(label) for label in range(count)]


def locate_weights(source: str) -> tuple[Path, Path | None]:
    """The file of the weights and, if it belongs to a model's folder, the folder.

    Raises InputError if there is none, or ``source`` is an address.
    """
    if "://" in source:
        raise InputError(f"{source} is a URL; download the file and give its path")
    path = expanded(source)
    if path.is_file():
        is_model = path.name in WEIGHT_NAMES and (path.parent / CONFIG_NAME).is_file()
        return path, path.parent if is_model else None
    if source in ("best", "last"):
        return checkpoint.resolve_checkpoint(source), None
    folder = path if path.is_dir() else download_weights(source)
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name, folder
    is_run = (folder / CHECKPOINTS_FOLDER).is_dir() or any(folder.glob("*.ckpt*"))
    # folder == path: what came from the hub is never a run, whatever it holds
    if folder == path and is_run and not (folder / CONFIG_NAME).is_file():
        return checkpoint.resolve_checkpoint(source), None
    others = sorted(file.name for file in folder.iterdir() if file.suffix in WEIGHT_ENDINGS)
    way = f"give a file in it, such as {others[0]}" if others else "give a file or another folder"
    raise InputError(
        f"{source} has no {' and no '.join(WEIGHT_NAMES)}, and is not a run, which has "
        f"checkpoints/best.ckpt; {way}"
    )


def is_own(parts: dict[str, Any]) -> bool:
    """Whether a file's parts are a checkpoint of vitlit, and not of another Lightning project."""
    state = parts.get("state_dict")
    is_lightning = checkpoint.MODEL_KEY in parts and checkpoint.DATA_KEY in parts
    if not (is_lightning and isinstance(state, dict)):
        return False
    return checkpoint.BASE_KEY in parts or any(map(OWN_CHECKPOINT_KEY.match, state))


def _from_checkpoint(file: Path) -> Weights:
    content = read_whole_checkpoint(file)
    settings = content[checkpoint.MODEL_KEY]
    known = inspect.signature(ViT).parameters
    # a model made in Python keeps only those that it was given
    arguments = {name: settings.get(name, one.default) for name, one in known.items()}
    tensors, _ = unwrap({"state_dict": content["state_dict"]}, file)
    own = [name for name in tensors if name.startswith("vit.")]
    state = {name.removeprefix("vit."): tensors[name] for name in own}
    check_weights(state, arguments, str(file))
    state = make_task(settings).self_contained(state)
    left = [name for name in tensors if name.startswith("decoder.")]
    notes = ["the decoder and the mask token of the pretraining dropped"] if left else []
    data = PlainImageData(**content[checkpoint.DATA_KEY])  # for its preprocessing; reads no image
    mean, std = data.preprocess.mean, data.preprocess.std
    count = arguments["num_classes"]  # of a head; one made in Python may have any
    names = list(data.class_names) if count and len(data.class_names) == count else None
    if data.preprocess.invert:  # Preprocess has the mean of the inverted pixels
        mean = tuple(1 - value for value in mean)
    past = PastTraining(with_split_rule(content[checkpoint.DATA_KEY]), record_of(content))
    invert, framing = data.preprocess.invert, data.preprocess.framing
    task = {name: settings[name] for name in TASK_SETTINGS if name in settings}
    return Weights(state, arguments, mean, std, names, notes, invert, past, framing, task=task)


def complete_states(content: dict[str, Any], path: Path | None) -> None:
    """Add the weights that a checkpoint leaves to the file which its training started from.

    content: of the checkpoint at ``path``, changed in place. Raises InputError if the file is
    missing or holds other weights.
    """
    record = content.get(checkpoint.BASE_KEY)
    states = [content[name] for name in checkpoint.STATES if name in content]
    if record is None or all(f"vit.{name}" in states[0] for name in record["unchanged"]):
        return
    file = _find_base(record, path)
    weights = load_weights(file, record["given"], _base_facts(record))
    base = {f"vit.{name}": weights.state[name] for name in record["unchanged"]}
    for state in states:
        state.update(base)


def _base_facts(record: dict[str, Any]) -> Facts | None:
    """The settings of the weights of a :func:`.checkpoint.base_record`; None for older records."""
    if "rotary" not in record:
        return None
    rotary = record["rotary"]
    return Facts(record["given"], rotary=None if rotary is None else Rotary(*rotary))


def _find_base(record: dict[str, Any], path: Path | None) -> Path:
    """The file of a :func:`base_record`: where it was, beside the checkpoint, or on the hub."""
    whose = "the checkpoint" if path is None else str(path)
    file = Path(record["file"])
    places = [file] if path is None else [file, path.parent / file.name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        try:
            found, _ = locate_weights(record["source"])
        except InputError as error:
            raise InputError(
                f"{whose} holds adapters for the weights {file}, which are missing; put the file "
                f"back, or beside the checkpoint"
            ) from error
    if sha256_of(found) != record["sha256"]:
        raise InputError(
            f"{whose} holds adapters for other weights than {found} holds now; put the file with "
            f"the SHA-256 {record['sha256'][:16]}… back, or beside the checkpoint"
        )
    return found


def read_whole_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as :func:`read_checkpoint` reads it, its adapters merged into its base weights.

    Raises InputError too if the base weights are missing, or are others.
    """
    content = checkpoint.read_checkpoint(path)
    complete_states(content, path)
    checkpoint.merge_states(content)
    return content


def _from_published(
    translated: Translated, facts: Facts, given: dict[str, Any], source: str, notes: list[str]
) -> Weights:
    """Complete published weights: from shapes, settings, the user's words, then the format."""
    state, kind = translated.state, translated.format
    notes = notes + translated.notes
    # what names and shapes tell goes before what the settings say, which may be of another file
    told = facts.arguments | translated.told
    _check_rope(translated.untold_rope, facts, source)
    inferred = infer_arguments(state, told, given, kind, source, notes)
    for name, usual in (("norm_eps", kind.norm_eps), ("act", kind.act)):
        if name not in told and name not in given:
            notes.append(f"{name} {usual} assumed, as {kind.name}'s models have")
        told.setdefault(name, given.get(name, usual))
    arguments = told | inferred  # shapes go before words
    if arguments["global_pool"] != "map":  # of an architecture, whose weights pool otherwise
        arguments = {name: v for name, v in arguments.items() if name not in MAP_ARGUMENTS}
    if rotary := translated.rotary or facts.rotary:
        rearrange_rotary(state, arguments["num_heads"], rotary)
    check_weights(state, arguments, source)
    channels, classes = arguments["in_chans"], arguments["num_classes"]
    # settings may hold three numbers though the weights were adapted to one channel
    mean, std = _of_length(channels, facts.mean), _of_length(channels, facts.std)
    if mean is None or std is None:
        mean, std = _of_length(channels, kind.mean), _of_length(channels, kind.std)
        if mean is not None and std is not None:
            notes.append(f"{format_statistics(mean, std)} assumed, as for {kind.name}'s models")
    about = (arguments, mean, std, known_class_names(facts, classes, notes), notes)
    return Weights(state, *about, framing=facts.framing, task=facts.task, rotary=rotary)


def _check_rope(family: str | None, facts: Facts, source: str) -> None:
    """Refuse weights of a family with rotary positions that neither names nor settings tell."""
    # settings of another model with a Perception Encoder's names need not speak of rotary positions
    is_other = family == PERCEPTION_ENCODER and facts.arguments
    if family is not None and "rope" not in facts.arguments and not is_other:
        raise InputError(
            f"{source} has the names of {family}, but names do not show its rotary positions; "
            f"give the folder of the model, whose config.json describes them"
        )


def _of_length(count: int, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The values if there are ``count`` of them, else None."""
    return values if values is not None and len(values) == count else None
