"""A training that was cut off and goes on from its checkpoint equals one that was not."""

import csv
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from trainings import EPOCHS, RUN, STATE, newest_run, same

from vitlit.__main__ import main
from vitlit.data.batch import Batch
from vitlit.training.checkpoint_callbacks import BestCheckpoint
from vitlit.training.classifier import Classifier
from vitlit.training.optim.schedule import warmup_cosine

DROPOUT = ["--model.pos_drop_rate=0.2", "--model.drop_path_rate=0.1"]
AVERAGED = ["--ema.decay=0.9"]
ACCUMULATED = ["--trainer.accumulate_grad_batches=4"]
MIXED = ["--data.mixup=0.5"]
RECOMPUTED = ["--model.grad_checkpointing=true"]
MUON = ["--model.optimizer=muon", "--trainer.gradient_clip_val=1"]
STEM = ["--model.patch_embed=conv_stem", "--model.stem_convs=2", "--model.stem_norm=batch"]
VALIDATED_OFTEN = ["--trainer.val_check_interval=0.5"]


class Cut(BaseException):
    """Ends a training as abruptly as an exception can."""


class Recorder:
    """Notes which samples each training step was given; cuts the training off where asked."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int]]] = []  # epoch, samples
        self.cut_after: int | None = None
        self.stop_after: int | None = None
        self.cut_in_validation: int | None = None
        self.validations = 0


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return recording(monkeypatch)


def recording(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    train, validate = Classifier.training_step, Classifier.validation_step

    def training_step(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        if recorder.cut_after == len(recorder.batches):
            raise Cut
        recorder.batches.append((batch.epoch, batch.sample.tolist()))
        self.trainer.should_stop = len(recorder.batches) == recorder.stop_after
        return train(self, batch, batch_idx)

    def validation_step(self: Classifier, batch: Batch, batch_idx: int) -> None:
        recorder.validations += not self.trainer.sanity_checking
        if recorder.cut_in_validation == recorder.validations:
            raise Cut
        validate(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr(Classifier, "validation_step", validation_step)
    return recorder


class Outcome(NamedTuple):
    """What a training left: the content of last.ckpt, and the rows of its history."""

    checkpoint: dict[str, Any]
    history: list[dict[str, str]]


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> Outcome:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    assert main([*RUN, *args]) == 0
    run = newest_run()
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return Outcome(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True), rows)


def assert_same(found: Outcome, expected: Outcome) -> None:
    for name in STATE:
        assert same(found.checkpoint.get(name), expected.checkpoint.get(name)), name


SETTINGS = {
    "plain": DROPOUT,
    "averaged": [*DROPOUT, *AVERAGED, *MIXED],
    "accumulated": [*DROPOUT, *ACCUMULATED, *RECOMPUTED],
    "accumulated by three": [*DROPOUT, "--trainer.accumulate_grad_batches=3"],
    "averaged and accumulated": [*DROPOUT, *AVERAGED, *ACCUMULATED, *MIXED],
    "validated often": [*DROPOUT, *AVERAGED, *VALIDATED_OFTEN],
    "validated within steps": [*DROPOUT, *ACCUMULATED, *VALIDATED_OFTEN],
    "ended by steps": [*DROPOUT, *AVERAGED, *MUON, *STEM, "--trainer.max_steps=16"],
    "validated rarely": [*DROPOUT, "--trainer.check_val_every_n_epoch=2"],
}


WHOLE: dict[str, tuple[Outcome, list[tuple[int, list[int]]]]] = {}


def train_whole(
    settings: str, folder: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> tuple[Outcome, list[tuple[int, list[int]]]]:
    """What an uninterrupted training leaves, and its batches; trained once for all tests."""
    if settings not in WHOLE:
        outcome = fit(folder, monkeypatch, EPOCHS, *SETTINGS[settings])
        WHOLE[settings] = outcome, recorder.batches
    recorder.batches, recorder.validations = [], 0
    return WHOLE[settings]


def cut(folder: Path, monkeypatch: pytest.MonkeyPatch, settings: str) -> int:
    """Train until the recorder ends it; batches that the last checkpoint has."""
    with pytest.raises(Cut):
        fit(folder, monkeypatch, EPOCHS, *SETTINGS[settings])
    saved = torch.load(newest_run() / "checkpoints" / "last.ckpt")["position"]
    return saved["epoch"] * saved["batches"] + saved["batch"]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a plain training ended in its first epoch."""
    folder = tmp_path_factory.mktemp("cut_off")
    with pytest.MonkeyPatch.context() as patch:
        recording(patch).cut_after = 2
        cut(folder, patch, "plain")
    return folder


