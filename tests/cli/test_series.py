"""What --folds and --repeats ask for: the words of each training, and what is refused."""

from pathlib import Path

import pytest

from vitlit.cli.overview import wants_series
from vitlit.cli.series import Series, check_series, read_series
from vitlit.errors import InputError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no launcher has started."""
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def read(words: str) -> Series:
    return read_series(words.split())


@pytest.mark.parametrize("words", ["--folds 3", "--folds=3"])
def test_each_fold_is_a_run_of_its_own_within_that_of_the_series(words: str) -> None:
    found = read(f"PHOTOS {words} --run cv --model.lr 0.1 --trainer.accelerator=cpu")
    assert found.folder == Path("lightning_logs/cv")
    assert found.names == ["fold1", "fold2", "fold3"]
    own = "fit PHOTOS --run cv --model.lr 0.1 --trainer.accelerator=cpu --run=cv/fold2"
    assert found.fit_words(2) == [*own.split(), "--data.fold=2/3"]
    test = "test --ckpt_path=lightning_logs/cv/fold2 --trainer.accelerator=cpu"
    assert found.test_words_of(2) == test.split()
    way_on = "vitlit fit PHOTOS --run cv --model.lr 0.1 --trainer.accelerator=cpu --folds 3"
    assert found.way_on() == way_on


def test_repeats_count_both_seeds_up_from_those_given(tmp_path: Path) -> None:
    config = tmp_path / "seeds.yaml"
    config.write_text("seed_everything: 40\ndata: {split_seed: 7}\nrun: often\n")
    found = read(f"--config {config} --data.split_seed 9 --repeats 2")
    assert found.folder.name == "often"
    end = ["--run=often/repeat2", "--data.split_seed=10", "--seed_everything=41"]
    assert found.fit_words(2)[-3:] == end


def test_a_series_without_a_name_is_named_after_the_time_and_continued_by_it() -> None:
    found = read("--folds 5 --config digits.yaml")
    words = found.way_on().split()
    assert words[:4] == ["vitlit", "fit", "--config", "digits.yaml"]
    assert words[4:] == ["--folds", "5", "--run", found.folder.name]


def test_the_folder_of_runs_is_where_the_config_puts_it(tmp_path: Path) -> None:
    config = tmp_path / "place.yaml"
    config.write_text("trainer: {default_root_dir: elsewhere, devices: 2}\n")
    found = read(f"-c {config} --folds 2 --run a")
    assert found.folder == Path("elsewhere/lightning_logs/a")
    assert "--trainer.devices=2" in found.test_words_of(1)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--folds", r"folds \(nothing\) is not between 2 and 1000"),
        ("--folds 1", "folds 1 is not between 2 and 1000"),
        ("--repeats=-3", "repeats -3 is not between 2 and 1000"),
        ("--folds five", "folds five is not"),
        ("--folds 5 --repeats 5", "two ways to train several times"),
        ("--folds 5 --ckpt_path a.ckpt", "none that ckpt_path a.ckpt could continue"),
        ("--folds 5 --data.fold 1/5", "data.fold 1/5 is one; leave out"),
        ("--folds 5 --trainer.fast_dev_run true", "fast_dev_run leaves none"),
        ("--repeats 5 --trainer.enable_checkpointing=false", "false leaves none"),
        ("--folds 5 --run a/b", "run 'a/b' is not a name"),
        ("--repeats 5 --seed_everything x", "seed_everything x is not a whole number"),
    ],
)
def test_what_cannot_be_a_series_is_refused(words: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(words)


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        ({"TORCHELASTIC_RUN_ID": "1"}, "torchrun"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "srun with 4 tasks"),
    ],
)
def test_a_launcher_of_several_processes_is_refused(
    launcher: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in launcher.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"so {name} cannot start it; .* --run NAME/fold1"):
        read("--folds 5")


def test_a_job_of_one_task_names_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert read("--folds 5").folder.name == "77"


@pytest.mark.parametrize("name", ["folds", "repeats"])
def test_a_config_cannot_ask_for_a_series(name: str) -> None:
    settings = {"folds": None, "repeats": None, name: 3}
    with pytest.raises(InputError, match=f"give --{name} 3 there, and leave it out of the config"):
        check_series(settings, "fit")
    with pytest.raises(InputError, match="pretrain learns no classes to test"):
        check_series(settings, "pretrain")
    check_series(settings, "test")  # the config of a training


def test_only_fit_trains_a_series_and_print_config_does_not() -> None:
    assert wants_series(["fit", "--folds=5"])
    assert not wants_series(["fit", "--data.fold=1/5"])
    assert not wants_series(["fit", "--folds", "5", "--print_config"])
    assert not wants_series(["test", "--folds", "5"])
