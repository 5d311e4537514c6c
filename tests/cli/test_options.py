"""The options besides those of model, data and trainer: what they take, and what is usual."""

from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from vitlit.cli.options import add_options, add_predict_options, add_seed, add_test_options
from vitlit.cli.parser_internals import options_of

USUAL = {
    **{"recipe.global_batch": 0, "early_stopping.patience": 0, "early_stopping.min_delta": 0.0},
    **{"ema.decay": 0.0, "pictures.every_n_epochs": 0, "run": None, "nonfinite.skip": 0},
    **{"checkpoints.every_n_steps": 0, "checkpoints.every_minutes": 1.0},
    **{"checkpoints.monitor": None, "timeout_seconds": 300.0, "seed_everything": 0},
    **{"output": "probabilities", "layer": None, "pool": None, "out": None},
}
WORDS = ("run", "out")  # options that take any word


@pytest.fixture
def parser() -> ArgumentParser:
    found = ArgumentParser(exit_on_error=False)
    for add in (add_seed, add_options, add_predict_options):
        add(found)
    return found


def test_nothing_given_is_nothing_unusual(parser: ArgumentParser) -> None:
    found = parser.parse_args([])
    assert {name: found[name] for name in USUAL} == USUAL
    tested = ArgumentParser(exit_on_error=False)
    add_test_options(tested)
    assert tested.parse_args([]).as_dict() == {"flip": False, "out": None}
    assert tested.parse_args(["--flip=true"])["flip"] is True


@pytest.mark.parametrize("name", sorted(set(USUAL) - set(WORDS)))
def test_an_option_refuses_a_word_that_it_does_not_know(name: str, parser: ArgumentParser) -> None:
    with pytest.raises(ArgumentError, match=name):
        parser.parse_args([f"--{name}=nonsense"])


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("checkpoints.every_minutes=1.5", 1.5),
        ("early_stopping.min_delta=0.01", 0.01),
        ("ema.decay=0.5", 0.5),
        ("timeout_seconds=2.5", 2.5),
        ("layer=-1", -1),
        ("pool=avg", "avg"),
        ("output=features", "features"),
        ("checkpoints.monitor=val/loss", "val/loss"),
        ("run=first", "first"),
        ("out=x.csv", "x.csv"),
    ],
)
def test_an_option_takes_what_its_help_says(word: str, value: Any, parser: ArgumentParser) -> None:
    assert parser.parse_args([f"--{word}"])[word.partition("=")[0]] == value


def test_every_option_is_explained(parser: ArgumentParser) -> None:
    tested = ArgumentParser()
    add_test_options(tested)
    options = [*options_of(parser), *options_of(tested)]
    assert len(options) > len(USUAL)
    assert [option.dest for option in options if not option.help] == []
