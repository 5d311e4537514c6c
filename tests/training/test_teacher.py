"""Learning from a teacher, against a loop written by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from programs import CNN_MEAN, CNN_SIZE, CNN_STD, DIGITS, save_program, small_cnn
from torch import Tensor, nn
from trainings import QUIET, RUN, newest_run

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.patches import patchify, unpatchify
from vitlit.training.classifier import Classifier
from vitlit.training.teacher import load_teacher

SIZE: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "class_names": DIGITS,
}
TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]  # of the teacher's classes


def digits(**changes: Any) -> ImageData:
    return ImageData(patch_size=4, **{"batch_size": 32, **changes})


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return small_cnn()


@pytest.fixture(scope="module")
def cnn(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its classes are in another order than the digits', its images larger and in colour."""
    names = [DIGITS[label] for label in ORDER]
    path = tmp_path_factory.mktemp("teacher") / "cnn.pt2"
    return str(save_program(model, path, class_names=names))


class Gradients(pl.Callback):
    """Keeps the gradients of each step, and the weights that they were computed at."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.steps.append([p.grad.clone() for p in pl_module.parameters()])
        weights = pl_module.vit.state_dict()
        self.weights.append({name: value.clone() for name, value in weights.items()})


def by_hand(model: nn.Module, x: Tensor, data: ImageData) -> Tensor:
    """The teacher's logits, in the order of the digits."""
    grey = unpatchify(x, 4, 8) * data.std[0] + data.mean[0]
    colour = torch.cat([grey, grey, grey], dim=1)
    large = F.interpolate(colour, CNN_SIZE[1:], mode="bilinear", antialias=True)
    mean, std = (torch.tensor(row).view(1, 3, 1, 1) for row in (CNN_MEAN, CNN_STD))
    with torch.no_grad():
        answers = model((large - mean) / std)
    return torch.stack([answers[:, ORDER.index(label)] for label in range(10)], dim=1)


@pytest.mark.parametrize("hard", [False, True])
def test_twenty_steps_equal_a_loop_by_hand(model: nn.Module, cnn: str, hard: bool) -> None:
    torch.manual_seed(0)
    temperature, share = (1.0 if hard else 2.0), 0.7
    student = Classifier(
        optimizer="sgd", lr=0.01, schedule="constant", weight_decay=0.0, label_smoothing=0.1,
        teacher=cnn, teacher_weight=share, teacher_temperature=temperature, teacher_hard=hard,
        **SIZE,
    )  # fmt: skip
    nn.init.normal_(student.vit.head.weight)
    data = digits(crop_padding=1, mixup=0.5, rotation=10)
    start = {key: value.clone() for key, value in student.vit.state_dict().items()}
    found = Gradients()
    pl.Trainer(**TRAINER, callbacks=[found], max_steps=20).fit(student, data)

    vit = student.vit
    vit.load_state_dict(start)
    optimizer = torch.optim.SGD(vit.parameters(), lr=0.01, momentum=0.9)
    expected = []
    for weights, batch in zip(found.weights, data.train_dataloader(), strict=False):
        batch = data.transform(batch, augment=True)
        # The loop takes its own steps, but rounding that grows over them is not compared.
        torch.testing.assert_close(dict(vit.state_dict()), weights, rtol=1e-4, atol=1e-5)
        vit.load_state_dict(weights)
        answers, wanted = vit(batch.x), by_hand(model, batch.x, data)
        if hard:
            taught = F.cross_entropy(answers, wanted.argmax(dim=1))
        else:
            p = (wanted / temperature).softmax(dim=1)
            difference = p.log() - (answers / temperature).log_softmax(dim=1)
            taught = temperature**2 * (p * difference).sum(dim=1).mean()
        loss = F.cross_entropy(answers, batch.y, label_smoothing=0.1)
        optimizer.zero_grad()
        ((1 - share) * loss + share * taught).backward()
        expected.append([p.grad.clone() for p in vit.parameters()])
        optimizer.step()
    assert len(found.steps) == 20
    for ours, theirs in zip(found.steps, expected, strict=True):
        largest = max(float(gradient.abs().max()) for gradient in theirs)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize(
    ("own", "of_student"),
    [
        ({"invert": True}, {"in_chans": 3, "img_size": 16, "patchify": False}),
        ({"in_chans": 3, "mean": [0.1, 0.2, 0.3]}, {"invert": True}),
        ({"img_size": [12, 16]}, {"invert": True, "normalize": "none"}),
    ],
    ids=["larger and in colour", "grey", "smaller"],
)
def test_a_teacher_sees_the_images_as_its_own_data_would_give_them(
    own: dict[str, Any], of_student: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    its = ImageData(patch_size=4, **own)
    students = ImageData(patch_size=4, **of_student)
    size = {"in_chans": its.in_chans, "img_size": its.img_size}
    teacher = Classifier(**{**SIZE, **size})
    nn.init.normal_(teacher.vit.head.weight)
    save_run(teacher, its, tmp_path)
    found = load_teacher(str(tmp_path / "run.ckpt"), students, DIGITS)
    # each image of one shade, which no resizing changes
    pixels = torch.randint(0, 256, (4, 1, 1, 1), dtype=torch.uint8).repeat(1, 1, 8, 8)
    given = students.preprocess(pixels)
    given = patchify(given, 4) if students.patchify else given
    expected = its.preprocess(pixels)
    torch.testing.assert_close(found.images(given), expected)
    torch.testing.assert_close(found(given), teacher.vit.eval()(expected))


def save_run(model: Classifier, data: ImageData, folder: Path) -> None:
    """A checkpoint as a training writes it."""
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "datamodule_hyper_parameters": dict(data.hparams),
    }
    torch.save(content, folder / "run.ckpt")


