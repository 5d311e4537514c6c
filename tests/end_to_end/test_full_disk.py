"""A full disk: each command says so in one sentence, and leaves nothing unfinished."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image
from processes import can_mount, environment
from trainings import QUIET, RUN

from vitlit.__main__ import main

pytestmark = [
    pytest.mark.faults,
    pytest.mark.first,
    pytest.mark.skipif(not can_mount(), reason="needs a small disk of its own"),
]
ON_SMALL_DISK = ["unshare", "-rm", "sh", "-c"]
ON_SMALL_DISK += ['mount -t tmpfs -o size=4k none "$0" && cd "$0" && exec "$@"']
COMMANDS = {
    "predict": ["predict", "--data.images={photos}"],
    "features": ["predict", "--data.images={photos}", "--output=features"],
    "test": ["test", "--out=report"],
    "explain": ["explain", "--count=1"],
    "export": ["export"],
    "probe": ["probe", "--k=1"],
}
PROGRAM = """
import contextlib, io, json, os, sys
from vitlit.__main__ import main
found = {}
for name, args in json.loads(sys.argv[1]).items():
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(args)
    found[name] = [status, errors.getvalue(), os.listdir()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit status, words on the screen and files left, of each command on a full disk."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "photos").mkdir()
    for number in range(150):
        Image.new("L", (8, 8), number).save(folder / "photos" / f"{number:040}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*RUN, "--trainer.max_epochs=1"]) == 0
    [checkpoint] = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    more = [f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu", *QUIET]
    lines = {
        name: [*(arg.format(photos=folder / "photos") for arg in args), *more]
        for name, args in COMMANDS.items()
    }
    disk = folder / "disk"
    disk.mkdir()
    done = subprocess.run(
        [*ON_SMALL_DISK, str(disk), sys.executable, "-c", PROGRAM, json.dumps(lines)],
        env=environment(VITLIT_CACHE=os.environ["VITLIT_CACHE"]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(name: str, found: dict[str, Any]) -> None:
    status, words, left = found[name]
    assert status == 2, words
    assert words.splitlines()[-1].startswith("vitlit: cannot write ")
    assert "No space left on device; free some space" in words
    assert "Traceback" not in words
    assert left == []
