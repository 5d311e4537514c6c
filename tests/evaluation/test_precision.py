"""One rule for what computes, and that all commands agree under it, with units and without."""

import csv
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.evaluation.precision import choose_precision, computing_in, in_precision, weights_dtype
from vitlit.model import attention

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
FIT = ["fit", "--data.dataset=digits", "--model.patch_size=4", "--model.embed_dim=16"]
FIT += ["--model.depth=1", "--model.num_heads=2", "--trainer.max_epochs=2", "--run=own"]
FIT += ["--trainer.log_every_n_steps=5", "--trainer.enable_model_summary=false"]
RUN = Path("lightning_logs/own")


@pytest.mark.parametrize(
    ("command", "trained", "given", "with_units", "without"),
    [
        ("fit", None, None, "bf16-mixed", "32-true"),
        ("fit", None, "16-mixed", "16-mixed", "16-mixed"),
        ("fit", None, "bf16", "bf16-mixed", "bf16-mixed"),
        ("test", "bf16-mixed", None, "bf16-mixed", "32-true"),
        ("predict", "bf16-true", None, "bf16-true", "32-true"),
        ("validate", "16-mixed", None, "32-true", "32-true"),
        ("explain", "64-true", None, "64-true", "64-true"),
        ("compare", "32-true", None, "32-true", "32-true"),
        ("test", "32-true", "bf16-mixed", "bf16-mixed", "bf16-mixed"),
        ("test", "bf16-mixed", "32", "32-true", "32-true"),
        ("probe", None, None, "32-true", "32-true"),
        ("test", "of a file that was tampered with", None, "32-true", "32-true"),
        ("export", "bf16-mixed", None, "32-true", "32-true"),
    ],
)
def test_a_cpu_scores_as_it_trained_where_it_has_units(
    command: str,
    trained: str | None,
    given: str | None,
    with_units: str,
    without: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for units, expected in ((True, with_units), (False, without)):
        monkeypatch.setattr(attention, "has_bf16_units", lambda device, units=units: units)
        assert choose_precision(command, "cpu", trained, given).name == expected


def test_the_reason_names_the_place_and_what_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "has_bf16_units", lambda device: False)
    assert choose_precision("fit", "cpu", None, "32", "digits.yaml").why == "as digits.yaml says"
    why = choose_precision("fit", "cpu", None, "bf16", "--trainer.precision").why
    assert why.startswith("as --trainer.precision says, though this hardware only emulates it")
    assert why.endswith("other commands will score in 32-true here")


def test_a_gpu_scores_in_float16_what_was_trained_so() -> None:
    assert choose_precision("test", "cuda", "16-mixed", None).name == "16-mixed"


@pytest.mark.parametrize("name", ["bf16-mixed", "bf16-true", "32-true", "64-true"])
def test_a_forward_pass_has_the_type_of_its_precision(name: str) -> None:
    expected = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}
    layer = torch.nn.Linear(3, 2).to(weights_dtype(name))
    found = in_precision(layer, name, "cpu")(torch.ones(1, 3)).dtype
    assert found == expected.get(name, layer.weight.dtype)
    with computing_in(name, "cpu"):
        assert torch.is_autocast_enabled("cpu") == (name == "bf16-mixed")


def said(*args: str) -> str:
    """What a command prints."""
    with redirect_stdout(StringIO()) as text:
        assert main([*args, *QUIET]) == 0
    return text.getvalue()


@pytest.fixture(scope="module", params=[True, False], ids=["units", "no units"])
def fitted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """What fit printed, in the folder of its run, whose precision followed the device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("home"))
        patch.setattr(attention, "has_bf16_units", lambda device: request.param)
        yield said(*FIT)


@pytest.fixture(scope="module")
def images(fitted: str) -> None:
    """The folder images beside the run, with 24 digits."""
    data = ImageData(patch_size=4)
    data.setup("test")
    split = data.splits["test"]
    Path("images").mkdir()
    for number, image in enumerate(split.images.gather(split.members[:24])[:, 0].numpy()):
        Image.fromarray(image).save(f"images/{number}.png")


@pytest.fixture(scope="module")
def tested(fitted: str) -> str:
    return said("test", "--run=own")


def test_validate_reaches_what_fit_called_best(fitted: str) -> None:
    best = re.findall(r"best (?!epochs).*val/acc (\S+)", fitted)
    assert re.findall(r"val/acc (\S+)", said("validate", "--run=own")) == best


def test_a_checkpoint_alone_scores_as_with_its_config(tested: str) -> None:
    assert said("test", "--run=own", "--config", f"{RUN}/config.yaml") == tested


def test_compare_scores_as_test_does(tested: str) -> None:
    """Also a model that was trained in another precision than the first."""
    said(*FIT, "--run=full", "--trainer.precision=32-true")
    wanted = [
        re.findall(r"test/(?:acc|loss) (\S+)", text)
        for text in (tested, said("test", "--run=full"))
    ]
    rows = said("compare", *(f"{RUN.parent}/{name}" for name in ("own", "full"))).splitlines()
    found = [row.split() for row in rows if re.match(r" {7}0\.", row)]
    assert [[row[0], row[5]] for row in found] == wanted


@pytest.mark.usefixtures("images")
def test_explain_answers_as_predict_does_whatever_the_batch() -> None:
    images = ["--run=own", "--data.images=images"]
    said("explain", *images, "--count=24")
    found = np.load("explanation/arrays.npz")["probabilities"].max(axis=1)
    for size in (1, 7, 64):
        out = f"of_batches_of_{size}.csv"
        said("predict", *images, f"--data.batch_size={size}", f"--out={out}")
        with Path(out).open(newline="") as file:
            assert [row["probability"] for row in csv.DictReader(file)] == [
                f"{value:.4f}" for value in found
            ]


@pytest.mark.usefixtures("images")
@pytest.mark.slow
def test_the_precision_is_said_once_by_every_command(caplog: pytest.LogCaptureFixture) -> None:
    """By export too, which computes in float32 whatever the training did."""
    for command in ("validate", "test", "predict", "explain", "export", "probe", "compare"):
        caplog.clear()
        start = (
            ["--run=own"] if command != "compare" else [str(RUN), f"{RUN}/checkpoints/last.ckpt"]
        )
        more = ["--data.images=images"] if command == "predict" else []
        with caplog.at_level("INFO"):
            said(command, *start, *more)
        lines = [text for text in caplog.messages if re.search("[Pp]recision", text)]
        assert len(lines) == 1, lines
        wanted = "bf16-mixed" if attention.has_bf16_units("cpu") else "32-true"
        said_first = lines[0].replace(",", "").split()[:2]
        assert said_first == ["precision", "32-true" if command == "export" else wanted]
