"""Messages and small transformations of the argument parser."""

import pytest

from vitlit.cli.parser import LINKED, join_lists, plain_message, refuse_linked
from vitlit.errors import InputError


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["predict", "--data.images", "a", "b c"], ["predict", '--data.images=["a", "b c"]']),
        (["--data.images", "a", "--out", "x"], ["--out", "x", '--data.images=["a"]']),
        (["--data.images", "a", "--data.images=b"], ['--data.images=["a", "b"]']),
        (["fit", "--model.depth", "3"], ["fit", "--model.depth", "3"]),
        (["--data.images=[a]", "--x"], ["--data.images=[a]", "--x"]),
    ],
)
def test_words_after_a_list_option_become_one(args: list[str], expected: list[str]) -> None:
    assert join_lists(args) == expected


@pytest.mark.parametrize("key", sorted(LINKED))
def test_setting_what_follows_from_something_else_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"sets {key}, which follows from {LINKED[key]}"):
        refuse_linked([key], "a.yaml")


def test_a_wrong_type_names_key_value_and_type() -> None:
    message = "Parser key \"model.depth\":\n  Expected a <class 'int'>. Got value: abc"
    assert plain_message(message, []) == "model.depth abc is not valid; expected a whole number"


def test_a_wrong_choice_names_the_choices_and_the_nearest() -> None:
    message = (
        'Parser key "model.pos_embed":\n  '
        "Expected a typing.Literal['learn', 'none']. Got value: learned"
    )
    assert plain_message(message, []) == (
        "model.pos_embed learned is not valid; expected one of learn, none; did you mean learn?"
    )


def test_a_union_lists_each_type_once() -> None:
    message = (
        'Parser key "data.mean":\n  Does not validate against any of the Union subtypes\n'
        "  Subtypes: [list[float], <class 'NoneType'>]\n  Errors:\n"
        "    - Expected a <class 'list'>\n    - Expected a <class 'NoneType'>\n"
        "  Given value type: <class 'str'>\n  Given value: 3"
    )
    assert plain_message(message, []) == "data.mean 3 is not valid; expected a list or null"


@pytest.mark.parametrize(
    "message",
    [
        "Subcommand 'fit' does not accept option 'model.dept'",
        "unrecognized arguments: --model.dept 3",
    ],
)
def test_an_unknown_option_brings_the_nearest(message: str) -> None:
    known = ["model.depth", "model.lr"]
    assert plain_message(message, known) == "unknown option model.dept; did you mean model.depth?"


def test_any_other_message_is_put_on_one_line() -> None:
    assert plain_message("first\n   second", []) == "first second"
