"""The loop of docs/weights.md that probes five published weights, on five small stand-ins."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import timm
from photo_folder import PhotoFolder
from processes import VITLIT, environment
from timm.models import save_for_hf

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 1, "num_heads": 2, "img_size": 32}
PATCHES = {"vit_small_patch14_dinov2": {"patch_size": 16}}


def loop() -> str:
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    [found] = [block for block in blocks if block.startswith("for name in")]
    return found


@pytest.mark.slow
def test_the_loop_over_five_weights_probes_each(tmp_path: Path, photo_folder: PhotoFolder) -> None:
    names = re.findall(r"timm/[\w.]+", loop())
    assert len(set(names)) == 5
    for name in names:  # a folder of the name of the model goes before the hub
        architecture = name.removeprefix("timm/").partition(".")[0]
        arguments = SMALL | PATCHES.get(architecture, {})
        model = timm.create_model(architecture, **arguments)
        save_for_hf(model, tmp_path / name, model_args=arguments, safe_serialization=True)
    photo_folder("train+test", count=8)
    path = os.pathsep.join([str(Path(VITLIT).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu", "-c", loop()], cwd=tmp_path, env=environment(PATH=path),
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in names:
        scores = json.loads((tmp_path / "probes" / Path(name).name / "metrics.json").read_text())
        assert (scores["features"], scores["test_images"]) == (64, 16)
        assert 0 <= scores["linear"]["acc"] <= 1
