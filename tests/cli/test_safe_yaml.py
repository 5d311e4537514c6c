"""YAML that is refused: too long, too deep, bombs, keys set twice, objects; and what is read."""

from pathlib import Path

import pytest
import yaml

from vitlit.cli import safe_yaml
from vitlit.cli.configs import CONFIGS_FOLDER
from vitlit.cli.safe_yaml import parse_yaml, yaml_list
from vitlit.errors import InputError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "expands to more than"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("#" * (safe_yaml.MAX_YAML_BYTES + 1), "characters"),
        ("model: {depth: 3, lr: 1, depth: 4}", "line 1: depth is set twice"),
        ("model:\n  depth: 3\nmodel:\n  lr: 1", "line 3: model is set twice"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("a: [", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("a: 0x_", "is not YAML"),
        ("a: 0b_", "is not YAML"),
        ("a: " + "1" * 5000, "is not YAML"),
        ("a: !!timestamp 2024-02-30", "is not YAML"),
    ],
)
def test_hostile_or_mistaken_text_is_refused(text: str, part: str) -> None:
    with pytest.raises(InputError, match=f"^here.* {part}|^here, {part}"):
        safe_yaml.parse_yaml(text, "here")


@pytest.mark.parametrize("path", sorted(CONFIGS_FOLDER.rglob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_read_as_with_plain_yaml(path: Path) -> None:
    assert safe_yaml.read_yaml(path) == yaml.safe_load(path.read_text())


def test_a_few_aliases_are_fine() -> None:
    found = safe_yaml.parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}", "here")
    assert found == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["2024-02-30", "2024-02-03", "2024-02-03 10:00:00"])
def test_a_date_stays_text(text: str) -> None:
    assert safe_yaml.parse_yaml(f"run: {text}", "here") == {"run": text}


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # a hole: reading it would take the memory of the machine
    with pytest.raises(InputError, match=r"long\.yaml has .* bytes"):
        safe_yaml.read_yaml(file)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"a: \xff\xfe")
    with pytest.raises(InputError, match="not text in UTF-8"):
        safe_yaml.read_yaml(file)


def test_values_are_nested_as_deep_as_is_said() -> None:
    safe_yaml.parse_yaml("[" * 51 + "]" * 51, "here")
    with pytest.raises(InputError, match="nested more than 50 deep"):
        safe_yaml.parse_yaml("[" * 52 + "]" * 52, "here")


def test_values_are_as_many_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_yaml, "MAX_NODES", 10)
    safe_yaml.parse_yaml("[a, a, a, a, a, a, a, a, a]", "here")  # nine, and the list itself
    with pytest.raises(InputError, match="expands to more than 10 values"):
        safe_yaml.parse_yaml("[a, a, a, a, a, a, a, a, a, a]", "here")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a", "b c", 'with "quotes"', "back\\slash", "line\nbreak", "\x00\x1b"],
        ["grün", "tri 🎉", "\U0010ffff", "[a]", "{b: c}", "\\ud83c\\udf89"],
    ],
)
def test_a_list_of_texts_is_read_as_it_was(words: list[str]) -> None:
    text = yaml_list(words)
    assert "\n" not in text
    assert parse_yaml(text, "there") == words
