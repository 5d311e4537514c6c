"""Fixtures that several test files share: small image folders, made on the fly."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning's use of it, not ours
if "PYTEST_XDIST_WORKER" in os.environ:  # workers with a thread for each core wait for each other
    # torch reads it, in children too, and so does NumPy's BLAS, when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from gpu_tests import selects_gpu
from photo_folder import PhotoFolder
from PIL import Image

PLACE_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "RANK")
UNITS = "VITLIT_BF16_UNITS"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bf16-units",
        choices=["yes", "no"],
        help="run as on a processor with, or without, units for bfloat16",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports the package, and for child processes too."""
    if answer := config.getoption("--bf16-units"):
        os.environ[UNITS] = answer
    if not selects_gpu(config.getoption("markexpr")):  # on which fit would train
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first, so that no worker begins one when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish() -> None:
    """What is imported by now stays: collections of garbage need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Or libraries would complain at exit of what they think has leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test survives a power failure. Those of the order of calls note them themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded folders go to a folder of the tests, those of child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITLIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_process_group() -> Iterator[None]:
    """A command run in this process under ddp leaves its group open; the next test has none.

    Nor has it the variables by which Lightning names the place of a process in its group.
    """
    before = {name: os.environ.get(name) for name in PLACE_VARIABLES}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures stay blank, and trainings draw neither history.png nor summary.png.

    Drawing takes as long as the rest. Tests that look at pictures are marked ``draws``.
    """
    if request.node.get_closest_marker("draws") is not None:
        return
    monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda self, renderer: None)
    if "vitlit.training.history" in sys.modules:
        monkeypatch.setattr("vitlit.training.history.History._draw", lambda self: None)
    if "vitlit.evaluation.summary" in sys.modules:
        monkeypatch.setattr("vitlit.evaluation.summary.WriteSummary._draw", lambda *args: None)


@pytest.fixture
def photo_folder(tmp_path: Path) -> PhotoFolder:
    """Class folders of ``count`` noise images each, PNG and JPEG, no two of the same pixels."""

    def make(
        layout: str = "flat",
        *,
        classes: Sequence[str] = ("cat", "dog"),
        count: int = 4,
        size: tuple[int, int] = (20, 24),
    ) -> Path:
        root = tmp_path / "photos"
        rng = np.random.default_rng(0)
        for part in [""] if layout == "flat" else layout.split("+"):
            for name in classes:
                folder = root / part / name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                    ending = "jpg" if number % 2 else "png"
                    Image.fromarray(pixels).save(folder / f"{number}.{ending}")
        return root

    return make
