"""Settings in YAML, read safely: no code, no bombs, no value that hides another.

text, at most 1 MB -> checked nodes -> mappings, lists and plain values
"""

from pathlib import Path
from typing import Any

import yaml

from vitlit.errors import InputError

MAX_YAML_BYTES = 1_000_000  # bytes of a file; the longest config that is shipped has 2,000
MAX_NODES, MAX_DEPTH = 100_000, 50  # values once aliases are replaced by what they stand for
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds."""
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
    """What YAML text holds.

    where: the file or option that it comes from, for messages.
    """
    try:
        check_yaml(text, where)
        return yaml.load(text, Loader=YAML_LOADER)  # a SafeLoader: no tag makes an object
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def check_yaml(text: str, where: str) -> None:
    """Refuse text that is too long, expands to too much, or sets one key twice."""
    if len(text) > MAX_YAML_BYTES:
        raise InputError(
            f"{where} has {len(text):,} characters; YAML here has at most {MAX_YAML_BYTES:,}"
        )
    node = yaml.compose(text, Loader=YAML_LOADER)
    if node is not None and _count_values(node, where, {}, 0) > MAX_NODES:
        raise InputError(f"{where} expands to more than {MAX_NODES:,} values; use fewer aliases")


def _count_values(node: yaml.Node, where: str, known: dict[int, int], depth: int) -> int:
    """Values in a node and below; each node is visited once, however many aliases name it."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise InputError(f"{where} contains itself, by an alias; write the values out")
        return known[id(node)]
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} deep; a configuration never is")
    known[id(node)] = 0  # for now: it is being visited
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
    seen: set[str] = set()
    for key, _ in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name in seen:
            line = key.start_mark.line + 1
            raise InputError(f"{where}, line {line}: {name} is set twice; keep one of them")
        if name is not None:
            seen.add(name)
