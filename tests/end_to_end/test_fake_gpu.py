"""Training, validation, test and explanation on a GPU that is not there: no device is mixed up.

Counts what the host waits for in a step; on a GPU each wait leaves the device without work.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_device import DEVICE, FakeDevice, fake_device, fake_trainer
from torch import Tensor

from vitlit import ImageData
from vitlit.data.batch import Batch
from vitlit.evaluation.inference import Collector
from vitlit.explain.findings import explain_image
from vitlit.fault_tolerance.nonfinite import FiniteUpdates
from vitlit.fault_tolerance.resume import Resume
from vitlit.images import preprocess
from vitlit.images.preprocess import Preprocess
from vitlit.model.features import Feature
from vitlit.model.vit import ViT
from vitlit.training.checkpoint_callbacks import LastCheckpoint
from vitlit.training.classifier import Classifier
from vitlit.training.ema import MovingAverage
from vitlit.training.teacher import Teacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true"),  # no real GPU
]
SIZE: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 4,
    "num_classes": 10,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"reg_tokens": 2, "drop_rate": 0.1, "proj_drop_rate": 0.1, "drop_path_rate": 0.2},
    "average": {"global_pool": "avg", "pos_embed": "sincos2d", "init_values": 0.1},
    "compact": {"global_pool": "seq", "patch_embed": "conv_stem", "pos_embed": "none"},
    "local": {"attention": "lsa", "patch_embed": "shifted", "attn_drop_rate": 0.1},
    "gated": {"attention": "gpsa", "pos_embed": "sincos1d", "patch_embed": "linear"},
    "rotary": {"pos_embed": "rope", "act": "gelu_tanh"},
}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "crop": {"crop_padding": 1, "flip": True, "rotation": 10.0},
    "randaugment": {"auto_augment": "randaugment", "erasing": 0.5},
    "trivialaugment": {"auto_augment": "trivialaugment", "mixup": 0.5, "cutmix": 0.5},
    "autoaugment": {"auto_augment": "autoaugment", "resized_crop": [0.3, 1.0]},
    "turns": {"vertical_flip": True, "quarter_turns": True, "grayscale": 0.2, "blur": 0.5},
    "three_augment": {"three_augment": True, "repeated_augment": 2},
    "jitter": {"color_jitter": [0.4, 0.4, 0.4]},
}


@pytest.fixture(autouse=True)
def no_kept_constants() -> Iterator[None]:
    """Constants that are kept for each device would outlive the fake one."""
    preprocess._scale_and_shift.cache_clear()
    yield
    preprocess._scale_and_shift.cache_clear()


@pytest.fixture
def gpu() -> Iterator[FakeDevice]:
    with fake_device() as gpu:
        yield gpu


def digits(**changes: Any) -> ImageData:
    return ImageData(patch_size=4, batch_size=32, **changes)


class Steps(pl.Callback):
    """The waits of each step, from its first hook to its last."""

    def __init__(self, gpu: FakeDevice) -> None:
        self.gpu = gpu
        self.waits: dict[str, list[list[str]]] = {"train": [], "validation": [], "test": []}

    def _end(self, stage: str) -> None:
        self.waits[stage].append(list(self.gpu.waits))

    def on_train_batch_start(self, *_: Any) -> None:
        self.gpu.forget()

    on_validation_batch_start = on_test_batch_start = on_train_batch_start

    def on_train_batch_end(self, *_: Any) -> None:
        self._end("train")

    def on_validation_batch_end(self, *_: Any) -> None:
        self._end("validation")

    def on_test_batch_end(self, *_: Any) -> None:
        self._end("test")


@pytest.mark.parametrize(
    ("precision", "learning"),
    [("32-true", {}), ("bf16-mixed", {}), ("32-true", {"optimizer": "muon"})],
    ids=["32", "bf16", "muon"],
)
def test_no_step_waits_for_the_device(
    gpu: FakeDevice, precision: Any, learning: dict[str, Any]
) -> None:
    steps = Steps(gpu)
    callbacks = [Resume(), FiniteUpdates(), MovingAverage(0.9), steps]
    trainer = fake_trainer(
        max_epochs=1, limit_train_batches=3, callbacks=callbacks, precision=precision
    )
    trainer.fit(Classifier(in_chans=1, **SIZE, **learning), digits(crop_padding=1))
    first, *others = steps.waits["train"]
    assert others == [[], []]
    # the loss of the first step is read, and that of every 50th
    assert all("utilities/apply_func" in wait for wait in first)
    assert len(steps.waits["validation"]) > 1
    assert not any(steps.waits["validation"])


@pytest.mark.parametrize(("own", "its"), [(1, 3), (3, 1)])
def test_a_teacher_answers_without_a_wait(gpu: FakeDevice, own: Any, its: Any) -> None:
    statistics = ((0.5,) * its, (0.2,) * its)
    takes = Preprocess(its, (12, 12), (12, 12), *statistics)
    model = ViT(in_chans=its, **{**SIZE, "img_size": 12}).eval()
    data = digits(in_chans=own)
    teacher = Teacher(model.to, takes, list(range(10))[::-1], data)
    student = Classifier(in_chans=own, **SIZE).to(DEVICE)
    student._teacher = teacher
    student.on_train_epoch_start()  # its sums begin on the device
    student._is_logging_step = lambda _: False  # type: ignore[method-assign]
    teacher.to(DEVICE)
    x = torch.zeros(4, 4, own * 16, device=DEVICE)
    labels, rows = torch.zeros(4, dtype=torch.long, device=DEVICE), torch.arange(4)
    teacher(x)  # numbers of the normalisation are copied once
    gpu.forget()
    student.training_step(Batch(x, labels, rows, rows >= 0, epoch=0, key=7), 0).backward()
    assert student.train_sums.sums().device == DEVICE
    assert gpu.waits == []


def test_no_step_of_a_test_waits_for_the_device(gpu: FakeDevice) -> None:
    steps, found = Steps(gpu), Collector()

    class Collect(pl.Callback):
        """As the report of ``test`` does."""

        def on_test_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Batch, *_: Any
        ) -> None:
            found.add(outputs, batch)

    trainer = fake_trainer(limit_test_batches=2, callbacks=[Collect(), steps])
    trainer.test(Classifier(in_chans=1, **SIZE), digits(), verbose=False)
    assert steps.waits["test"] == [[]] * 2


def test_a_training_goes_on_within_an_epoch(tmp_path: Path) -> None:
    """Saved on the CPU: its sums and its state come from there in either case."""
    data, model = digits(flip=True), Classifier(in_chans=1, **SIZE)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "limit_train_batches": 25}
    last, kept = tmp_path / "last.ckpt", tmp_path / "kept.ckpt"

    class Keep(pl.Callback):
        """Keeps the checkpoint of the third step, before the one of the end replaces it."""

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, place: int) -> None:
            if place == 3:
                shutil.copy(last, kept)

    callbacks = [Resume(), Keep(), MovingAverage(0.9), LastCheckpoint(tmp_path, every_n_steps=3)]
    pl.Trainer(accelerator="cpu", max_steps=4, callbacks=callbacks, **quiet).fit(model, data)
    with fake_device() as gpu:
        steps = Steps(gpu)
        callbacks = [Resume(), FiniteUpdates(), MovingAverage(0.9), steps]
        trainer = fake_trainer(max_epochs=1, callbacks=callbacks, **quiet)
        model = Classifier(in_chans=1, **SIZE)
        trainer.fit(model, digits(flip=True), ckpt_path=str(kept))
        assert trainer.global_step == 25
        assert model.train_sums.sums().device == DEVICE
        assert len(steps.waits["train"]) == 22
        assert not any(steps.waits["train"])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_on_the_device(gpu: FakeDevice, name: str) -> None:
    model = Classifier(in_chans=3, class_weights="balanced", **SIZE, **VARIANTS[name]).to(DEVICE)
    gpu.forget()
    labels = torch.zeros(4, dtype=torch.long, device=DEVICE)
    valid = torch.ones(4, dtype=torch.bool, device=DEVICE)
    x = torch.zeros(4, 3, 8, 8, device=DEVICE)
    model._is_logging_step = lambda _: False  # type: ignore[method-assign]
    batch = Batch(x, labels, torch.arange(4), valid, epoch=0, key=7)
    model.training_step(batch, 0).backward()
    assert {weight.grad.device for weight in model.parameters()} == {DEVICE}  # type: ignore[union-attr]
    model.eval()
    model.validation_step(batch, 0)
    for feature in (None, Feature(layer=0), Feature(pool="avg")):
        model.configure_scoring(feature=feature)
        assert model.predict_step(batch, 0).device == DEVICE
    assert gpu.waits == []


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_augmentation_waits_for_nothing(gpu: FakeDevice, name: str, in_chans: Any) -> None:
    data = digits(in_chans=in_chans, **AUGMENTATIONS[name])
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    batch = data.transform(data.transfer_batch_to_device(batch, DEVICE, 0), augment=True)
    assert (batch.x.device, batch.y.device) == (DEVICE, DEVICE)
    assert gpu.waits == []


@pytest.mark.parametrize("name", VARIANTS)
def test_explanations_come_from_the_device(gpu: FakeDevice, name: str) -> None:
    data = digits(in_chans=3)
    model = ViT(in_chans=3, **SIZE, **VARIANTS[name]).to(DEVICE).eval()
    answers = iter([True, False, False])  # finite; no class below 0 or above the last

    def answer(tensor: Tensor) -> Any:
        return next(answers) if tensor.dtype == torch.bool else 0

    gpu.answers = answer
    found = explain_image(model, torch.zeros(3, 8, 8, dtype=torch.uint8), data.preprocess, "mean")
    assert {part.device.type for part in found if part is not None} == {"cpu"}
