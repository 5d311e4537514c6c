"""Every shipped configuration parses and runs two steps, on small data of the same layout."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from small_sets import trust_small_files, write_all

from vitlit.__main__ import main
from vitlit.cli.configs import CONFIGS_FOLDER, shipped_configs
from vitlit.cli.from_weights import ASK_USER
from vitlit.commands.fit_callbacks import Guards
from vitlit.data.catalog import SOURCES
from vitlit.model.vit import ViT

OVERLAYS = {
    "ddp.yaml",
    "debug.yaml",
    *(name for name in shipped_configs() if name.startswith("vit_")),
}
RECIPES = [name for name in shipped_configs() if name not in OVERLAYS]
LARGE = {"reference/cifar100_vit_b16_384.yaml", "vit_h14.yaml", "vit_l16.yaml"}
OWN_PHOTOS = {"finetune.yaml"}  # tests/test_finetuning.py
PRETRAINING = {"pretrain.yaml", "digits_pretrain.yaml"}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def with_large_ones_slow(names: set[str]) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
        for name in sorted(names)
    ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_all(root)
    return root


@pytest.fixture(autouse=True)
def _trust(monkeypatch: pytest.MonkeyPatch) -> None:
    trust_small_files(monkeypatch)


@pytest.mark.parametrize("name", with_large_ones_slow(set(RECIPES) - OWN_PHOTOS))
def test_a_recipe_runs_two_steps(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [f"--data.data_dir={data_dir}", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    args += ["--data.memory_gb=0.1", "--data.batch_size=2", *QUIET]
    if ASK_USER in (CONFIGS_FOLDER / name).read_text():
        # weights of this size would take long; theirs decide the width
        args += ["--model.pretrained=null", "--model.embed_dim=48", "--model.num_heads=3"]
    command = "pretrain" if name in PRETRAINING else "fit"
    assert main([command, "--config", name, "--config", "debug.yaml", *args]) == 0
    [file] = tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("name", with_large_ones_slow(OVERLAYS - {"debug.yaml"}))
def test_an_overlay_runs_two_steps_on_top_of_a_recipe(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [f"--data.data_dir={data_dir}", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    args += ["--data.batch_size=2"]
    args += ["--trainer.enable_checkpointing=false"]  # up to half a gigabyte
    trained: list[tuple[Trainer, ViT]] = []
    fit = Guards.fit

    def note_and_fit(self: Guards, trainer: Trainer, **kwargs: Any) -> None:
        trained.append((trainer, kwargs["model"].vit))
        fit(self, trainer, **kwargs)

    monkeypatch.setattr(Guards, "fit", note_and_fit)
    configs = ["--config", "cifar10.yaml", "--config", name, "--config", "debug.yaml"]
    assert main(["fit", *configs, *args, *QUIET]) == 0
    [(trainer, model)] = trained
    assert trainer.global_step == 2
    overlay = yaml.safe_load((CONFIGS_FOLDER / name).read_text())
    expected = overlay.get("model", {}) | {"depth": 2}  # as debug.yaml, the last, says
    expected |= {"img_size": overlay["data"]["img_size"]} if "data" in overlay else {}
    assert {key: model.config[key] for key in expected} == expected
    assert isinstance(trainer.strategy, DDPStrategy) == (name == "ddp.yaml")
    if isinstance(trainer.strategy, DDPStrategy):
        assert trainer.strategy._ddp_kwargs["gradient_as_bucket_view"]


@pytest.mark.parametrize("name", shipped_configs())
def test_the_header_says_what_to_type_and_recipes_what_to_expect(name: str) -> None:
    text = (CONFIGS_FOLDER / name).read_text()
    command = re.search(r"^# vitlit ((?:fit|pretrain) .*)$", text, re.MULTILINE)
    assert command
    assert name in command[1]
    if name in RECIPES:
        stated = r"test/acc 0\.\d{4}( \+- 0\.\d{4})? \(.+\)"
        for_own = name in ("photos.yaml", "finetune.yaml", "pretrain.yaml")
        expected = "depends on your images" if for_own else f"(not measured|{stated})"
        assert re.search(f"^# expected: {expected}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_its_own_global_batch(name: str) -> None:
    content = yaml.safe_load((CONFIGS_FOLDER / name).read_text())
    devices = 8 if name == "imagenet.yaml" else 1  # as its first line says
    accumulated = content["trainer"].get("accumulate_grad_batches", 1)
    own = content["data"]["batch_size"] * accumulated * devices
    assert content["recipe"] == {"global_batch": own}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("reference/")])
def test_a_reference_separates_what_it_states_from_what_was_chosen_here(name: str) -> None:
    text = (CONFIGS_FOLDER / name).read_text()
    assert "\n# from the reference:" in text
    assert "\n# chosen here:" in text


def test_every_published_data_set_has_a_recipe() -> None:
    assert {f"{name}.yaml" for name in SOURCES if name not in ("folder", "shards")} <= set(RECIPES)
