"""Finding, reading and loading checkpoints."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from vitlit.errors import InputError
from vitlit.training import checkpoint_io
from vitlit.weights import checkpoint, durable_file, load


def touch(path: Path, time: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


def test_a_file_is_itself(tmp_path: Path) -> None:
    file = touch(tmp_path / "a.ckpt")
    assert checkpoint.resolve_checkpoint(str(file)) == file


def test_a_missing_run_gets_the_name_of_the_most_similar(tmp_path: Path) -> None:
    touch(tmp_path / "first" / "checkpoints" / "best.ckpt")
    touch(tmp_path / "second.txt")
    with pytest.raises(InputError, match=r"no checkpoint .*frist; did you mean first\?; give a"):
        checkpoint.resolve_checkpoint(str(tmp_path / "frist"))
    with pytest.raises(InputError, match=r"second; give a \.ckpt file"):
        checkpoint.resolve_checkpoint(str(tmp_path / "second"))


def test_a_run_folder_means_its_best_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path / "checkpoints" / "last.ckpt")
    best = touch(tmp_path / "checkpoints" / "best.ckpt")
    assert checkpoint.resolve_checkpoint(str(tmp_path)) == best


def test_a_run_folder_without_best_means_its_last(tmp_path: Path) -> None:
    last = touch(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint.resolve_checkpoint(str(tmp_path)) == last


@pytest.mark.parametrize("name", ["best", "last"])
def test_best_and_last_mean_the_newest_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("lightning_logs")
    newer = touch(runs / "a" / "checkpoints" / f"{name}.ckpt", time=200)
    touch(runs / "b" / "checkpoints" / f"{name}.ckpt", time=100)
    assert checkpoint.resolve_checkpoint(name) == newer


def test_the_newest_run_may_be_one_of_a_series_which_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("lightning_logs")
    touch(runs / "old" / "checkpoints" / "best.ckpt", time=100)
    one = touch(runs / "cv" / "fold1" / "checkpoints" / "best.ckpt", time=200)
    with pytest.raises(InputError, match=r"newest run, .*cv.fold1, is one of a series.*folder of"):
        checkpoint.resolve_checkpoint("best")
    assert checkpoint.resolve_checkpoint("lightning_logs/cv/fold1") == one
    newer = touch(runs / "new" / "checkpoints" / "best.ckpt", time=300)
    assert checkpoint.resolve_checkpoint("best") == newer


def test_an_older_file_stands_in_for_last_alone(tmp_path: Path) -> None:
    touch(tmp_path / "best-1.ckpt")
    with pytest.raises(InputError, match="no checkpoint in the folder"):
        checkpoint.resolve_checkpoint(str(tmp_path))
    last = touch(tmp_path / "last.ckpt")
    assert checkpoint.resolve_checkpoint(str(tmp_path)) == last


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_debug_run_counts_only_if_there_is_no_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("lightning_logs")
    trial = touch(runs / "trial" / "checkpoints" / f"{name}.ckpt", time=200)
    touch(runs / "trial" / "debug")
    assert checkpoint.resolve_checkpoint(name) == trial
    real = touch(runs / "real" / "checkpoints" / f"{name}.ckpt", time=100)
    assert checkpoint.resolve_checkpoint(name) == real


def test_last_without_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no last checkpoint in .*lightning_logs"):
        checkpoint.resolve_checkpoint("last")


@pytest.mark.parametrize("path", ["nowhere.ckpt", "https://example.org/a.ckpt", "."])
def test_what_is_no_checkpoint_is_refused_by_name(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=path.replace(".", r"\.")):
        checkpoint.resolve_checkpoint(path)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.target), "w"))


def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    file = tmp_path / "bad.ckpt"
    torch.save({"state_dict": Payload(target)}, file)
    with pytest.raises(InputError, match=r"cannot read .*bad\.ckpt as a checkpoint"):
        checkpoint.read_checkpoint(file)
    assert not target.exists()


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.ckpt"
    file.write_text("hello")
    with pytest.raises(InputError, match=r"text\.ckpt is not a checkpoint"):
        checkpoint.read_checkpoint(file)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(InputError, match=r"foreign\.ckpt is not a checkpoint of vitlit"):
        checkpoint.read_checkpoint(file)


def test_settings_that_name_a_class_are_refused(tmp_path: Path) -> None:
    settings = {"lr": {"class_path": "os.system"}}
    parts = {"state_dict": {}, checkpoint.MODEL_KEY: settings, checkpoint.DATA_KEY: {}}
    torch.save(parts, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt has settings that name classes"):
        checkpoint.read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    state = {"vit.norm.weight": torch.ones(4), "vit.norm.bias": torch.tensor([0.0, value])}
    parts = {"hyper_parameters": {}, "datamodule_hyper_parameters": {}}
    torch.save({"state_dict": state, **parts}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"norm\.bias of .*last\.ckpt holds 1 numbers"):
        checkpoint.read_checkpoint(tmp_path / "last.ckpt")


def test_load_names_a_checkpoint_whose_weights_lack(tmp_path: Path) -> None:
    model = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}
    parts = {"state_dict": {}, checkpoint.MODEL_KEY: model, checkpoint.DATA_KEY: {}}
    torch.save(parts, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"settings and the weights of .*a\.ckpt do not agree"):
        load.load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("kept", "precision"),
    [
        ({"trainer.precision": "bf16-mixed"}, "bf16-mixed"),
        ({"trainer.precision": 32}, "32"),
        ({"trainer.precision": ["16"]}, None),
        ({}, None),
        ("no settings", None),
    ],
    ids=str,
)
def test_the_precision_of_a_training_is_told_if_it_is_one(kept: Any, precision: str | None) -> None:
    assert checkpoint.trained_precision({checkpoint.TRAINING: kept}) == precision


def numbered(number: int) -> dict[str, int]:
    return {"number": number}


def number_in(file: Path) -> int:
    return torch.load(file, weights_only=True)["number"]


def test_a_damaged_file_never_takes_the_place_of_the_good_one_before_it(tmp_path: Path) -> None:
    last, before = tmp_path / "last.ckpt", tmp_path / "last-1.ckpt"
    first = checkpoint_io.DurableIO()
    for number in (1, 2):
        first.save_checkpoint(numbered(number), last)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    second = checkpoint_io.DurableIO()  # of the training that goes on
    second.save_checkpoint(numbered(3), last)
    assert (number_in(last), number_in(before)) == (3, 1)
    assert durable_file.is_intact(before)
    second.save_checkpoint(numbered(4), last)
    assert (number_in(last), number_in(before)) == (4, 3)


def test_what_a_process_wrote_itself_is_not_read_again_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, read = checkpoint_io.DurableIO(), []
    monkeypatch.setattr(durable_file, "is_intact", lambda path: read.append(path) or True)
    for number in (1, 2, 3):
        saving.save_checkpoint(numbered(number), tmp_path / "last.ckpt")
    assert not read
    assert number_in(tmp_path / "last-1.ckpt") == 2


def test_damage_since_a_process_wrote_is_noticed(tmp_path: Path) -> None:
    saving, last = checkpoint_io.DurableIO(), tmp_path / "last.ckpt"
    for number in (1, 2):
        saving.save_checkpoint(numbered(number), last)
    last.write_bytes(last.read_bytes()[:-70])
    saving.save_checkpoint(numbered(3), last)
    assert number_in(tmp_path / "last-1.ckpt") == 1


@pytest.mark.parametrize("name", ["best", "last"])
def test_best_and_last_of_a_named_run_are_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = touch(Path("lightning_logs/a/checkpoints") / f"{name}.ckpt", time=100)
    touch(Path("lightning_logs/b/checkpoints") / f"{name}.ckpt", time=200)
    assert checkpoint.resolve_checkpoint(name, Path("lightning_logs/a")) == own
    example = r"such as lightning_logs/b, or a \.ckpt file"
    with pytest.raises(InputError, match=f"no {name} checkpoint in the run none: .* {example}"):
        checkpoint.resolve_checkpoint(name, Path("none"))


def test_a_run_folder_means_its_last_checkpoint_for_who_prefers_it(tmp_path: Path) -> None:
    best = touch(tmp_path / "checkpoints" / "best.ckpt")
    assert checkpoint.resolve_checkpoint(str(tmp_path), prefer="last") == best
    last = touch(tmp_path / "last.ckpt")
    assert checkpoint.resolve_checkpoint(str(tmp_path), prefer="last") == last
    assert checkpoint.resolve_checkpoint(str(tmp_path), prefer="best") == best


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_what_is_not_used_of_a_checkpoint_stays_on_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    torch.save({"weights": torch.ones(100_000)}, file)
    content = checkpoint.read_content(file, mmap=True)
    assert str(file) in Path("/proc/self/maps").read_text()
    del content
    content = checkpoint.read_content(file, mmap=False)
    assert str(file) not in Path("/proc/self/maps").read_text()
    assert bool((content["weights"] == 1).all())
