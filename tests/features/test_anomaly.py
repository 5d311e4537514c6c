"""anomaly: distances of patches to those of normal images, scores, AUROC, files."""

import csv
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cosine
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vitlit import load
from vitlit.__main__ import main
from vitlit.errors import InputError, Stopped
from vitlit.features import anomaly
from vitlit.features.anomaly import auroc, class_of_files, good_class, image_scores
from vitlit.features.anomaly_figures import heat_overlay
from vitlit.features.anomaly_files import Choices, write_scores

SLOW = pytest.mark.slow
CHECKPOINT = Path(__file__).parents[1] / "stored" / "old_checkpoint" / "last.ckpt"
WORDS = ["anomaly", f"--ckpt_path={CHECKPOINT}", "--trainer.precision=32-true"]


def draw(path: Path, seed: int, *, dark: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (8, 8), dtype=np.uint8)
    if not dark:
        pixels[2:6, 3:5] += 180  # a stroke
    Image.fromarray(pixels).save(path)


def make_folders(root: Path) -> None:
    """Normal images in train/good; new ones in test/good and test/empty, one of them unreadable."""
    for i in range(6):
        draw(root / f"train/good/{i}.png", i)
        draw(root / f"test/good/{i}.png", 10 + i)
        draw(root / f"test/empty/{i}.png", 20 + i, dark=True)
    (root / "test/empty/bad.png").write_text("no image")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the images of :func:`make_folders`."""
    make_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the images were scored, and what the command printed."""
    root, out = tmp_path_factory.mktemp("home"), StringIO()
    make_folders(root)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(root)
        assert main([*WORDS, "--normal", "train/good", "--data.images", "test"]) == 0
    return root, out.getvalue()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def patch_tokens(files: list[Path]) -> list[list[Any]]:
    """Of each image, one by one, the tokens of its patches."""
    model, preprocess, _ = load(CHECKPOINT)
    with torch.no_grad():
        return [
            list(
                model.forward_features(preprocess(preprocess.read(file)[None]))[
                    0, model.num_prefix_tokens :
                ].numpy()
            )
            for file in files
        ]


def test_scores_and_maps_are_those_of_a_slow_loop_over_all_patches(
    scored: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scored[0])
    rows = rows_of(Path("anomaly/scores.csv"))
    maps = np.load("anomaly/maps.npy", mmap_mode="r")
    bank = [
        token for image in patch_tokens(sorted(Path("train/good").iterdir())) for token in image
    ]
    good = [row for row in rows if not row["error"]]
    assert len(good) == 12
    for row, tokens in zip(good, patch_tokens([Path(row["file"]) for row in good]), strict=True):
        expected = [min(cosine(token, other) for other in bank) for token in tokens]
        found = maps[int(row["map"])]
        np.testing.assert_allclose(found.ravel(), expected, atol=2e-6)
        assert float(row["score"]) == pytest.approx(max(expected), abs=3e-6)
    assert [float(row["score"]) for row in good] == sorted(
        (float(row["score"]) for row in good), reverse=True
    )


def test_auroc_is_scikit_learns_and_a_bad_file_has_its_reason(scored: tuple[Path, str]) -> None:
    root, out = scored
    *rows, bad = rows_of(root / "anomaly/scores.csv")
    assert (bad["file"], bad["class"], bad["score"]) == ("test/empty/bad.png", "empty", "")
    assert "not an image" in bad["error"]
    truth = [row["class"] == "empty" for row in rows]
    expected = roc_auc_score(truth, [float(row["score"]) for row in rows])
    metrics = json.loads((root / "anomaly/metrics.json").read_text())
    assert metrics["auroc"] == pytest.approx(expected)
    assert (metrics["normal_class"], metrics["good_images"]) == ("good", 6)
    assert metrics["auroc_of"] == {"empty": {"auroc": metrics["auroc"], "images": 6}}
    maps = np.load(root / "anomaly/maps.npy")
    assert np.isnan(maps).any(axis=(1, 2)).tolist() == [
        path.name == "bad.png" for path in sorted((root / "test").rglob("*.png"))
    ]
    assert f"AUROC       {expected:.4f}  6 images against 6 of good" in out
    assert "1 of 13 new images cannot be read" in out
    assert "normal      6 images; the bank holds all of " in out


def test_the_bank_is_bounded_and_its_size_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--normal=train/good", "--data.images=test/good", "--bank=7"]) == 0
    metrics = json.loads(Path("anomaly/metrics.json").read_text())
    assert metrics["bank"] == 7
    assert metrics["bank_radius"] > 0
    assert f"the bank holds 7 of {metrics['normal_patches']} patches" in capsys.readouterr().out
    assert "auroc" not in metrics  # there are good ones alone


