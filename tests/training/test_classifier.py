"""Loss, metrics, optimisers and the schedule in training."""

import csv
import math
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from recorder import LossRecorder
from sklearn.metrics import recall_score
from torch import Tensor
from torch._inductor.exc import InductorError

from vitlit import ImageData
from vitlit.cli.advice import advice
from vitlit.data.batch import Batch
from vitlit.errors import InputError
from vitlit.training import classifier
from vitlit.training.classifier import Classifier
from vitlit.training.optim import muon

SIZE: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def digits(**changes: Any) -> ImageData:
    return ImageData(patch_size=4, **{"batch_size": 64, **changes})


class Recorder(LossRecorder):
    """Learning rate and loss of each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(model: Classifier, data: ImageData, **settings: Any) -> Recorder:
    recorder = Recorder()
    pl.Trainer(**QUIET, callbacks=[recorder], **settings).fit(model, data)
    return recorder


def test_the_first_loss_is_the_log_of_the_number_of_classes() -> None:
    recorder = fit(Classifier(**SIZE), digits(), max_steps=1)
    assert recorder.losses[0] == pytest.approx(math.log(10), rel=1e-6)


def test_the_rate_warms_up_and_falls_over_optimiser_steps() -> None:
    model = Classifier(lr=1.0, optimizer="sgd", warmup_fraction=0.25, **SIZE)
    recorder = fit(model, digits(), max_epochs=1, limit_train_batches=16, accumulate_grad_batches=2)
    steps = recorder.rates[::2]  # 8 optimiser steps, 2 of them warmup
    expected = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert steps == pytest.approx(expected)
    assert recorder.rates[1::2] == pytest.approx(expected)


def test_warmup_epochs_count_optimiser_steps_under_accumulation() -> None:
    model = Classifier(lr=1.0, optimizer="sgd", warmup_epochs=0.5, schedule="constant", **SIZE)
    recorder = fit(model, digits(), max_epochs=1, limit_train_batches=16, accumulate_grad_batches=2)
    assert recorder.rates[::2] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_a_cosine_ends_at_the_smallest_rate() -> None:
    model = Classifier(lr=0.5, min_lr=0.1, **SIZE)
    recorder = fit(model, digits(), max_steps=4, limit_val_batches=0)
    assert recorder.rates == pytest.approx(
        [0.3 + 0.2 * math.cos(math.pi * step / 4) for step in range(4)]
    )
    last = [group["lr"] for group in model.trainer.optimizers[0].param_groups]
    assert last == pytest.approx([0.1] * len(last))


def test_each_layer_trains_at_its_share_of_the_rate_above() -> None:
    model = Classifier(lr=0.1, layer_decay=0.5, schedule="constant", **{**SIZE, "depth": 2})
    fit(model, digits(), max_steps=1, limit_val_batches=0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"]
        for group in model.trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }
    layers = {"vit.patch_embed.": 0.0125, "vit.pos_embed": 0.0125, "vit.cls_token": 0.0125}
    layers |= {"vit.blocks.0.": 0.025, "vit.blocks.1.": 0.05, "vit.norm.": 0.1, "vit.head.": 0.1}
    assert rates == {
        name: pytest.approx(rate)
        for start, rate in layers.items()
        for name in names.values()
        if name.startswith(start)
    }
    assert len(rates) == len(names)


@pytest.mark.parametrize(
    ("name", "kind", "extra"),
    [
        ("adamw", torch.optim.AdamW, {}),
        ("adam", torch.optim.Adam, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_three_steps_equal_a_bare_loop(name: Any, kind: Any, extra: dict[str, float]) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "decay": "all"}
    model = Classifier(optimizer=name, schedule="constant", label_smoothing=0.1, **settings, **SIZE)
    data = digits(crop_padding=1, flip=True)
    start = {key: value.clone() for key, value in model.vit.state_dict().items()}
    fit(model, data, max_steps=3)
    trained = {key: value.clone() for key, value in model.vit.state_dict().items()}

    model.vit.load_state_dict(start)
    optimizer = kind(model.vit.parameters(), lr=0.01, weight_decay=0.1, fused=True, **extra)
    for _, batch in zip(range(3), data.train_dataloader(), strict=False):
        batch = data.transform(batch, augment=True)
        optimizer.zero_grad()
        F.cross_entropy(model.vit(batch.x), batch.y, label_smoothing=0.1).backward()
        optimizer.step()
    for key, value in model.vit.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=1e-5, atol=1e-6)


def test_the_head_is_trained_at_its_own_rate() -> None:
    model = Classifier(lr=0.01, head_lr=0.5, **SIZE)
    fit(model, digits(), max_steps=1)
    rates = [group["initial_lr"] for group in model.trainer.optimizers[0].param_groups]
    assert rates == [0.5, 0.5, 0.01, 0.01]


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_muon_and_adamw_update_as_they_do_apart(
    clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer decay, a frozen block, clipping and the schedule of the two rates included."""
    monkeypatch.setattr(muon, "has_bf16_units", lambda _: True)  # torch's always takes bfloat16
    size = {**SIZE, "depth": 2}
    model = Classifier(
        optimizer="muon", lr=0.02, muon_lr=0.04, weight_decay=0.1, layer_decay=0.5,
        freeze_blocks=1, warmup_steps=2, **size,
    )  # fmt: skip
    torch.nn.init.normal_(model.vit.head.weight)
    data = digits(crop_padding=1)
    start = {key: value.clone() for key, value in model.vit.state_dict().items()}
    fit(model, data, max_steps=4, gradient_clip_val=clip)
    trained = {key: value.clone() for key, value in model.vit.state_dict().items()}

    model.vit.load_state_dict(start)
    weights = {n: p for n, p in model.vit.named_parameters() if p.requires_grad}
    matrices = [p for n, p in weights.items() if n.startswith("blocks.1.") and p.ndim == 2]
    rest = {n: p for n, p in weights.items() if not any(p is m for m in matrices)}
    by_torch = torch.optim.Muon(matrices, 0.04 * 0.5, 0.1, adjust_lr_fn="match_rms_adamw")
    groups = [
        {"params": [p], "lr": 0.02 * (0.5 if n.startswith("blocks") else 1), "weight_decay": 0.1 * (p.ndim == 2)}  # noqa: E501
        for n, p in rest.items()
    ]  # fmt: skip
    adamw = torch.optim.AdamW(groups, fused=True)
    assert len(matrices) == 4
    rates = [[group["lr"] for group in one.param_groups] for one in (by_torch, adamw)]
    factors = [0.5, 1.0, 1.0, 0.5]  # two steps of warmup; then a cosine over two
    for factor, batch in zip(factors, data.train_dataloader(), strict=False):
        for one, given in zip((by_torch, adamw), rates, strict=True):
            for group, rate in zip(one.param_groups, given, strict=True):
                group["lr"] = rate * factor
            one.zero_grad()
        batch = data.transform(batch, augment=True)
        F.cross_entropy(model.vit(batch.x), batch.y).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(weights.values(), clip)
        by_torch.step()
        adamw.step()
    for key, value in model.vit.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(trained["blocks.1.mlp.fc1.weight"], start["blocks.1.mlp.fc1.weight"])


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Memory that was allocated and not written to reads as NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_an_optimiser_goes_on_after_a_first_update_that_was_not_finite(name: Any) -> None:
    class Skip(pl.Callback):
        """What FiniteUpdates does on a GPU, where the fused optimiser reads the flag itself."""

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            trainer.optimizers[0].found_inf = torch.tensor(float(trainer.global_step == 0))
            if trainer.global_step == 0:
                for weight in pl_module.parameters():
                    weight.grad.fill_(math.nan)

    model = Classifier(optimizer=name, **SIZE)
    start = model.vit.blocks[0].mlp.fc1.weight.clone()
    pl.Trainer(**QUIET, callbacks=[Skip()], max_steps=2, limit_val_batches=0).fit(model, digits())
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert model.vit.head.weight.any()  # zeros at first: the second update was done
    assert not torch.equal(model.vit.blocks[0].mlp.fc1.weight, start)