def test_a_run_teaches_and_agreement_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--trainer.max_epochs=1", "--run=first"]) == 0
    words = ["--model.teacher=lightning_logs/first", "--model.teacher_weight=1", "--run=second"]
    assert main([*RUN, "--trainer.max_epochs=1", *words, "--ema.decay=0.9"]) == 0
    rows = (newest_run() / "history.csv").read_text().splitlines()
    place = rows[0].split(",").index("train/teacher_agreement")
    assert 0 < float(rows[1].split(",")[place]) <= 1
    saved = torch.load(newest_run() / "checkpoints" / "last.ckpt", weights_only=True)
    plain = torch.load("lightning_logs/first/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == plain["state_dict"].keys()
    Path("lightning_logs/first").rename("gone")
    assert main(["validate", "--run=second", "--trainer.accelerator=cpu", *QUIET]) == 0


def test_agreement_is_the_share_of_equal_answers(model: nn.Module, cnn: str) -> None:
    torch.manual_seed(0)
    data = digits()
    student = Classifier(teacher=cnn, lr=1e-9, **SIZE)
    nn.init.normal_(student.vit.head.weight)
    logged: dict[str, Tensor] = {}
    student.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    pl.Trainer(**TRAINER, max_epochs=1, limit_train_batches=25).fit(student, data)
    agreed = 0
    for _, batch in zip(range(25), data.train_dataloader(), strict=False):
        x = data.transform(batch, augment=True).x
        agreed += int((student.vit(x).argmax(dim=1) == by_hand(model, x, data).argmax(dim=1)).sum())
    assert float(logged["train/teacher_agreement"]) == pytest.approx(agreed / (25 * 32))
    assert 0 < agreed < 25 * 32


@pytest.mark.slow
def test_a_compiled_student_learns_as_a_plain_one(
    cnn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlit.training.compiling.COMPILER", "aot_eager")
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        student, kept = Classifier(teacher=cnn, compile=compiled, **SIZE), Gradients()
        pl.Trainer(**TRAINER, callbacks=[kept], max_steps=3).fit(student, digits())
        found.append(kept.steps)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": " "}, "teacher ' ' names no weights"),
        ({"teacher": "x", "teacher_weight": 0.0}, "teacher_weight 0.0 is not above 0"),
        ({"teacher": "x", "teacher_weight": 1.5}, "teacher_weight 1.5 is not above 0"),
        ({"teacher": "x", "teacher_weight": math.nan}, "teacher_weight nan is not above 0"),
        ({"teacher": "x", "teacher_temperature": 0.0}, "teacher_temperature 0.0 is not positive"),
        (
            {"teacher": "x", "teacher_temperature": 2.0, "teacher_hard": True},
            "changes nothing with teacher_hard",
        ),
        ({"teacher_weight": 0.9}, "teacher_weight has no effect without teacher"),
        ({"teacher_temperature": 4.0}, "teacher_temperature has no effect without teacher"),
        ({"teacher_hard": True}, "teacher_hard has no effect without teacher"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classifier(**SIZE, **settings)


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_teacher_that_changes_on_resume_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="give the folder of the run"):
        load_teacher(name, digits(), DIGITS)


def test_other_classes_are_refused(cnn: str) -> None:
    names = [*DIGITS[:-1], "ten"]
    with pytest.raises(InputError, match=r"classes of teacher .*cnn\.pt2.* are not those"):
        load_teacher(cnn, digits(class_names=names), names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dynamic": False}, "cannot take a batch of .*Dim"),
        ({"class_names": DIGITS[:-1]}, "does not answer 32 images with logits"),
        (
            {"class_names": None, "mean": None, "std": None, "input_size": None},
            "describe its classes",
        ),
        ({"training": True}, "differently beside other images.*eval"),
    ],
)
def test_a_program_that_cannot_teach_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = small_cnn().train(change.pop("training", False))
    path = save_program(model, tmp_path / "cnn.pt2", **change)
    with pytest.raises(InputError, match=message):
        load_teacher(str(path), digits(), DIGITS)


def test_a_bad_teacher_ends_the_command_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--model.teacher=none.pt2"]) == 2
    assert "vitlit: teacher: no weights none.pt2" in capsys.readouterr().err
    assert not list(tmp_path.glob("lightning_logs/*/checkpoints/*"))
