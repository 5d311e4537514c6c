"""The benchmarks' arithmetic and text, and that their contestants compute the same."""

import importlib
import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import kept_scores
import measure
import numpy as np
import peers
import pytest
import recipe
import recipe_changes
import recipe_options
import recipe_record
import run_all
import torch
from recipe_record import Predictions

from vitlit.__main__ import main

BENCHMARKS = Path(measure.__file__).parent
KEPT = BENCHMARKS / "predictions"
SECONDS = {"timm": [2.0, 4.0, 3.0], "vitlit": [1.0, 4.0, 2.0]}


def test_contestants_take_turns_and_warm_up_first() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = measure.take_turns(calls, rounds=2, warmup=1, device="cpu")
    assert "".join(order) == "abcbcacab"
    assert {name: len(own) for name, own in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_ratio_above_one_is_faster_than_the_reference() -> None:
    cell = measure.Cell("step", SECONDS, "timm", items=6)
    assert cell.ratio("vitlit") == 1.5  # of medians: 3 over 2
    assert cell.ratios("vitlit") == [2.0, 1.0, 1.5]


def test_records_hold_speed_and_ratio() -> None:
    records = measure.Cell("step", SECONDS, "timm", items=6).records()
    assert records[1] == {
        "name": "step: vitlit",
        "value": 3.0,
        "unit": "images/s",
        "ratio_to": "timm",
        "ratio": 1.5,
    }


def test_a_table_file_keeps_the_section_of_the_other_device(tmp_path: Path) -> None:
    path = tmp_path / "data_path.md"
    measure.write_section(path, "cpu", "first")
    assert path.read_text() == "# Data path\n\n## cpu\n\nfirst\n\n## cuda\n\nnot measured\n"
    measure.write_section(path, "cuda", "### cell\n\n| a |")
    measure.write_section(path, "cpu", "second")
    expected = "# Data path\n\n## cpu\n\nsecond\n\n## cuda\n\n### cell\n\n| a |\n"
    assert path.read_text() == expected


def test_a_report_goes_where_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = Namespace(device="cpu", threads=1, json=tmp_path / "a.json", write=True)
    cell = measure.Cell("a cell", SECONDS, "timm", items=6)
    measure.report(args, str(tmp_path / "data_path.py"), [cell])
    assert "| vitlit | 3.00 |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "a.json").read_text())) == 2
    assert "### a cell" in (tmp_path / "data_path.md").read_text()


def test_a_table_does_not_say_where_this_machine_has_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = [
        "x/recipe.py",
        "a.yaml",
        "--data-dir",
        "/d/e",
        "--keep=/k",
        "--teacher",
        "/t",
        "--trained=/r",
        "--write",
    ]
    monkeypatch.setattr(sys, "argv", typed)
    assert (
        measure.command()
        == "python benchmarks/recipe.py a.yaml --data-dir DIR --teacher RUN --trained RUN --write"
    )


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fpu avx2", "Some Xeon"),
        ("avx512f avx512_bf16 gfni", "Some Xeon with AVX512-BF16"),
        ("avx512_bf16 amx_tile amx_bf16", "Some Xeon with AMX-BF16"),
    ],
)
def test_a_table_says_whether_the_processor_has_units_for_bfloat16(flags: str, name: str) -> None:
    text = f"model name\t: Some(R) Xeon(R) Processor\nflags\t\t: {flags}\nbugs\t\t: a\n"
    assert measure.processor_name(2 * text) == name


