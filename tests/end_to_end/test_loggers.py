"""Each logger that docs/training.md shows trains without a network, as the page writes it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitlit.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
PACKAGES = {"CSVLogger": "pytorch_lightning", "WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
WRITTEN = {  # by each
    "CSVLogger": "lightning_logs/own/csv/metrics.csv",
    "WandbLogger": "wandb/offline-run-*/*.wandb",
    "MLFlowLogger": "mlflow.db",
}
SMALL = ["--config=digits.yaml", "--config=logger.yaml", "--run=own", "--trainer.max_epochs=1"]
SMALL += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--model.depth=1"]
SMALL += ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
SMALL += ["--trainer.enable_progress_bar=false"]


def shown_loggers() -> dict[str, Any]:
    """The loggers of the page, by the name of their class."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    settings = [yaml.safe_load(block)["trainer"] for block in blocks]
    given = [trainer["logger"] for trainer in settings if "logger" in trainer]
    flat = [one for group in given for one in (group if isinstance(group, list) else [group])]
    return {one["class_path"].rpartition(".")[2]: one for one in flat}


def test_every_logger_of_the_page_is_tested() -> None:
    assert shown_loggers().keys() == PACKAGES.keys() == WRITTEN.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.filterwarnings("default")  # those of the loggers' own packages
def test_a_training_logs_as_the_page_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGES[name])
    monkeypatch.chdir(tmp_path)
    config = {"trainer": {"logger": shown_loggers()[name]}}
    Path("logger.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["fit", *SMALL]) == 0
    assert [path for path in tmp_path.glob(WRITTEN[name]) if path.stat().st_size > 0]
    assert (tmp_path / "lightning_logs" / "own" / "checkpoints" / "best.ckpt").is_file()
