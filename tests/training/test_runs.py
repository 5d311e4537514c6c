"""Runs: names, locks, going on with the same command, and whose checkpoint `last` is."""

import multiprocessing
import os
import re
import shutil
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from vitlit.__main__ import main
from vitlit.data.batch import Batch
from vitlit.errors import InputError
from vitlit.fault_tolerance import ending
from vitlit.training import checkpoint_io, runs, slurm
from vitlit.training.classifier import Classifier
from vitlit.weights import checkpoint

SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
STEPS = ["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1"]
FIT = ["fit", "--config=digits.yaml", *SMALL, *QUIET, *STEPS, "--trainer.max_epochs=2"]
FIT += ["--trainer.num_sanity_val_steps=0", "--trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, for those who only start from one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        assert main([*FIT, "--run=trained"]) == 0
        return folder("trained").absolute()


def take(trained: Path, name: str) -> None:
    """A copy of the run under another name."""
    shutil.copytree(trained, folder(name))


def folder(name: str) -> Path:
    return Path("lightning_logs") / name


def last_checkpoint(name: str) -> Path:
    return folder(name) / "checkpoints" / "last.ckpt"


def steps_of(name: str) -> int:
    return torch.load(last_checkpoint(name), weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}, "12_2"),
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "interactive"}, None),
    ],
)
def test_a_job_names_its_run(environment: dict[str, str], name: str | None) -> None:
    assert slurm.job_name(environment) == name


@pytest.mark.parametrize("name", ["a/b", "..", "../a", "-a", "a b", ".a", ""])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a name"):
        runs.named_folder(tmp_path, name)


