"""The options of ``inspect`` are those of ``fit``, whatever a config sets."""

import inspect
from pathlib import Path

import pytest
import pytorch_lightning as pl

from vitlit.__main__ import main
from vitlit.cli.configs import shipped_configs
from vitlit.commands.inspect_images import TRAINER_SETTINGS, make_inspect_parser


def test_it_takes_every_setting_of_the_trainer() -> None:
    assert set(TRAINER_SETTINGS) == {*inspect.signature(pl.Trainer).parameters}


@pytest.mark.parametrize("config", ["cifar10.yaml", "finetune.yaml"])
def test_it_takes_the_config_of_a_training(config: str) -> None:
    assert config in shipped_configs()
    parser, _ = make_inspect_parser()
    settings = parser.parse_args(["inspect", "--config", config, "--trainer.devices=2"]).inspect
    assert settings.trainer.devices == 2
    assert settings.trainer.max_epochs is not None


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--data.dataset folder --data.data_dir none", ["no folder", "none", "--data.data_dir"]),
        ("--data.images a.png --model.patch_size 4", ["leave out images", "--data.images"]),
        ("--data.dataset digits --out there", ["there exists", "--out"]),
        ("", ["inspect was given no data; name a folder of images"]),
        ("--out there", ["inspect was given no data"]),
        ("photos --data.dataset mnist", ["looks at that folder, so it takes no --data.dataset"]),
        ("broken --data.img_size 16", ["none of the 8 images", "broken", "empty"]),
    ],
)
def test_mistakes_get_one_sentence(
    words: str,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "photos/a", "photos/b", "broken/a", "broken/b"):
        Path(folder).mkdir(parents=True)
    for name in "ab":
        for number in range(4):
            Path("broken", name, f"{number}.png").touch()
    assert main(["inspect", *words.split()]) == 2
    error = capsys.readouterr().err.rpartition("vitlit: ")[2]
    assert [part for part in parts if part not in error] == []
    assert len(error.splitlines()) == 1
    assert not Path("inspection").exists()
