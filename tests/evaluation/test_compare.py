"""compare: each model on the same images, as it was trained, and which differences count."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.data.datamodule import PlainImageData
from vitlit.data.leakage import PastTraining
from vitlit.errors import first_few
from vitlit.evaluation.compare import Scored, comparison_lines
from vitlit.evaluation.inference import Rows

SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: one epoch, four inverted ones, and one of another split."""
    folder = tmp_path_factory.mktemp("home")
    changes = (
        ["--run=run_0", "--trainer.max_epochs=1"],
        ["--run=run_1", "--trainer.max_epochs=4", "--data.invert=true", "--data.img_size=16"],
        ["--run=run_2", "--trainer.max_epochs=1", "--data.split_seed=5"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for change in changes:
            assert main(["fit", "--config", "digits.yaml", *SMALL, *change, *QUIET]) == 0
    return folder


def accuracy(run: Path) -> float:
    model, preprocess, _ = load(run)
    data = ImageData(patch_size=2)
    data.setup("test")
    split = data.splits["test"]
    with torch.no_grad():
        logits = model(preprocess(split.images.gather(split.members)))
    return float((logits.argmax(dim=1) == split.labels).float().mean())


def altered(home: Path, folder: Path, **data: Any) -> str:
    """The first run's checkpoint with other settings of the data."""
    path = home / "lightning_logs" / "run_0" / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["datamodule_hyper_parameters"] |= data
    torch.save(content, folder / "other.ckpt")
    return str(folder / "other.ckpt")


def test_each_model_is_scored_as_it_was_trained(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    runs = [f"lightning_logs/run_{i}" for i in range(3)]
    assert main(["compare", *runs, *QUIET]) == 0
    out = capsys.readouterr().out
    assert "359 images of digits test" in out
    # each name has a line to itself, and the numbers are on the next one
    rows = re.findall(r"^(lightning_logs\S+)\n +(0\.\d{4})", out, flags=re.MULTILINE)
    assert [found for _, found in rows] == [f"{accuracy(home / run):.4f}" for run in runs]
    # below the numbers of the third, and of no other
    before, last = " ".join(out.split()).split(rows[2][0])
    assert "its split_seed was 5: it may have been trained on these images" in last
    assert "its split_seed" not in before
    assert max(map(len, out.splitlines())) <= 80
    assert "(Holm)" in out


def test_all_models_are_held_to_the_split_of_the_first(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    seeds, hold_to = [], PlainImageData.hold_to

    def note(data: ImageData, past: PastTraining) -> None:
        seeds.append(past.data["split_seed"])
        hold_to(data, past)

    monkeypatch.setattr(PlainImageData, "hold_to", note)
    assert main(["compare", "lightning_logs/run_2", "lightning_logs/run_0", *QUIET]) == 0
    assert set(seeds) == {5}  # that of run_2
    assert len(seeds) >= 2
    capsys.readouterr()


def test_one_checkpoint_or_one_twice_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert main(["compare", "lightning_logs/run_0", *QUIET]) == 2
    assert "give `vitlit compare A B`" in capsys.readouterr().err
    assert main(["compare", *["lightning_logs/run_0"] * 2, *QUIET]) == 2
    assert "twice" in capsys.readouterr().err


def test_best_and_last_are_those_of_the_named_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of the newest, which is another."""
    monkeypatch.chdir(home)
    assert main(["compare", "best", "last", "--run=run_0", *QUIET]) == 0
    out = capsys.readouterr().out
    named = "lightning_logs/run_0/checkpoints/last.ckpt"
    assert re.search(rf"^{named}\n", out, flags=re.MULTILINE)
    assert "run_1" not in out
    assert "run_2" not in out


def test_other_data_are_named_and_equal_answers_are_called_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    other = altered(home, tmp_path, dataset="folder", data_dir="/photos")
    assert main(["compare", "lightning_logs/run_0", other, *QUIET]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.endswith(
        "right and wrong on the same images; it was trained on other data, folder /photos"
    )


def scored(name: str, right: int, count: int = 1000) -> Scored:
    labels = torch.zeros(count, dtype=torch.long)
    logits = torch.zeros(count, 2)
    logits[:right, 0] = 1
    logits[right:, 1] = 1
    return Scored(name, Rows(logits, labels, torch.arange(count)), "")


def test_long_names_are_whole_and_no_line_is_wider_than_80() -> None:
    long = "lightning_logs/a_run_with_a_long_name/checkpoints/best.ckpt"
    note = "it was trained on 123 of these 1000 images"
    table = comparison_lines([scored("a", 900), scored(long, 950)._replace(note=note)], "title")
    assert long in table
    lines = "\n".join(table).splitlines()
    assert max(map(len, lines)) <= 80
    heading, first, _, second, *_ = lines[2:]
    # the numbers of both stand below their headings
    places = [heading.index(name) for name in ("accuracy", "95 %", "balanced", "loss")]
    for line in (first, second):
        assert [line[at].isdigit() and line[at - 1] == " " for at in places] == [True] * 4


@pytest.mark.parametrize(
    ("right", "verdict"), [(903, "within noise"), (960, "better"), (850, "worse")]
)
def test_a_difference_is_noise_until_chance_is_unlikely(right: int, verdict: str) -> None:
    assert comparison_lines([scored("a", 900), scored("b", right)], "")[-1].endswith(verdict)


def test_a_difference_that_counts_alone_may_be_noise_among_several() -> None:
    """Six images against none: p is 2 / 2^6 = 0.031, and twice that among two comparisons."""
    first, better, equal = scored("a", 900), scored("b", 906), scored("c", 901)
    assert comparison_lines([first, better], "")[-1].endswith("p 0.031, 6 against 0 images: better")
    *_, row, _, _, _ = comparison_lines([first, better, equal], "")
    assert re.search(r"p 0\.06\d, 6 against 0 images: within noise$", row)


def test_of_many_classes_five_are_named_and_all_are_counted() -> None:
    assert first_few(list("abcde")) == "a, b, c, d, e"
    assert first_few(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.slow
def test_models_are_scored_on_what_the_first_held_out_and_what_others_saw_is_counted(
    photo_folder: PhotoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    root = photo_folder(count=50)
    tiny = ["--data.dataset=folder", f"--data.data_dir={root}", "--data.img_size=8"]
    tiny += ["--model.patch_size=4", "--model.embed_dim=8", "--model.depth=1"]
    tiny += ["--model.num_heads=1", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"]

    def names(split: str, **settings: Any) -> set[str]:
        data = ImageData(dataset="folder", data_dir=str(root), img_size=8, **settings)
        data.setup("fit")
        data.setup("test")
        return set(data.splits[split].files(torch.arange(len(data.splits[split]))))

    assert main(["fit", *tiny, "--run=a", *QUIET]) == 0
    held = names("test", patch_size=4)
    for i in range(10):
        (root / "cat" / f"new-{i}.png").write_bytes((root / "cat" / "0.png").read_bytes() + b"n")
    assert main(["fit", *tiny, "--run=b", *QUIET]) == 0
    assert main(["fit", *tiny, "--run=c", "--data.split_seed=5", *QUIET]) == 0
    seen = len(held & names("train", patch_size=4, split_seed=5))
    assert main(["compare", *(f"lightning_logs/{run}" for run in "abc"), *QUIET]) == 0
    _, title, table = capsys.readouterr().out.partition(f"{len(held)} images of folder test")
    assert title
    rows = table.split("lightning_logs/")[1:]
    assert "trained" not in rows[0] + rows[1]
    assert f"it was trained on {seen} of these {len(held)} images" in rows[2]


def test_models_of_other_classes_are_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    other = altered(home, tmp_path, class_names=list("abcdefghij"))
    assert main(["compare", "lightning_logs/run_1", other, *QUIET]) == 2
    assert "has the classes a, b" in capsys.readouterr().err