def numbers(row: dict[str, str]) -> dict[str, float]:
    """All but the time that it took."""
    return {name: float(value or "nan") for name, value in row.items() if name != "seconds"}


def in_step(settings: str) -> int:
    """Batches of an optimiser step; a training cut off before the first has no checkpoint."""
    [count] = [
        int(word.partition("=")[2])
        for word in ["--trainer.accumulate_grad_batches=1", *SETTINGS[settings]]
        if "accumulate" in word
    ][-1:]
    return count


CUTS = [5, 9]  # in the first epoch, in the second
FAST = ["averaged and accumulated", "validated within steps", "ended by steps", "validated rarely"]
ENDS, LAST = {"ended by steps": 16}, 18  # batches of a whole training
SLOW = [1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 15, 17]


def cuts_of(settings: str) -> list[int]:
    """Those that are not slow."""
    # one of each kind, which between them have all options, at the two places in turn
    return [CUTS[FAST.index(settings) % 2]] if settings in FAST else []


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.parametrize(
    ("settings", "cut_after"),
    [
        pytest.param(name, count, marks=[] if count in cuts_of(name) else pytest.mark.slow)
        for name in SETTINGS
        for count in [*CUTS, *SLOW]
        if in_step(name) <= count < ENDS.get(name, LAST)
    ],
)
def test_a_training_cut_off_at_any_batch_goes_on_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Recorder,
    settings: str,
    cut_after: int,
) -> None:
    expected, batches = train_whole(settings, tmp_path / "whole", monkeypatch, recorder)
    recorder.cut_after = cut_after
    done = cut(tmp_path / "cut", monkeypatch, settings)
    recorder.cut_after = None
    assert cut_after - done < in_step(settings)
    del recorder.batches[done:]
    found = fit(tmp_path / "cut", monkeypatch, EPOCHS, *SETTINGS[settings], "--ckpt_path=last")
    assert recorder.batches == batches
    assert_same(found, expected)
    assert [list(row) for row in found.history] == [list(row) for row in expected.history]
    for row, other in zip(found.history, expected.history, strict=True):
        assert numbers(row) == pytest.approx(numbers(other), rel=1e-6, nan_ok=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_goes_on_within_an_epoch_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    args = ["--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.deterministic=true"]
    args += [EPOCHS, *DROPOUT, *AVERAGED, *MIXED]
    expected = fit(tmp_path / "whole", monkeypatch, *args)
    recorder.batches, recorder.cut_after = [], 9  # of six in each epoch
    with pytest.raises(Cut):
        fit(tmp_path / "cut", monkeypatch, *args)
    recorder.cut_after = None
    assert_same(fit(tmp_path / "cut", monkeypatch, *args, "--ckpt_path=last"), expected)


@pytest.mark.parametrize("settings", ["averaged", "validated often"])
def test_a_training_cut_off_in_validation_validates_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder, settings: str
) -> None:
    expected, batches = train_whole(settings, tmp_path / "whole", monkeypatch, recorder)
    recorder.cut_in_validation = 4  # the last batch of the second validation
    done = cut(tmp_path / "cut", monkeypatch, settings)
    recorder.cut_in_validation, recorder.validations = None, 0
    assert done == len(recorder.batches)
    found = fit(tmp_path / "cut", monkeypatch, EPOCHS, *SETTINGS[settings], "--ckpt_path=last")
    assert recorder.batches == batches
    assert_same(found, expected)
    assert found.history[1]["val/acc"] == expected.history[1]["val/acc"]


