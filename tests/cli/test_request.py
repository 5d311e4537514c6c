"""What one command line asks for: folders, places of settings, and words about precision."""

from pathlib import Path
from typing import Any

import pytest

from vitlit.cli.configs import CONFIGS_FOLDER
from vitlit.cli.request import Request, name_folder, shown_config
from vitlit.errors import InputError


def test_a_shipped_config_is_shown_by_its_name_and_others_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_config(str(CONFIGS_FOLDER / "digits.yaml")) == "digits.yaml"
    assert shown_config(str(tmp_path / "mine" / "digits.yaml")) == "mine/digits.yaml"
    assert shown_config("--trainer.precision") == "--trainer.precision"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return ["--data.dataset=folder", "--data.data_dir=photos"]


@pytest.mark.parametrize(
    ("rest", "config"),
    [
        ([], ["--config=photos.yaml"]),
        (["--model.pretrained=w.pth"], ["--config=finetune.yaml"]),
        (["--model.pretrained", "w.pth"], ["--config=finetune.yaml"]),
        (["--config=my.yaml"], []),
        (["-c", "my.yaml"], []),
        (["--ckpt_path=a.ckpt"], []),
    ],
    ids=str,
)
def test_a_folder_to_fit_brings_its_recipe(
    rest: list[str], config: list[str], photos: list[str]
) -> None:
    assert name_folder(["fit", "photos", *rest]) == ["fit", *config, *rest, *photos]


def test_a_folder_to_inspect_by_weights_has_no_sizes_of_another_model(photos: list[str]) -> None:
    weights = "--model.pretrained=w.pth"
    found = name_folder(["inspect", "photos", weights])
    assert found == ["inspect", "--config=finetune.yaml", weights, *photos]


@pytest.mark.parametrize("words", [["fit"], ["fit", "--config=a.yaml"], ["test", "photos"], []])
def test_other_words_are_left_as_they_are(words: list[str], photos: list[str]) -> None:
    assert name_folder(words) == words


@pytest.mark.parametrize("option", ["--data.dataset=mnist", "--data.data_dir=other"])
def test_a_folder_to_fit_is_the_only_one(option: str, photos: list[str]) -> None:
    with pytest.raises(InputError, match=f"takes no {option.partition('=')[0]}; leave out one"):
        name_folder(["fit", "photos", option])


def asked(command: str, place: str, precision: str | None = None) -> Request:
    trainer: Any = {"accelerator": "cpu", "precision": precision}
    return Request(command, {command: {"trainer": trainer}}, None, None, None, place)


def test_another_precision_is_offered_where_it_can_be_chosen() -> None:
    assert asked("test", "a.ckpt").precision_hint() == "; --trainer.precision overrides it"
    assert asked("test", "(my).yaml").precision_hint()  # before the option in the alphabet
    assert asked("test", "--trainer.precision").precision_hint() == ""
    assert asked("export", "a.ckpt").precision_hint() == ""


@pytest.mark.parametrize(
    ("command", "place", "reason"),
    [
        ("fit", "a.yaml", "as a.yaml says"),
        ("test", "--trainer.precision", "as --trainer.precision says"),
        ("test", "a.yaml", "as in training"),  # a config describes the training
    ],
)
def test_a_config_is_no_wish_for_the_precision_of_scores(
    command: str, place: str, reason: str
) -> None:
    rule = asked(command, place, "32-true").precision_rule()
    assert rule("bf16-mixed") == ("32-true", reason)