def test_dropout_depends_on_the_batch_address_alone() -> None:
    model = Classifier(**SIZE, proj_drop_rate=0.5).train()
    torch.nn.init.normal_(model.vit.head.weight)
    model._is_logging_step = lambda _: False  # type: ignore[method-assign]
    rows = torch.arange(4)
    batch = Batch(torch.randn(4, 1, 8, 8), rows, rows, rows >= 0, epoch=0, key=7)
    first = model.training_step(batch, 0)
    torch.randn(99)
    again = model.training_step(batch, 5)
    other = model.training_step(batch._replace(key=8), 0)
    assert first == again
    assert first != other


def test_blocks_computed_again_train_to_the_same_weights() -> None:
    rates = {"proj_drop_rate": 0.3, "drop_path_rate": 0.3}
    weights = []
    for again in (False, True):
        torch.manual_seed(0)
        model = Classifier(grad_checkpointing=again, **{**SIZE, "depth": 2}, **rates)
        fit(model, digits(), max_steps=3, accumulate_grad_batches=2, limit_val_batches=0)
        assert model.vit.blocks.grad_checkpointing is again
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("again", [False, True])
def test_weights_are_not_cast_together_for_blocks_computed_again(
    again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast: list[bool] = []
    monkeypatch.setattr(classifier, "saves_launches", lambda x: True)
    monkeypatch.setattr(
        classifier, "forward_with_cast_weights", lambda vit, x, dtype: cast.append(True)
    )
    Classifier(grad_checkpointing=again, **SIZE).train()(torch.zeros(1, 1, 8, 8))
    assert cast == ([] if again else [True])


def soft_targets(batch: Batch) -> Batch:
    """Each image's own class for 0.7, the next image's for 0.3."""
    own = F.one_hot(batch.y, 10).float()
    return batch._replace(y=0.7 * own + 0.3 * own.roll(1, 0))


def test_soft_targets_are_learned_as_shares_of_two_losses() -> None:
    model = Classifier(**SIZE, label_smoothing=0.1)
    torch.nn.init.normal_(model.vit.head.weight)
    model._is_logging_step = lambda _: False  # type: ignore[method-assign]
    rows = torch.arange(4)
    batch = Batch(torch.randn(4, 1, 8, 8), rows, rows, rows >= 0, epoch=0, key=7)
    losses = [
        F.cross_entropy(model(batch.x), labels, label_smoothing=0.1)
        for labels in (rows, rows.roll(1))
    ]
    found = model.training_step(soft_targets(batch), 0)
    torch.testing.assert_close(found, 0.7 * losses[0] + 0.3 * losses[1])


def test_the_weights_of_the_classes_count_in_the_loss() -> None:
    model = Classifier(**SIZE, class_weights="balanced")
    torch.nn.init.normal_(model.vit.head.weight)
    model._is_logging_step = lambda _: False  # type: ignore[method-assign]
    model.class_weights.copy_(torch.linspace(0.1, 4.0, 10))
    rows = torch.arange(4)
    batch = Batch(torch.randn(4, 1, 8, 8), rows, rows, rows >= 0, epoch=0, key=7)
    chosen = model(batch.x).log_softmax(dim=1)[rows, rows]  # image i is of class i
    expected = -(torch.linspace(0.1, 4.0, 10)[:4] * chosen).mean()
    torch.testing.assert_close(model.training_step(batch, 0), expected)


@pytest.mark.parametrize("prepare", [lambda batch: batch, soft_targets], ids=["hard", "soft"])
def test_train_accuracy_counts_the_class_of_the_largest_share(prepare: Any) -> None:
    model = Classifier(**SIZE)
    logits = torch.randn(8, 10)
    model.vit = Fixed(logits)  # type: ignore[assignment]
    model._is_logging_step = lambda _: False  # type: ignore[method-assign]
    rows, labels = torch.arange(8), torch.randint(0, 10, (8,))
    for half in rows.split(4):
        x = half.float().view(-1, 1, 1, 1)
        model.training_step(prepare(Batch(x, labels[half], half, half >= 0, 0, 0)), 0)
    logged: dict[str, Tensor] = {}
    model.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    alone: Any = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda own, **_: own))
    model._trainer = alone
    model.on_train_epoch_end()
    hits = logits.argsort(dim=1, descending=True) == labels[:, None]
    assert logged["train/acc"] == hits[:, 0].float().mean()
    assert logged["train/acc5"] == hits[:, :5].any(dim=1).float().mean()