def test_a_run_that_is_cut_short_keeps_the_cells_it_has(tmp_path: Path) -> None:
    args = Namespace(device="cpu", threads=1, json=tmp_path / "a.json", write=True)

    def cells() -> Iterator[measure.Cell]:
        yield measure.Cell("the first cell", SECONDS, "timm", items=6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.report(args, str(tmp_path / "data_path.py"), cells())
    text = (tmp_path / "data_path.md").read_text()
    assert "### the first cell" in text
    assert measure.UNFINISHED.strip() in text
    assert len(json.loads((tmp_path / "a.json").read_text())) == 2


def test_a_script_past_its_limit_is_ended_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(1); open({str(mark)!r}, 'w')"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert run_all.run([sys.executable, "-c", script], minutes=0.4 / 60) == 1
    time.sleep(1)
    assert not mark.exists()


def test_the_status_of_a_script_is_passed_on() -> None:
    assert run_all.run([sys.executable, "-c", "raise SystemExit(3)"], minutes=1) == 3


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(path: Path) -> None:
    if path.stem in ("mutants", "mutant_runs", "mutation", "reach"):
        pytest.importorskip("cosmic_ray", reason="of the extra dev")
    importlib.import_module(path.stem)


@pytest.mark.parametrize("name", sorted(set(peers.BUILDERS) - set(peers.OTHER_FUNCTION)))
def test_peers_of_the_same_function_give_the_same_logits(name: str) -> None:
    shape = dict(zip(peers.ARGUMENTS, (8, 4, 12, 2, 3, 5), strict=True))
    weights = peers.reference_weights(shape)
    images = torch.randn(2, 3, 8, 8)
    ours, theirs = (
        peers.BUILDERS[peer](shape, weights).eval()(images) for peer in ("vitlit", name)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("# expected: test/acc 0.9836 +- 0.0050 (split seeds 0 to 9)", (0.9836, 0.0050)),
        ("# expected: test/acc 0.9928 (1 seed)", (0.9928, 0.0)),
        ("# expected: not measured", None),
        ("# expected: depends on your images", None),
    ],
)
def test_a_recipe_says_what_it_expects(
    tmp_path: Path, line: str, found: tuple[float, float] | None
) -> None:
    (tmp_path / "own.yaml").write_text(f"# A recipe.\n{line}\ndata: {{dataset: digits}}\n")
    assert recipe_record.expected(str(tmp_path / "own.yaml")) == found


@pytest.mark.parametrize(
    ("line", "scores", "status"),
    [
        ("test/acc 0.9800 +- 0.0050 (x)", [0.972, 0.970], 0),  # no lower than 0.97
        ("test/acc 0.9800 +- 0.0050 (x)", [0.970, 0.969], 1),
        ("test/acc 0.9900 (x)", [0.9875], 0),  # no lower than 0.987
        ("test/acc 0.9900 (x)", [0.9865], 1),
    ],
)
def test_a_recipe_passes_within_its_spread(
    tmp_path: Path, line: str, scores: list[float], status: int
) -> None:
    (tmp_path / "own.yaml").write_text(f"# expected: {line}\n")
    assert recipe_record.verdict(str(tmp_path / "own.yaml"), scores) == status


def vitlit_here(args: list[str], folder: Path) -> str:
    """The command without a process of its own, which takes seconds to start."""
    with chdir(folder), redirect_stdout(StringIO()) as text:
        assert main(args) == 0
    return text.getvalue()


def test_a_recipe_is_trained_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "vitlit", vitlit_here)
    small = ["--model.embed_dim=8", "--model.depth=1", "--model.num_heads=2"]
    options = ["--config=digits.yaml", *small, "--trainer.max_epochs=2", "--data.batch_size=50"]
    run = recipe.train(options, [], tmp_path / "run")
    assert run.epochs == 2
    assert 0 < run.last < 1
    assert run.last == pytest.approx(
        (run.predictions.labels == run.predictions.predicted).mean(), abs=5e-5
    )
    assert run.precision == "32-true"
    again = recipe.scored(tmp_path / "run" / "lightning_logs" / "recipe", [])
    assert (again.last, again.best, again.petaflops) == (run.last, run.best, run.petaflops)
    assert run.seconds > 0
    assert run.speed > 100
    images = 2 * (1295 // 50) * 50
    tokens, width = 17 - 1, 8  # average pooling: no class token
    block = 2 * tokens * width * (3 * width + width + 8 * width) + 4 * tokens**2 * width
    stem = 2 * 8 * 8 * 3 * 3 * width  # a 3x3 convolution at each pixel of a grey image
    forward = stem + block + 2 * width * 10
    assert run.petaflops == pytest.approx(3 * forward * images / 1e15, rel=1e-6)


def test_scores_can_be_computed_from_the_kept_predictions(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, 2])
    runs = {
        "seed_everything 0": recipe_record.Predictions(labels, np.array([0, 1, 2, 0])),
        "seed_everything 1": recipe_record.Predictions(labels, np.array([1, 1, 0, 0])),
    }
    file = tmp_path / "reference" / "own.csv"
    recipe_record.keep_predictions(file, runs)
    assert file.read_text().startswith("seed,label,predicted\n0,0,0\n")
    assert recipe_record.accuracies(file) == {"0": 0.75, "1": 0.25}


