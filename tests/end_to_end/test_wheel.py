"""The wheel holds all of the package, and is enough to run every command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "tests" / "stored" / "old_checkpoint"  # images
SOURCES = ("vitlit", "configs")  # folders
BESIDE = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
FIT = "fit --config digits.yaml --trainer.max_epochs 1 --model.depth 1"
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
BEST, LAST = (f"lightning_logs/own/checkpoints/{name}.ckpt" for name in ("best", "last"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: what builds leave behind would be found by the next one."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in BESIDE:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-c", BUILD, str(out)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [file] = out.glob("vitlit-*.whl")
    return file


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    names = [name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name]
    files = {name: [p for p in (ROOT / name).rglob("*") if p.is_file()] for name in SOURCES}
    wanted = [
        str(Path("vitlit", "configs" if name == "configs" else "", path.relative_to(ROOT / name)))
        for name, paths in files.items()
        for path in paths
        if "__pycache__" not in path.parts
    ]
    assert sorted(names) == sorted(wanted)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel; what it depends on comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, *install, str(wheel)], check=True)
    return target


def python(target: Path, folder: Path, *args: str) -> str:
    """Python that finds the package in ``target`` alone, not where the tests are; its output."""
    changes = {"PYTHONPATH": str(target), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**os.environ, **changes, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def home(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that the installed wheel trained."""
    folder = tmp_path_factory.mktemp("home")
    where = "import vitlit, vitlit.configs; print(*vitlit.__path__, *vitlit.configs.__path__)"
    found = [Path(path) for path in python(installed, folder, "-c", where).split()]
    assert found == [installed / "vitlit", installed / "vitlit" / "configs"]
    args = [*FIT.split(), "--run=own", "--trainer.log_every_n_steps=20"]
    assert "reached" in python(installed, folder, "-m", "vitlit", *args, *QUIET)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (f"validate --ckpt_path {BEST}", "reached"),
        (f"test --ckpt_path {BEST}", "reached"),
        (f"predict --ckpt_path {BEST} --data.images {DIGITS}", "wrote"),
        (f"explain --ckpt_path {BEST}", "index.html"),
        (f"export --ckpt_path {BEST}", "model.safetensors"),
        (f"export --ckpt_path {BEST} --format pt2 --out pt2", "model.pt2"),
        (f"compare {BEST} {LAST}", "against the first"),
        (f"probe --ckpt_path {BEST}", "k-NN"),
        ("runs", "own"),
        ("fit --help all", "--model.patch_size"),
    ],
    ids=lambda text: text.partition(" --")[0],
)
def test_the_wheel_alone_runs_every_command(
    command: str, expected: str, installed: Path, home: Path
) -> None:
    words = command.split()
    quiet = QUIET if "_path" in command or words[0] == "compare" else []
    assert expected in python(installed, home, "-m", "vitlit", *words, *quiet)