def test_loss_and_rate_are_logged_where_the_logger_writes_them(tmp_path: Path) -> None:
    logger, recorder = CSVLogger(tmp_path), Recorder()
    trainer = pl.Trainer(
        **{**QUIET, "logger": logger},
        callbacks=[recorder],
        max_steps=9,
        log_every_n_steps=3,
        accumulate_grad_batches=2,
    )
    trainer.fit(Classifier(**SIZE, warmup_fraction=0.5, lr=0.05), digits())
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [2, 5, 8]
    batches = [5, 11, 17]  # the last of two of each of these steps
    losses = [2 * loss for loss in recorder.losses]  # Lightning halves those of two batches
    for column, values in (("train/loss", losses), ("lr", recorder.rates)):
        expected = [values[batch] for batch in batches]
        assert [float(row[column]) for row in rows] == pytest.approx(expected, rel=1e-5)
        assert len(set(expected)) == 3


def test_a_compiled_model_trains_as_a_plain_one_and_tells_its_cost_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vitlit.training.compiling.COMPILER", "aot_eager")
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Classifier(**SIZE, compile=compiled)
        with caplog.at_level("INFO"):
            losses = fit(model, digits(crop_padding=1), max_steps=3, limit_val_batches=1).losses
        runs.append((losses, model.state_dict()))
    assert len([text for text in caplog.messages if "first step took" in text]) == 1
    (plain, weights), (compiled_losses, compiled_weights) = runs
    assert compiled_losses == pytest.approx(plain, rel=1e-5)
    assert compiled_weights.keys() == weights.keys()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_with_fused_optimisers_too(precision: Any, algorithm: str) -> None:
    class Watch(pl.Callback):
        seen: list[list[Tensor]] = []  # noqa: RUF012

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            grads = [p.grad.clone() for p in pl_module.parameters() if p.grad is not None]
            self.seen.append(grads)

    watch = Watch()
    watch.seen = []
    model = Classifier(**SIZE)
    torch.nn.init.normal_(model.vit.head.weight)
    pl.Trainer(
        **QUIET,
        callbacks=[watch],
        max_steps=2,
        precision=precision,
        gradient_clip_val=1e-3,
        gradient_clip_algorithm=algorithm,
    ).fit(model, digits())
    grads = next(grads for grads in watch.seen if grads)
    if algorithm == "norm":
        assert torch.cat([grad.flatten() for grad in grads]).norm() == pytest.approx(1e-3, rel=1e-3)
    else:
        assert max(float(grad.abs().max()) for grad in grads) == pytest.approx(1e-3)