def test_figures_go_into_a_recipe_and_a_readme(tmp_path: Path) -> None:
    own, readme = tmp_path / "own.yaml", tmp_path / "README.md"
    own.write_text("# A recipe.\n# expected: not measured\ndata: {}\n")
    text = f"test/acc {kept_scores.spread([0.5, 0.75])} (2 seeds)"
    recipe_record.set_expected(own, text)
    assert "\n# expected: test/acc 0.6250 +- 0.1768 (2 seeds)\n" in own.read_text()
    with pytest.raises(ValueError, match="has 0 lines"):
        recipe_record.set_expected(readme if readme.exists() else Path(__file__), "x")
    readme.write_text("# Own\n\n| config | accuracy |\n|---|---|\n| `a.yaml` | 0.1 |\n\nMore\n")
    recipe_record.set_row(readme, "a.yaml", ["0.2"])
    recipe_record.set_row(readme, "b.yaml", ["0.3"])
    table = "| config | accuracy |\n|---|---|\n| `a.yaml` | 0.2 |\n| `b.yaml` | 0.3 |"
    assert readme.read_text() == f"# Own\n\n{table}\n\nMore\n"


def test_a_readme_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Own\n")
    with pytest.raises(ValueError, match="no table"):
        recipe_record.set_row(tmp_path / "README.md", "a.yaml", ["0.2"])


def test_energy_is_the_sum_of_the_packages_and_outlives_an_overflow(tmp_path: Path) -> None:
    assert recipe_record.Energy(tmp_path).joules() is None
    counts = {"intel-rapl:0": (900_000, 100_000), "intel-rapl:1": (0, 5_000_000)}
    for name in (*counts, "intel-rapl:0:0"):  # the last is a part of the first
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(str(counts.get(name, (7, 7))[0]))
        (tmp_path / name / "max_energy_range_uj").write_text("1000000")
    energy = recipe_record.Energy(tmp_path)
    for name, (_, after) in counts.items():
        (tmp_path / name / "energy_uj").write_text(f"{after}\n")
    assert energy.joules() == pytest.approx(0.2 + 5.0)


def rows_of_readme() -> dict[str, str]:
    """The accuracy of each row in README's table of results, by the files of its predictions."""
    text = (BENCHMARKS.parent / "README.md").read_text()
    rows = re.findall(r"^\| `(\S+\.yaml[^`]*)` \| ([^|]*) \|", text, re.MULTILINE)
    return {recipe_record.file_of(label): score for label, score in rows}


@pytest.mark.parametrize(
    "name", [str(path.relative_to(KEPT)) for path in sorted(KEPT.glob("**/*.csv"))]
)
def test_kept_predictions_have_the_score_that_is_stated(name: str) -> None:
    scores = recipe_record.accuracies(KEPT / name).values()
    assert rows_of_readme()[name] == kept_scores.spread(scores, "±")
    recipe_file = BENCHMARKS.parent / "configs" / Path(name).with_suffix(".yaml")
    if "-" not in name:  # the recipe itself, not one with other settings
        assert f"test/acc {kept_scores.spread(scores)} (" in recipe_file.read_text()


def test_each_row_of_results_has_its_predictions() -> None:
    assert set(rows_of_readme()) == {str(path.relative_to(KEPT)) for path in KEPT.glob("**/*.csv")}


@pytest.mark.parametrize(
    ("label", "file"),
    [
        ("reference/mnist_inverted.yaml", "reference/mnist_inverted.csv"),
        ("a.yaml --trainer.max_epochs 30", "a-trainer.max_epochs_30.csv"),
        ("a.yaml --data.flip false --model.depth 2", "a-data.flip_false-model.depth_2.csv"),
    ],
)
def test_a_row_has_a_file_named_like_it(label: str, file: str) -> None:
    assert recipe_record.file_of(label) == file