def test_a_checkpoint_of_the_best_epoch_goes_on_as_its_run_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    expected, _ = train_whole("averaged", tmp_path / "whole", monkeypatch, recorder)
    monkeypatch.setattr(EarlyBest, "kept", 2)
    monkeypatch.setattr("vitlit.commands.fit_callbacks.BestCheckpoint", EarlyBest)
    fit(tmp_path / "best", monkeypatch, EPOCHS, *SETTINGS["averaged"])
    best = newest_run() / "checkpoints" / "best.ckpt"
    assert torch.load(best)["position"]["epoch"] == 2
    args = [EPOCHS, *SETTINGS["averaged"], f"--ckpt_path={best}"]
    assert_same(fit(tmp_path / "best", monkeypatch, *args), expected)


def test_a_best_checkpoint_from_amid_an_optimiser_step_goes_on_as_its_run_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validated after 3 batches, of which the last has not reached the weights."""
    args = ["--trainer.max_epochs=2", *DROPOUT, *VALIDATED_OFTEN]
    args += ["--trainer.accumulate_grad_batches=2"]
    expected = fit(tmp_path / "whole", monkeypatch, *args)
    monkeypatch.setattr(EarlyBest, "kept", 1)
    monkeypatch.setattr("vitlit.commands.fit_callbacks.BestCheckpoint", EarlyBest)
    fit(tmp_path / "best", monkeypatch, *args)
    best = newest_run() / "checkpoints" / "best.ckpt"
    assert torch.load(best)["position"]["batch"] == 2
    found = fit(tmp_path / "best", monkeypatch, *args, f"--ckpt_path={best}")
    assert_same(found, expected)
    for row, other in zip(found.history, expected.history, strict=True):
        assert numbers(row) == pytest.approx(numbers(other), rel=1e-6, nan_ok=True)


class EarlyBest(BestCheckpoint):
    """Keeps the checkpoint after ``kept`` validations as the best."""

    kept = 1
    seen = 0

    def check_monitor_top_k(self, trainer: Any, current: torch.Tensor | None = None) -> bool:
        self.seen += 1
        return self.seen == self.kept


def test_a_longer_training_goes_on_as_one_planned_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rate is that of the longer cosine at its step."""
    fit(tmp_path, monkeypatch, "--trainer.max_epochs=1")
    found = fit(tmp_path, monkeypatch, "--trainer.max_epochs=2", "--ckpt_path=last")
    [rate] = {group["lr"] for group in found.checkpoint["optimizer_states"][0]["param_groups"]}
    assert rate == pytest.approx(0.0, abs=1e-12)  # the end of 12 steps
    expected = 5e-3 * warmup_cosine(11, total=12, warmup=1, floor=0.0)
    assert float(found.history[1]["lr"]) == pytest.approx(expected)


def test_a_rate_given_anew_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["--trainer.max_epochs=2", "--model.schedule=constant", "--model.warmup_fraction=0"]
    fit(tmp_path, monkeypatch, *args, "--trainer.max_epochs=1")
    found = fit(tmp_path, monkeypatch, *args, "--model.lr=1e-5", "--ckpt_path=last")
    assert [float(row["lr"]) for row in found.history] == pytest.approx([5e-3, 1e-5])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--seed_everything=1", "--seed_everything"),
        ("--data.batch_size=32", "--data.batch_size"),
        ("--data.val_fraction=0.3", "--data.val_fraction"),
        ("--trainer.accumulate_grad_batches=2", "--trainer.accumulate_grad_batches"),
        ("--trainer.limit_train_batches=5", "--trainer.limit_train_batches"),
        ("--data.repeated_augment=2", "--data.repeated_augment"),
    ],
)
def test_other_batches_within_an_epoch_are_refused(
    cut_off: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
    named: str,
) -> None:
    monkeypatch.chdir(cut_off)
    assert main([*RUN, EPOCHS, *SETTINGS["plain"], change, "--ckpt_path=last"]) == 2
    assert named in capsys.readouterr().err