class Fixed(torch.nn.Module):
    """A model that answers with given logits."""

    num_classes = 10

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x[:, 0, 0, 0].long()]


def test_scores_count_valid_rows_alone() -> None:
    model = Classifier(**SIZE)
    logits = torch.randn(6, 10)
    targets = torch.randint(0, 10, (6,))
    model.vit = Fixed(logits)  # type: ignore[assignment]
    valid = torch.tensor([True, True, True, True, True, False])
    for rows in (torch.arange(4), torch.arange(4, 6)):
        x = rows.float().view(-1, 1, 1, 1)
        batch = Batch(x, targets[rows], rows, valid[rows], epoch=0, key=0)
        model.test_step(batch, 0)
    found = model.test_metrics.compute()
    ranks = logits[:5].argsort(dim=1, descending=True)
    hits = ranks == targets[:5, None]
    assert found["acc"] == hits[:, 0].float().mean()
    assert found["acc5"] == hits[:, :5].any(dim=1).float().mean()
    torch.testing.assert_close(found["loss"], F.cross_entropy(logits[:5], targets[:5]))
    there = targets[:5].unique()
    recall = recall_score(targets[:5], logits[:5].argmax(dim=1), labels=there, average="macro")
    assert float(found["balanced_acc"]) == pytest.approx(recall)


