"""The documentation site: it has every option and config, and no link that leads nowhere."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from site_pages import configs_page, on_page_markdown, options_page

from vitlit import ViT
from vitlit.augment.pipeline import Augmentation
from vitlit.cli.configs import shipped_configs
from vitlit.cli.parser import LINKED
from vitlit.data.datamodule import PlainImageData
from vitlit.training.trainable import TrainableViT

ROOT = Path(__file__).parents[2]
FROM_DATA = {"class_names", "img_size", "in_chans", "num_classes"}  # of the model


def arguments(*kinds: type) -> set[str]:
    names = {name for kind in kinds for name in inspect.signature(kind).parameters}
    return names - {"vit", "augmentation", "self"}


@pytest.mark.slow
def test_the_page_of_options_has_every_argument_of_model_and_data() -> None:
    text = options_page()
    found = set(re.findall(r"^\| `--([\w.]+)` \|", text, re.MULTILINE))
    model, data = arguments(TrainableViT, ViT) - FROM_DATA, arguments(PlainImageData, Augmentation)
    wanted = {f"model.{name}" for name in model} | {f"data.{name}" for name in data}
    assert wanted - LINKED.keys() - found - {"data.num_classes"} == set()
    assert {"output", "flip", "format", "save", "csv"} <= found  # of one command each
    # each has words, and no bar of theirs ends a cell
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| `")]
    assert [row for row in rows if len(row) != 5 or not row[3].strip()] == []


def test_the_page_of_configs_has_each_whole() -> None:
    titles = re.findall(r"^## (.+)$", configs_page(), re.MULTILINE)
    assert titles == shipped_configs()
    assert (ROOT / "configs" / "digits.yaml").read_text(encoding="utf-8") in configs_page()


def test_links_out_of_the_pages_lead_to_the_copies_on_the_site() -> None:
    text = "[a](../CONTRIBUTING.md#habits) [b](../benchmarks/lora.md) [c](weights.md)"
    made = "[a](contributing.md#habits) [b](benchmarks/lora.md) [c](weights.md)"
    assert on_page_markdown(text) == made


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "patch_size" in (tmp_path / "python_api" / "index.html").read_text(encoding="utf-8")
