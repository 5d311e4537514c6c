"""The argument parser: bare config names, linked values, and errors in one sentence.

words of the command line -> words that jsonargparse understands -> settings
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    get_loader,
    set_loader,
    set_parsing_settings,
)
from yaml import YAMLError

from vitlit.cli import safe_yaml
from vitlit.cli.advice import TRUST_OPTION, TRUSTED_PACKAGES, plain_message
from vitlit.cli.configs import find_config
from vitlit.cli.parser_internals import options_of
from vitlit.errors import InputError

# Each fact has one source: target -> (source, function that computes the target, or None). Those
# below are known once the words are parsed; those of INSTANTIATE_LINKS once the data exist.
PARSE_LINKS: dict[str, tuple[str, Any]] = {
    "data.patch_size": ("model.patch_size", None),
    "data.patchify": ("model.patch_embed", lambda kind: kind == "linear"),
    "data.seed": ("seed_everything", None),
}
COMMAND_LINK = "data.unlabelled"  # follows from the command
INSTANTIATE_LINKS = {
    "model.num_classes": "data.num_classes",
    "model.in_chans": "data.in_chans",
    "model.img_size": "data.img_size",
    "model.class_names": "data.class_names",
    "model.task": "data.task",
}
LINKED = {target: source for target, (source, _) in PARSE_LINKS.items()} | INSTANTIATE_LINKS
LINKED |= {COMMAND_LINK: "the command"}
# Options that take all words up to the next option; jsonargparse takes a list as one word only.
LIST_OPTIONS = ("--data.images", "--query", "--others", "--normal")
SETTING_GROUPS = ("data", "model", "trainer", "checkpoints", "early_stopping", "ema", "pictures")


ParserKind = TypeVar("ParserKind", bound="Parser")


def link_settings(parser: ArgumentParser, command: str) -> None:
    """Tell the parser of a command which values follow from which others."""
    unlabelled = command == "pretrain"
    parser.link_arguments("seed_everything", COMMAND_LINK, compute_fn=lambda _: unlabelled)
    for target, (source, compute) in PARSE_LINKS.items():
        parser.link_arguments(source, target, compute_fn=compute)
    for target, source in INSTANTIATE_LINKS.items():
        if unlabelled and target in ("model.num_classes", "model.class_names", "model.task"):
            continue  # it has none
        parser.link_arguments(source, target, apply_on="instantiate")


def refuse_linked(keys: Iterable[str], where: str) -> None:
    """Refuse to set a linked value: jsonargparse would ignore it without a word."""
    for key in keys:
        if key in LINKED:
            raise InputError(
                f"{where} sets {key}, which follows from {LINKED[key]}; leave {key} out"
            )


def flat_keys(content: Any, prefix: str = "") -> list[str]:
    """Dotted names of all values in nested mappings."""
    if not isinstance(content, dict):
        return [prefix]
    start = f"{prefix}." if prefix else ""
    return [key for name in content for key in flat_keys(content[name], f"{start}{name}")]


def keys_of(args: list[str]) -> list[str]:
    """Dotted names that a command line sets, also inside ``--data '{patch_size: 4}'``."""
    found: list[str] = []
    # Values come as --name=value or as the next word.
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if not name.startswith("--"):
            continue
        key, value = name.removeprefix("--"), value if equals else following
        found += flat_keys(_read_mapping(value, key), key) if key in SETTING_GROUPS else [key]
    return found


def _read_mapping(text: str, option: str) -> Any:
    """A mapping written on the command line, or in a file named there."""
    try:
        is_file = Path(text).is_file()
    except OSError:  # a mapping that is too long for a file name
        is_file = False
    return safe_yaml.read_yaml(Path(text)) if is_file else safe_yaml.parse_yaml(text, f"--{option}")


def join_lists(args: list[str]) -> list[str]:
    """Join ``--data.images a b`` into the one word ``--data.images=["a", "b"]``.

    An option that is given twice collects the words of both.
    """
    others: list[str] = []
    words: dict[str, list[str]] = {}
    current: str | None = None
    for arg in args:
        name, equals, value = arg.partition("=")
        if name in LIST_OPTIONS and not value.startswith("["):  # not a list in YAML already
            current = name
            words.setdefault(name, []).extend([value] if equals else [])
        elif arg.startswith("-") or current is None:
            current = None
            others.append(arg)
        else:
            words[current].append(arg)
    return others + [f"{name}={safe_yaml.yaml_list(found)}" for name, found in words.items()]


def name_checkpoints(args: list[str]) -> list[str]:
    """Turn ``compare A B C`` into options: the first is --ckpt_path, the rest are --others."""
    if args[:1] != ["compare"]:
        return args
    names = list(takewhile(lambda word: not word.startswith("-"), args[1:]))
    rest = args[1 + len(names) :]
    first = [f"--ckpt_path={names[0]}"] if names else []
    others = [f"--others={safe_yaml.yaml_list(names[1:])}"] if names[1:] else []
    return ["compare", *first, *others, *rest]


@contextmanager
def only_safe_settings(args: list[str]) -> Iterator[None]:
    """Within it, configs are plain YAML and may name only classes of trusted packages.

    ``--allow_classes_of`` in ``args`` adds packages. jsonargparse keeps these settings globally, so
    they are restored on leaving.
    """
    added = _packages(args)
    plain: Callable[[str], Any] = get_loader("yaml")

    # In front of jsonargparse's loader: all YAML passes here, also that of options.
    def load(text: str) -> Any:
        safe_yaml.check_yaml(text, "a setting")
        return plain(text)

    set_loader("yaml", load, (YAMLError,))
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],  # the allow list is an exception to it
        import_path_allowlist=[*TRUSTED_PACKAGES, *added],
    )
    try:
        yield
    finally:
        set_loader("yaml", plain, (YAMLError,))
        set_parsing_settings(
            import_path_denylist=[name for name in added if name not in TRUSTED_PACKAGES]
        )


def _packages(args: list[str]) -> list[str]:
    found: list[str] = []
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name == f"--{TRUST_OPTION}":
            found += (value if equals else following).split(",")
    for name in found:
        # Dotted identifiers only: "*" would allow everything.
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise InputError(
                f"{TRUST_OPTION} {name!r} is not a package; give a name such as my_callbacks"
            )
    return found


class ConfigFile(ActionConfigFile):
    """``--config``: a path, or the bare name of a file shipped in the package."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        path = find_config(value)
        content = safe_yaml.read_yaml(path)
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise InputError(f"{path} is not a configuration: it holds no named values")
        if "config" in content:
            raise InputError(
                f"{path} names another config; give each of them with a --config of its own"
            )
        # Else a config from elsewhere could trust itself.
        if content.get(TRUST_OPTION):
            raise InputError(
                f"{path} sets {TRUST_OPTION}, which only the command line may; leave it out"
            )
        for group in SETTING_GROUPS:
            if group in content and not isinstance(content[group], dict):
                raise InputError(f"{path}: {group} {content[group]} is not a group of settings")
        refuse_linked(flat_keys(content), str(path))
        ActionConfigFile.apply_config(parser, cfg, dest, str(path))


class Parser(ArgumentParser):
    """Raises errors as one sentence; argparse would print a page of usage first and exit."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        source = getattr(ex, "subcommand_parser", None) or self  # whose options were mistyped
        known = [action.dest for action in options_of(source)]
        raise InputError(plain_message(message, known)) from ex


def new_parser(kind: Callable[..., ParserKind], **kwargs: Any) -> ParserKind:
    """A parser with the option --config."""
    # Abbreviations would change their meaning whenever an option is added.
    parser = kind(allow_abbrev=False, **kwargs)
    parser.add_argument(
        "-c",
        "--config",
        action=ConfigFile,
        help="YAML file, or the name of a shipped one; later files override earlier ones.",
    )
    return parser