def test_a_checkpoint_from_before_copies_were_kept_goes_on(
    cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cut_off, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    path = newest_run() / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    for name in ("copies", "window"):
        del content["position"][name]
    torch.save(content, path)
    assert main([*RUN, EPOCHS, *SETTINGS["plain"], "--ckpt_path=last"]) == 0


@pytest.mark.parametrize("settings", ["plain", "averaged and accumulated", "accumulated by three"])
@pytest.mark.parametrize("batches", [8, 16])  # in the second epoch, in the last one
def test_an_epoch_that_a_time_limit_ended_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Recorder,
    settings: str,
    batches: int,
) -> None:
    expected, all_batches = train_whole(settings, tmp_path / "whole", monkeypatch, recorder)
    recorder.stop_after = batches  # as Lightning's Timer does
    args = [EPOCHS, *SETTINGS[settings], "--run=timed"]
    fit(tmp_path / "cut", monkeypatch, *args)
    assert not (newest_run() / "finished").exists()
    recorder.stop_after = None
    found = fit(tmp_path / "cut", monkeypatch, *args)
    assert_same(found, expected)
    assert [numbers(row) for row in found.history] == [numbers(row) for row in expected.history]
    assert (newest_run() / "finished").exists()
    if settings == "plain":
        assert recorder.batches == all_batches


def test_the_patience_of_a_resumed_training_is_the_one_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    args = ["--trainer.max_epochs=4", "--early_stopping.min_delta=0.9"]  # which no epoch gains
    fit(tmp_path, monkeypatch, *args, "--early_stopping.patience=1")
    assert len(recorder.batches) == 12
    fit(tmp_path, monkeypatch, *args, "--early_stopping.patience=9", "--ckpt_path=last")
    assert len(recorder.batches) == 24


@pytest.mark.parametrize("limit", ["--trainer.limit_val_batches=0", "--trainer.max_steps=3"])
def test_without_a_validation_early_stopping_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    args = ["--trainer.max_epochs=2", "--early_stopping.patience=1", limit]
    found = fit(tmp_path, monkeypatch, *args)
    assert found.checkpoint["global_step"] == (3 if "steps" in limit else 12)


def test_a_score_is_not_of_weights_that_were_trained_on_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, monkeypatch, "--trainer.max_steps=9")  # in the middle of the second epoch
    best = torch.load(newest_run() / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 6


@pytest.mark.parametrize(
    ("before", "after"), [(["--ema.decay=0"], AVERAGED), (AVERAGED, ["--ema.decay=0"])]
)
def test_an_average_is_neither_begun_nor_dropped_midway(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: list[str],
    after: list[str],
) -> None:
    fit(tmp_path, monkeypatch, "--trainer.max_epochs=1", *before)
    assert main([*RUN, "--trainer.max_epochs=2", *after, "--ckpt_path=last"]) == 2
    assert "--ema.decay" in capsys.readouterr().err


def test_a_training_that_stopped_early_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    args = ["--trainer.max_epochs=9", "--early_stopping.patience=1"]
    args += ["--early_stopping.min_delta=0.9"]  # which no epoch gains
    fit(tmp_path, monkeypatch, *args)
    trained = len(recorder.batches)
    assert trained == 12
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, *args, "--ckpt_path=last"]) == 2  # a new run would be empty
    [run] = tmp_path.glob("lightning_logs/*")
    (run / "finished").unlink()  # as if it had been killed before it could say so
    assert main([*RUN, *args, f"--run={run.name}"]) == 0
    assert len(recorder.batches) == trained


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_and_validation_do_not_change_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    args = ["--trainer.max_epochs=2", *DROPOUT, *MIXED]
    expected = fit(tmp_path / "none", monkeypatch, *args)
    args += [f"--data.num_workers={workers}", "--trainer.check_val_every_n_epoch=2"]
    found = fit(tmp_path / "some", monkeypatch, *args)
    for name in ("state_dict", "optimizer_states"):
        assert same(found.checkpoint[name], expected.checkpoint[name])


@pytest.mark.parametrize(("before", "after"), [("2", "0"), ("0", "1"), ("2", "2")])
def test_workers_may_change_when_a_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Recorder,
    before: str,
    after: str,
) -> None:
    expected, batches = train_whole("plain", tmp_path / "whole", monkeypatch, recorder)
    args = [EPOCHS, *SETTINGS["plain"]]
    recorder.cut_after = 8
    with pytest.raises(Cut):
        fit(tmp_path / "cut", monkeypatch, *args, f"--data.num_workers={before}")
    recorder.cut_after = None
    more = [f"--data.num_workers={after}", "--ckpt_path=last"]
    assert_same(fit(tmp_path / "cut", monkeypatch, *args, *more), expected)
    assert recorder.batches == batches
