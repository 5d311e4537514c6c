"""Settings in YAML, read safely: no code, no bombs, no value that hides another.

text, at most 1 MB -> checked nodes -> mappings, lists and plain values
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from vitlit.errors import InputError

MAX_YAML_BYTES = 1_000_000  # of a file; the longest shipped config has 2,000
MAX_NODES, MAX_DEPTH = 100_000, 50  # values, counted with every alias replaced by its content
TIMESTAMP = "tag:yaml.org,2002:timestamp"


def _loader() -> Any:
    """PyYAML's safe loader, which leaves a date as text, as jsonargparse does."""
    plain: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rules = {
        first: [rule for rule in some if rule[0] != TIMESTAMP]
        for first, some in plain.yaml_implicit_resolvers.items()
    }
    return type("Loader", (plain,), {"yaml_implicit_resolvers": rules})


YAML_LOADER = _loader()


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises InputError if it is too large or not safe YAML."""
    size = path.stat().st_size
    if size > MAX_YAML_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes; a configuration has at most {MAX_YAML_BYTES:,}"
        )
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not YAML: it is not text in UTF-8") from error


def parse_yaml(text: str, where: str) -> Any:
    """The content of YAML text. Raises InputError if it is not safe YAML.

    where: the file or option that it comes from, for messages.
    """
    try:
        check_yaml(text, where)
        return yaml.load(text, Loader=YAML_LOADER)  # a SafeLoader: no tag makes an object
    except InputError:
        raise
    # PyYAML passes on the ValueError of a number such as 0x_, or one with too many digits
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def flat_values(content: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, with dotted names; an empty mapping is a value."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_yaml(text: str, where: str) -> None:
    """Refuse text that is too long, expands to too much, or sets one key twice."""
    if len(text) > MAX_YAML_BYTES:
        raise InputError(
            f"{where} has {len(text):,} characters; YAML here has at most {MAX_YAML_BYTES:,}"
        )
    # compose keeps aliases as references to one node, so an alias bomb is still small here.
    node = yaml.compose(text, Loader=YAML_LOADER)
    if node is not None and _count_values(node, where, {}, 0) > MAX_NODES:
        raise InputError(f"{where} expands to more than {MAX_NODES:,} values; use fewer aliases")


def _count_values(node: yaml.Node, where: str, known: dict[int, int], depth: int) -> int:
    """Number of values in a node and below it, with aliases expanded.

    known: the counts so far by id of the node, so that each node is visited once, however many
    aliases name it.
    """
    if id(node) in known:
        if known[id(node)] == 0:
            raise InputError(f"{where} contains itself, by an alias; write the values out")
        return known[id(node)]
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} deep; a configuration never is")
    known[id(node)] = 0  # a mark: it is being visited, and must not come up below itself
    total, children = 1, []
    if isinstance(node, yaml.MappingNode):
        _check_unique_keys(node, where)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        total += _count_values(child, where, known, depth + 1)
    known[id(node)] = total
    return total


def _check_unique_keys(node: yaml.MappingNode, where: str) -> None:
    # YAML forbids equal keys, but PyYAML keeps only the last: a setting would be lost.
    seen: set[str] = set()
    for key, _ in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name in seen:
            line = key.start_mark.line + 1
            raise InputError(f"{where}, line {line}: {name} is set twice; keep one of them")
        if name is not None:
            seen.add(name)


def yaml_list(words: Sequence[str]) -> str:
    """A list of texts in YAML, on one line.

    As JSON writes it, but characters beyond U+FFFF as they are: JSON has two escapes for each, and
    YAML takes these for two characters.
    """
    quoted = ("".join(c if c > "\uffff" else json.dumps(c)[1:-1] for c in word) for word in words)
    return "[" + ", ".join(f'"{word}"' for word in quoted) + "]"