def test_runs_of_the_same_second_get_different_folders(tmp_path: Path) -> None:
    with runs.Claim() as first, runs.Claim() as second, runs.Claim() as third:
        taken = {claim.take(tmp_path, None) for claim in (first, second, third)}
    assert len(taken) == 3
    assert all(re.match(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", path.name) for path in taken)


def hold(told: Connection) -> None:
    """Take the run, say so, and keep it."""
    with runs.Claim() as claim:
        claim.take(Path(), folder("a"))
        told.send("locked")
        time.sleep(600)


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_cannot_write_one_run_until_one_ends() -> None:
    context = multiprocessing.get_context("fork")  # another one imports for seconds
    hearing, telling = context.Pipe(duplex=False)
    other = context.Process(target=hold, args=(telling,))
    other.start()
    try:
        assert hearing.recv() == "locked"
        with runs.Claim() as claim, pytest.raises(InputError, match=rf"process {other.pid} of"):
            claim.take(Path(), folder("a"))
    finally:
        other.kill()
        other.join()
    with runs.Claim() as claim:  # a killed process holds nothing
        claim.take(Path(), folder("a"))


def test_a_process_that_is_not_the_first_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    with runs.Claim() as claim:
        claim.take(tmp_path, tmp_path / "lightning_logs" / "a")
    assert not list(tmp_path.iterdir())


def test_best_is_of_the_training_and_not_of_a_later_trial(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main([*FIT, "--run=real", "--trainer.max_epochs=1"]) == 0
    assert main([*FIT, "--run=trial", "--config=debug.yaml"]) == 0
    with caplog.at_level("INFO"):
        best = checkpoint.resolve_checkpoint("best")
    assert best == folder("real") / "checkpoints" / "best.ckpt"
    assert f"best skips the debug run {folder('trial')}" in caplog.text
    assert not (folder("real") / "debug").exists()


def test_the_same_command_goes_on_and_a_finished_run_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*FIT, "--run=a", "--trainer.max_epochs=1"]) == 0
    assert (folder("a") / "finished").exists()
    assert main([*FIT, "--run=a"]) == 2
    assert "run a is finished; give the run another name" in capsys.readouterr().err
    (folder("a") / "finished").unlink()  # as if killed after the first epoch
    assert main([*FIT, "--run=a"]) == 0
    assert steps_of("a") == 6
    assert len(list(Path("lightning_logs").iterdir())) == 1
    # what was trained is longer, in another run
    assert main(["fit", f"--ckpt_path={last_checkpoint('a')}", "--run=b", *QUIET]) == 2
    assert "has already reached max_epochs 2" in capsys.readouterr().err
    assert not folder("b").exists()
    longer = [f"--ckpt_path={last_checkpoint('a')}", "--run=b", "--trainer.max_epochs=3"]
    assert main(["fit", *longer, *QUIET, "--trainer.log_every_n_steps=1"]) == 0
    assert steps_of("b") == 9  # limit_train_batches is the checkpoint's


def test_jobs_in_one_folder_take_their_own_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    take(trained, "other")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert main([*FIT, "--ckpt_path=last"]) == 2
    assert "no last checkpoint in the run lightning_logs/7" in capsys.readouterr().err
    for job in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        path = last_checkpoint(job)
        path.parent.mkdir(parents=True)
        path.write_bytes(last_checkpoint("other").read_bytes())
        os.utime(path, (int(job), int(job)))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    root = Path()
    assert runs.checkpoint_of(root, None, "last") == last_checkpoint("7")
    assert runs.start_of(runs.named_folder(root, None), None) == last_checkpoint("7")
    assert runs.checkpoint_of(root, "other", "last") == last_checkpoint("other")
    assert runs.checkpoint_of(root, "8", None) == last_checkpoint("8")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert runs.checkpoint_of(root, None, "last") == last_checkpoint("other")


@pytest.mark.faults
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path, trained: Path
) -> None:
    take(trained, "a")
    (folder("a") / "finished").unlink()
    data = bytearray(last_checkpoint("a").read_bytes())
    data[len(data) // 2] ^= 1
    last_checkpoint("a").write_bytes(data)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .* last-1\.ckpt, is used"):
        assert main([*FIT, "--run=a"]) == 0
    assert steps_of("a") == 6
    assert checkpoint.resolve_checkpoint(str(last_checkpoint("a"))) == last_checkpoint("a")


def test_a_job_does_not_start_from_a_checkpoint_that_is_not_its_own(
    monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    """Lightning starts any SLURM job from an hpc_ckpt_N.ckpt, and has handlers that write one."""
    take(trained, "other")
    Path("hpc_ckpt_1.ckpt").write_bytes(last_checkpoint("other").read_bytes())
    task = {"JOB_ID": "7", "JOB_NAME": "vitlit", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    task |= {"NODEID": "0", "NODELIST": "localhost", "CPUS_PER_TASK": "1"}
    for name, value in task.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGTERM)}
    seen: list[object] = []
    test = Classifier.test_step

    def test_step(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        seen.extend(map(signal.getsignal, before))
        return test(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "test_step", test_step)
    assert main([*FIT, "--trainer.max_epochs=1"]) == 0
    assert steps_of("7") == 3
    assert main(["test", "--ckpt_path=last", *QUIET, "--trainer.limit_test_batches=1"]) == 0
    # ours while the command runs, those of before afterwards, and never Lightning's
    assert [getattr(one, "__module__", one) for one in seen] == [ending.__name__] * len(before)
    assert {signum: signal.getsignal(signum) for signum in before} == before


def test_a_failed_training_leaves_no_folder() -> None:
    args = ["--model.warmup_fraction=0.1", "--trainer.max_epochs=-1", "--trainer.max_time=0:1:0:0"]
    assert main([*FIT, "--run=a", *args]) == 2
    assert not list(Path().iterdir())


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_failed_training_without_checkpoints_leaves_the_history_of_its_epochs(
    epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Classifier.training_step

    def training_step(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == epochs:
            raise InputError("stopped")
        return train(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    assert main([*FIT, "--run=bare", "--trainer.enable_checkpointing=false"]) == 2
    assert (folder("bare") / "history.csv").exists() == (epochs > 0)
    assert folder("bare").exists() == (epochs > 0)


def test_checkpoints_come_every_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    write = checkpoint_io.DurableIO.save_checkpoint

    def note(self: object, content: dict, path: Path, storage_options: object) -> None:
        saved.append(content["global_step"])
        states = content["optimizer_states"][0]["state"].values()
        assert {int(state["step"]) for state in states} == {content["global_step"]}
        if "averaging_state" in content:  # the average and the weights are what they should be
            name = "vit.head.weight"
            assert not torch.equal(
                content["state_dict"][name], content["current_model_state"][name]
            )
            assert int(content["averaging_state"]["n_averaged"]) == content["global_step"]
        write(self, content, path, storage_options)

    monkeypatch.setattr(checkpoint_io.DurableIO, "save_checkpoint", note)
    args = ["--trainer.limit_train_batches=12", "--trainer.accumulate_grad_batches=2"]
    args += ["--trainer.max_epochs=1", "--checkpoints.every_n_steps=2", "--ema.decay=0.9"]
    assert main([*FIT, "--run=a", *args]) == 0
    assert sorted(set(saved)) == [2, 4, 6]


def test_a_time_between_checkpoints_counts_from_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    now, train = 0.0, Classifier.training_step

    def training_step(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        nonlocal now
        now += 10.0
        return train(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr("vitlit.training.checkpoint_callbacks.time.monotonic", lambda: now)
    write = checkpoint_io.DurableIO.save_checkpoint

    def note(self: object, content: dict, path: Path, storage_options: object) -> None:
        saved.append(content["global_step"])
        write(self, content, path, storage_options)

    monkeypatch.setattr(checkpoint_io.DurableIO, "save_checkpoint", note)
    args = ["--trainer.limit_train_batches=9", "--trainer.max_epochs=1"]
    assert main([*FIT, "--run=a", *args, "--checkpoints.every_minutes=0.5"]) == 0
    assert sorted(set(saved)) == [3, 6, 9]


def test_a_shorter_command_does_not_end_a_run_that_was_cut_off(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    take(trained, "cut")
    (folder("cut") / "finished").unlink()  # as if it had been killed before its last epoch
    assert main([*FIT, "--run=cut", "--trainer.max_epochs=1"]) == 2
    assert "give --trainer.max_epochs above 2" in capsys.readouterr().err
    assert not (folder("cut") / "finished").exists()
    assert main([*FIT, "--run=cut"]) == 0  # the same command finds that all is done
    assert (folder("cut") / "finished").exists()


def test_a_run_without_checkpoints_says_so_and_is_never_finished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main([*FIT, "--run=bare", "--trainer.enable_checkpointing=false"]) == 0
    assert "no checkpoint will be written" in caplog.text
    assert not (folder("bare") / "finished").exists()


def test_of_a_run_folder_fit_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    files = {name: tmp_path / "run" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    assert checkpoint.resolve_checkpoint(str(tmp_path / "run")) == files["best"]
    assert runs.start_of(None, str(tmp_path / "run")) == files["last"]


def test_what_a_resume_changes_is_said(caplog: pytest.LogCaptureFixture, trained: Path) -> None:
    take(trained, "first")
    more = ["--trainer.max_epochs=3", "--model.lr=0.02"]
    assert main([*FIT, *more, "--run=second", f"--ckpt_path={last_checkpoint('first')}"]) == 0
    assert "model.lr 0.02 (was 0.005)" in caplog.text


def test_a_run_whose_last_checkpoint_is_gone_goes_on_from_its_best(trained: Path) -> None:
    take(trained, "gone")
    (folder("gone") / "finished").unlink()
    for file in folder("gone").glob("checkpoints/last*.ckpt"):
        file.unlink()
    with pytest.warns(UserWarning, match=r"run gone has no last\.ckpt; it resumes from best\.ckpt"):
        assert main([*FIT, "--run=gone", "--trainer.max_epochs=4"]) == 0
    assert steps_of("gone") == 12


def test_another_checkpoint_of_a_run_that_has_its_own_is_said_to_be_left_out(
    trained: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("first", "second"):
        take(trained, name)
    (folder("second") / "finished").unlink()
    more = ["--trainer.max_epochs=3", f"--ckpt_path={last_checkpoint('first')}"]
    assert main([*FIT, *more, "--run=second"]) == 0
    assert "run second resumes from its own last.ckpt, not lightning_logs/first" in caplog.text


def test_what_was_held_out_is_never_trained_on(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    take(trained, "first")
    more = ["--trainer.max_epochs=3", f"--ckpt_path={last_checkpoint('first')}", "--run=second"]
    assert main([*FIT, *more, "--data.split_seed=5"]) == 2
    message = capsys.readouterr().err
    assert "data.split_seed 5 contradicts" in message
    assert "images that it held out would be trained on" in message


def test_a_training_that_early_stopping_ended_says_so_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    early = ["--early_stopping.patience=1", "--early_stopping.min_delta=1"]
    assert main([*FIT, *early, "--run=first", "--trainer.max_epochs=9"]) == 0
    assert "early: val/acc did not improve for 1 validations" in capsys.readouterr().out
    more = [f"--ckpt_path={last_checkpoint('first')}", "--run=second", "--trainer.max_epochs=4"]
    assert main([*FIT, *more]) == 2
    assert "give --early_stopping.patience 0, or more than 1" in capsys.readouterr().err
    assert main([*FIT, *more, "--early_stopping.patience=0"]) == 0
    assert steps_of("second") == 12


def test_the_folder_of_a_run_is_made_with_those_above_it(tmp_path: Path) -> None:
    for named in (None, tmp_path / "c" / "d" / "first"):
        with runs.Claim() as claim:
            folder = claim.take(tmp_path / "a" / "b", named)
            assert folder.is_dir()
            (folder / "kept").touch()
    assert named == folder


def test_folds_from_weights_of_the_same_images_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take(trained, "first")
    args = ["--model.pretrained=lightning_logs/first", "--data.fold=1/3", "--run=second"]
    assert main([*FIT, *args]) == 2
    assert "would be tested on images that lightning_logs/first was" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_process_that_comes_second_leaves_the_folder_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(folder: Path) -> None:
        raise InputError("run a is being written by another process")

    monkeypatch.setattr(runs, "lock_folder", locked)
    (folder("a")).mkdir(parents=True)
    with pytest.raises(InputError, match="another process"), runs.Claim() as claim:
        claim.take(tmp_path, folder("a"))
    assert folder("a").is_dir()


def test_without_checkpoints_no_room_for_them_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "require_room", lambda *_: pytest.fail("room was asked for"))
    one = ["--trainer.max_epochs=1", "--trainer.enable_checkpointing=false"]
    assert main([*FIT, "--run=a", *one]) == 0
