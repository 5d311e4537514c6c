"""The scripts for a GPU: limits, what they keep, tables; all parts are tried on a CPU."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gpu
import gpu_parts
import gpu_recipe
import gpu_step
import pytest
import torch
from processes import environment
from recipe_record import accuracies
from torch import Tensor

from vitlit.model.vit import ViT
from vitlit.training.compiling import COMPILER, GPU_OPTIONS, MODES

BENCHMARKS = Path(gpu.__file__).parent
FAKE_PART = """
import json, pathlib, sys, time
name, out = sys.argv[1], pathlib.Path(sys.argv[3])
out.write_text(json.dumps({"first": 1.5}))
if name == "step":
    raise SystemExit("no such thing")
if name == "device":
    time.sleep(60)
"""


def test_a_part_past_its_limit_or_with_an_error_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu_parts.py").write_text(FAKE_PART)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "LIMITS", {"device": 0.1, "step": 10, "peers": 10})
    monkeypatch.setattr(gpu, "SHORTEST", 0)
    assert not gpu.measure_parts(["device", "step", "peers"], True, 1, tmp_path / "out")
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert [part["status"] for part in parts.values()] == ["ended after 1 s", "exit 1", "done"]
    assert [part["figures"] for part in parts.values()] == [{"first": 1.5}] * 3
    assert "no such thing" in parts["step"]["words"]


def test_the_parts_fit_into_ten_minutes() -> None:
    assert sum(gpu.LIMITS.values()) <= 9.5 * 60


def test_a_table_has_every_part_and_says_what_was_not_measured() -> None:
    figures = {"images/s": 80123.4, "same": True, "ms": 1.23456, "top": ["a|b", "c"]}
    part = {"status": "ended after 9 s", "seconds": 9, "figures": figures}
    text = gpu.tables({"head": "today", "parts": {"step": part}})
    assert text.count(gpu.UNMEASURED) == len(gpu.TITLES) - 1
    assert "Incomplete: ended after 9 s." in text
    for line in ("| images/s | 80,123 |", "| same | yes |", "| ms | 1.235 |", "| top | a/b<br>c |"):
        assert line in text


def test_the_table_says_so_until_it_is_measured() -> None:
    text = (BENCHMARKS / "gpu.md").read_text()
    assert text == gpu.tables(None) or gpu.UNMEASURED not in text


@pytest.mark.parametrize(
    ("seconds", "start_up", "epoch", "expected"),
    [(100, 13, 2, 40), (100, 13, 100, 0), (10, 20, 1, 0)],  # 93 s are planned
)
def test_epochs_follow_from_the_budget(
    seconds: float, start_up: float, epoch: float, expected: int
) -> None:
    assert gpu_recipe.epochs_that_fit(seconds, start_up, epoch) == expected


def test_the_notice_of_the_mode_that_finds_waits_is_not_counted_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_mode(mode: str) -> None:
        warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all "
            "synchronizing operations",
            stacklevel=2,
        )

    monkeypatch.setattr(gpu_parts, "ON_GPU", True)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    figures = gpu_parts.Figures(tmp_path / "figures.json")
    with gpu_parts.counted_waits(figures, "step"):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert figures.found["step: waits for the device"] == 1
    assert figures.found["step: where"][0].startswith("test_gpu_benchmark.py:")


def test_a_step_in_mixed_precision_casts_the_weights_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the classifier does where that saves launches."""
    cast: list[ViT] = []

    def forward(model: ViT, x: Tensor, dtype: torch.dtype) -> Tensor:
        cast.append(model)
        return model(x)

    monkeypatch.setattr(gpu_step, "forward_with_cast_weights", forward)
    step = gpu_step.Step(small=True)
    step.backward()
    assert not cast
    monkeypatch.setattr(gpu_step, "saves_launches", lambda x: True)
    step.backward()
    assert cast == [step.vit]


@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_compiled_with_the_options_of_a_training(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    step = gpu_step.Step(small=True)
    monkeypatch.setattr(gpu_step, "ON_GPU", True)
    monkeypatch.setattr(gpu_step, "DEVICE", "cuda")
    monkeypatch.setattr(step.vit, "compile", lambda **options: found.append(options))
    step.compile(mode)
    assert found == [{"backend": COMPILER, "options": {**MODES[mode], **GPU_OPTIONS}}]
    assert step.label_loss is not gpu_step.cross_entropy  # it is compiled too


def run(script: str, *args: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), *args]
    subprocess.run(command, env=environment(), check=True, timeout=2400)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_too(tmp_path: Path) -> None:
    run("gpu.py", "--out", str(tmp_path), "--small", "--minutes", "35")
    parts: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(
        gpu.LIMITS, "done"
    )
    assert parts["resume"]["figures"]["resumed: the same bits"]
    assert all(part["figures"] for part in parts.values())


@pytest.mark.slow
def test_a_recipe_is_trained_within_a_budget(tmp_path: Path) -> None:
    out = tmp_path / "recipe.json"
    args = ["--minutes", "15", "--max-epochs", "4", "--seeds", "0", "1", "--out", str(out)]
    run("gpu_recipe.py", "digits.yaml", *args, "--model.embed_dim=12", "--model.depth=1")
    content = json.loads(out.read_text())
    assert {seed: run["epochs"] for seed, run in content["seeds"].items()} == {"0": 4, "1": 4}
    assert content["summary"]["seeds"] == 2
    kept = accuracies(tmp_path / "recipe.csv")
    assert kept == {seed: run["last"] for seed, run in content["seeds"].items()}