def test_normal_images_among_the_new_ones_are_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("test/good/link.png").symlink_to(Path("train/good/0.png").resolve())
    Path("test/good/loop.png").symlink_to("loop.png")  # is scored as a file that cannot be read
    words = [*WORDS, "--normal=train/good", "--data.images", "train", "test/good"]
    assert main(words) == 0
    assert len(rows_of(Path("anomaly/scores.csv"))) == 7
    assert "left out    7 images that are also among the normal ones" in capsys.readouterr().out
    assert main([*WORDS, "--normal=train", "--data.images=train/good"]) == 2
    assert "all 6 images are also among the normal ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--normal nosuch --data.images test", "no such file or folder: nosuch"),
        pytest.param("--normal train", "needs images to score", marks=SLOW),
        pytest.param("--data.images test", "give a folder of them (--normal)", marks=SLOW),
        pytest.param("--normal bare --data.images test", "no images in bare", marks=SLOW),
        pytest.param("--normal train --data.images test --good no", "good 'no' is", marks=SLOW),
        pytest.param("--normal train --data.images test --layer 9", "no block 9", marks=SLOW),
        ("--normal test/empty/bad.png --data.images test/good", "1 of 1 image cannot be read"),
        ("--normal train --data.images test/empty/bad.png", "1 of 1 image cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    words: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bare").mkdir()
    assert main([*WORDS, *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not Path("anomaly").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal": []}, "give a folder of them"),
        ({"bank": 0}, "bank 0 is too small"),
        ({"shown": 0}, "1 to 64 images, not 0"),
        ({"shown": 65}, "1 to 64 images, not 65"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    choices = Choices(["train"], None, 1, 64)
    choices.check()
    with pytest.raises(InputError, match=message):
        choices._replace(**change).check()


def test_a_score_is_the_mean_of_the_largest_hundredth() -> None:
    values = torch.rand(3, 250, generator=torch.Generator().manual_seed(0))
    expected = [sum(sorted(row)[-2:]) / 2 for row in values.tolist()]
    torch.testing.assert_close(image_scores(values), torch.tensor(expected))
    assert image_scores(values[:, :99]).tolist() == values[:, :99].amax(dim=1).tolist()


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auroc_with_ties_is_scikit_learns(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (80,), generator=generator) / levels
    truth = torch.rand(80, generator=generator) < 0.3
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_the_class_of_a_file_is_the_first_folder_below_what_was_given(folder: Path) -> None:
    def classes(files: list[str], *given: str) -> list[str]:
        return class_of_files(files, list(given))

    assert classes(["test/good/0.png", "test/empty/deep/1.png"], "test") == ["good", "empty"]
    assert classes(["test/good/0.png", "test/empty/0.png"], "test/good", "test/empty") == [
        "good",
        "empty",
    ]
    assert classes(["test/good/0.png", "test/good/0.png"], "test/good/0.png") == ["", ""]
    assert classes(["test/a.png", "test/good/0.png"], "test") == ["", "good"]


def test_the_good_class_is_named_or_has_the_name_of_the_normal_folder() -> None:
    assert good_class(["good", "bad"], ["train/good"], None) == "good"
    assert good_class(["good", "bad"], ["train"], None) is None
    assert good_class(["good", "bad"], ["train"], "bad") == "bad"
    assert good_class(["good", "good"], ["train/good"], None) is None
    with pytest.raises(InputError, match="'no' is not a class folder of the images; known: a, b"):
        good_class(["b", "a", ""], ["train"], "no")


def test_the_colour_begins_at_the_low_end_and_is_full_at_the_high_one() -> None:
    images = torch.full((1, 1, 4, 6), 0.5)
    maps = torch.tensor([[[0.0, 0.2, 1.0]]])
    found = heat_overlay(images, maps, 0.2, 1.0)
    grey, full = found[0, :, 0, 0], found[0, :, 0, -1]
    assert grey.tolist() == pytest.approx([0.475] * 3)
    assert (full - grey).abs().max() > 0.3
    again = heat_overlay(images, maps / 2, 0.2, 1.0)[0, :, 0, -1]  # one scale for all pictures
    assert (again - grey).abs().max() < 0.5 * (full - grey).abs().max()


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Stops the command at the given batch of new images."""

    def at(batch: int) -> None:
        real, calls = anomaly.distances_to, 0

        def distances(bank: Tensor, tokens: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == batch:
                raise Stopped(15, "before its end")
            return real(bank, tokens)

        monkeypatch.setattr(anomaly, "distances_to", distances)

    return at


def test_a_signal_leaves_the_scores_of_the_images_so_far(
    folder: Path, stopping: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    # normal images one by one, as the batch holds one: 5 of the 6 are scored
    stopping(5 + 4)
    words = [*WORDS, "--normal=train", "--data.images=test/good", "--data.batch_size=1"]
    assert main(words) == 143
    assert "after 3 of 6 images; wrote the scores of these to anomaly" in capsys.readouterr().err
    assert len(rows_of(Path("anomaly/scores.csv"))) == 3
    assert len(np.load("anomaly/maps.npy")) == 3


def test_p_counts_the_normal_images_that_score_as_high(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    normal, found = (torch.randint(9, (count,), generator=generator) / 7 for count in (40, 30))
    scored = anomaly.Scored(dict(enumerate(found.tolist())), [], None)
    files = [f"{i}.png" for i in range(30)]
    write_scores(tmp_path / "s.csv", files, [""] * 30, scored, normal)
    for row in rows_of(tmp_path / "s.csv"):
        score = found[int(row["map"])]
        assert row["p"] == f"{(1 + int((normal >= score).sum())) / 41:.4f}"
    write_scores(tmp_path / "none.csv", files, [""] * 30, scored, normal[:0])
    assert {row["p"] for row in rows_of(tmp_path / "none.csv")} == {""}