def test_a_batch_without_valid_rows_changes_nothing() -> None:
    model = Classifier(**SIZE)
    rows = torch.arange(2)
    model.test_step(Batch(torch.randn(2, 1, 8, 8), rows, rows, rows >= 0, 0, 0), 0)
    before = model.test_metrics.compute()
    model.test_step(Batch(torch.randn(2, 1, 8, 8), rows, rows, rows < 0, 0, 0), 1)
    assert model.test_metrics.compute() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "lr -1.0"),
        ({"lr": 0.1, "min_lr": 0.2}, "min_lr 0.2"),
        ({"head_lr": 0.0}, "head_lr 0.0 is not positive"),
        ({"warmup_epochs": 1.0, "warmup_fraction": 0.1}, "exclude each other"),
        ({"warmup_fraction": 1.5}, "warmup_fraction 1.5"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
        ({"class_names": ["a", "b"]}, "2 class names for 10 classes"),
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'; known: adamw, adam, sgd, muon"),
        ({"muon_lr": 0.01}, "muon_lr 0.01 is for optimizer muon, not adamw"),
        ({"muon_lr": -1.0, "optimizer": "muon"}, "muon_lr -1.0 is not positive"),
        ({"optimizer": "muon", "freeze_blocks": 1}, "freeze_blocks 1 freezes them all"),
        ({"optimizer": "muon", "freeze_blocks": -1}, "freeze_blocks -1 freezes them all"),
        ({"schedule": "cos"}, "unknown schedule 'cos'"),
        ({"decay": "some"}, "unknown decay 'some'"),
        ({"class_weights": "bal"}, "unknown class_weights 'bal'"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classifier(**SIZE, **changes)


def test_a_cosine_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="max_epochs"):
        fit(Classifier(**SIZE), digits(), max_epochs=-1, limit_train_batches=1)


def test_a_compiler_that_fails_is_a_short_message() -> None:
    error = InductorError(RuntimeError("no compiler found"), None)
    assert "give --model.compile false" in (advice(error) or "")


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.8}])
def test_balanced_weights_are_those_of_the_training_split(changes: dict[str, Any]) -> None:
    model, data = Classifier(class_weights="balanced", **SIZE), digits(**changes)
    recorder = fit(model, data, max_steps=1)
    counts = data.splits["train"].labels.bincount()
    torch.testing.assert_close(model.class_weights, counts.sum() / (10 * counts))
    assert recorder.losses[0] == pytest.approx(math.log(10), rel=0.02)
    assert "class_weights" not in model.state_dict()


@pytest.mark.parametrize(
    ("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", None)]
)
def test_one_kernel_updates_all_weights_unless_a_scaler_has_to_unscale_them(
    precision: str, fused: bool | None
) -> None:
    model: Any = Classifier(**SIZE)
    model.trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    assert model.configure_optimizers()["optimizer"].defaults["fused"] is fused


def test_the_hook_that_lightning_notes_is_set_without_a_search_of_the_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Classifier(**SIZE)

    def search(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.nn.Module, "__setattr__", search)
    for name in ("on_train_start", None):
        model._current_fx_name = name
        assert model._current_fx_name is name
    for other in ("new", "_current_fx_name"):
        with pytest.raises(AssertionError):
            setattr(model, other, 1)


@pytest.mark.parametrize(
    "setting", [{"warmup_epochs": 1.0}, {"warmup_steps": 1}, {"warmup_fraction": 0.5}, {"lr": 1e-9}]
)
def test_one_way_to_warm_up_is_enough(setting: dict[str, Any]) -> None:
    assert Classifier(**SIZE, **setting).hparams[next(iter(setting))] == next(
        iter(setting.values())
    )


def test_the_usual_rate_is_torchs_and_all_else_is_off() -> None:
    settings = Classifier(**SIZE).hparams
    usual = {name: p.default for name, p in signature(torch.optim.AdamW).parameters.items()}
    assert settings["lr"] == usual["lr"]
    off = ("warmup_epochs", "warmup_steps", "warmup_fraction", "min_lr", "label_smoothing")
    off += ("freeze_blocks", "pretrained", "grad_checkpointing", "compile")
    assert not any(settings[name] for name in off)
    assert settings["layer_decay"] == 1  # every layer has the same rate


def test_other_data_than_its_own_are_refused_before_a_step() -> None:
    data = digits()
    data.setup("fit")
    trainer = pl.Trainer(max_steps=1, **QUIET)
    with pytest.raises(InputError, match=r"takes its batches from vitlit\.ImageData"):
        trainer.fit(Classifier(**SIZE), data.train_dataloader(), data.val_dataloader())


def test_a_trainer_that_would_replace_the_order_of_the_data_is_refused() -> None:
    with pytest.raises(InputError, match="overfit_batches would replace the order"):
        pl.Trainer(max_steps=1, overfit_batches=1, **QUIET).fit(Classifier(**SIZE), digits())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_classes": 12}, r"the model has 12 classes, and the data set has 10 \(0, 1"),
        ({"num_classes": 5}, "the model has 5 classes, .* of as many"),
        ({"class_names": list("1023456789")}, "class_names 1, 0, 2, .* are not those of the data"),
    ],
)
def test_a_model_of_other_classes_than_the_data_is_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pl.Trainer(max_steps=1, **QUIET).fit(Classifier(**SIZE | settings), digits())


def test_a_model_without_names_takes_those_of_the_data() -> None:
    names = list("abcdefghij")
    model = Classifier(**SIZE)
    pl.Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(model, digits(class_names=names))
    assert model.class_names == model.hparams["class_names"] == names
