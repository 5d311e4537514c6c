"""The commands and the Python of docs/deployment.md, one after the other, on digits."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlit.__main__ import main

TEXT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
SMALL = ["--config=debug.yaml", "--trainer.accelerator=cpu", "--trainer.devices=1"]


@pytest.mark.slow
def test_the_commands_and_the_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save("photo.png")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("vitlit ")]
    # --push is tested with a stand-in of the hub, in test_push.py
    commands = [words for words in commands if "--push" not in words]
    assert len(commands) == 4
    for words in commands:
        assert main([*words, *(SMALL if words[0] == "fit" else [])]) == 0, words
    assert Path("page/index.html").is_file()
    code, *_ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    capsys.readouterr()
    exec(compile(code, "docs/deployment.md", "exec"), {})
    name, probability = capsys.readouterr().out.split()
    assert name in "0123456789"
    assert 0.1 <= float(probability) <= 1