def test_what_differs_from_the_recipe_is_named_and_what_tables_say_anyway_is_not() -> None:
    own = {"run": None, "seed_everything": 0, "trainer": {"max_epochs": 50, "precision": None}}
    own |= {"data": {"dataset": "cifar10", "mean": None, "flip": True}, "pictures": {}}
    run = {"run": "a", "seed_everything": 3, "trainer": {"max_epochs": 30, "precision": "32-true"}}
    run |= {"data": {"dataset": "folder", "mean": [0.5], "flip": False}, "ema": {"decay": 0.9}}
    assert recipe_changes.changes(own, own) == ""
    expected = "--data.flip false --ema.decay 0.9 --trainer.max_epochs 30"
    assert recipe_changes.changes(own, run | {"pictures": {}}) == expected


def test_compiling_makes_no_other_recipe_and_is_told_with_the_cost() -> None:
    own, run = ({"model": {"depth": 1, "compile": value}} for value in (None, True))
    assert recipe_changes.changes(own, run) == ""
    assert recipe_changes.how_computed("bf16-mixed", own) == "bf16-mixed"
    assert recipe_changes.how_computed("bf16-mixed", run) == "bf16-mixed, compiled"


def test_published_weights_are_named_and_their_size_counts() -> None:
    own = {"model": {"pretrained": "/tmp/w", "depth": 12}, "data": {"img_size": 224, "mean": [0.5]}}
    run = own | {"data": {"img_size": 128, "mean": [0.4]}}
    expected = "--data.img_size 128 --model.pretrained openai/clip"
    assert recipe_changes.changes(own, run, "openai/clip") == expected
    assert recipe_changes.changes(own, own, "openai/clip") == "--model.pretrained openai/clip"
    assert recipe_record.file_of("a.yaml --model.pretrained b/c") == "a-model.pretrained_b_c.csv"


def test_one_epoch_has_the_time_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,step,seconds,lr\n0,18,287.5,1e-4\n")
    assert recipe.seconds_of(tmp_path) == 287.5


def test_weights_without_a_name_are_not_written_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe.py", "cifar10_finetune.yaml", "--folder", "--data-dir", "x"]
    monkeypatch.setattr(sys, "argv", [*words, "--write"])
    with pytest.raises(SystemExit):
        recipe.parse_args("")
    assert "--write needs --weights NAME" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", words)
    options, _ = recipe_options.data_options(recipe.parse_args(""))
    assert options[1:] == ["--data.dataset=folder"]  # size and mean are the weights' own
    monkeypatch.setattr(sys, "argv", ["recipe.py", "digits.yaml", "--weights", "openai/clip"])
    with pytest.raises(SystemExit):
        recipe.parse_args("")
    assert "digits.yaml starts from no published weights" in capsys.readouterr().err


def test_a_run_with_other_settings_does_not_speak_for_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "benchmarks").mkdir()
    own = tmp_path / "configs" / "digits.yaml"
    own.write_text("# expected: test/acc 0.9 (x)\n")
    readme = tmp_path / "README.md"
    readme.write_text("| config | accuracy |\n|---|---|\n| `digits.yaml` | 0.9 |\n\nMore\n")
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "benchmarks" / "recipe.py"))
    labels = np.array([1, 2])
    run = recipe.Run(1.0, 1.0, 5.0, 3, 1.0, 1.0, "32-true", Predictions(labels, labels), {})
    args = Namespace(config="digits.yaml", folder=False)
    runs = {"seed_everything 0": run}
    recipe.record(args, runs, "--trainer.max_epochs 3", "digits", "cpu")
    assert own.read_text() == "# expected: test/acc 0.9 (x)\n"
    rows = readme.read_text()
    assert "| `digits.yaml` | 0.9 |\n| `digits.yaml --trainer.max_epochs 3` | 1.0000 |" in rows
    assert (tmp_path / "benchmarks/predictions/digits-trainer.max_epochs_3.csv").exists()
    recipe.record(args, runs, "", "digits", "cpu")
    assert "# expected: test/acc 1.0000 (1 seed, final epoch; 5 s, cpu, 32-true)" in own.read_text()
    compiled = replace(run, settings={"model": {"compile": True}})
    recipe.record(args, {"seed_everything 0": compiled}, "", "digits", "cpu")
    assert "5 s, cpu, 32-true, compiled)" in own.read_text()
    assert "| 5 s, cpu, 32-true, compiled |" in readme.read_text()


def test_a_recipe_of_pretrain_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe.py", "digits_pretrain.yaml", "--verify"])
    with pytest.raises(SystemExit):
        recipe.parse_args("")
    assert "digits_pretrain.yaml is for `vitlit pretrain`" in capsys.readouterr().err
