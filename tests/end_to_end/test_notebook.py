"""The notebook runs from its first cell to its last, on the images that it makes."""

import json
import os
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "own_images.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [
        cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")
    ] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the notebook's own packages
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    # `vitlit` and the kernel of this environment
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    text = NOTEBOOK.read_text(encoding="utf-8").replace("EPOCHS = 20", "EPOCHS = 1")
    notebook = nbformat.reads(text, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    said = [str(cell.get("outputs")) for cell in notebook.cells]
    assert [words for words in said if "vitlit: " in words] == []  # errors of commands begin so
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    rows = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 401
