"""probe and predict --output features, end to end."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image
from shard_sets import shard
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from trainings import PLAIN

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.commands.runs.run_records import read_runs
from vitlit.data.splits import Split
from vitlit.evaluation.inference import Rows
from vitlit.features.probe import probe_data_set

SMALL = ["--model.embed_dim=16", "--model.depth=2", "--model.num_heads=2", "--trainer.max_epochs=3"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FILES = {"metrics.json", "features.npz", "nearest.png"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, and eight digits as files in a folder digits beside it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "digits.yaml", PLAIN, *SMALL, *QUIET, "--run=first"]) == 0
    data = ImageData(patch_size=2)
    data.setup("test")
    split = data.splits["test"]
    (folder / "digits").mkdir()
    for i, pixels in enumerate(split.images.gather(split.members[:8])[:, 0].numpy()):
        Image.fromarray(pixels).save(folder / "digits" / f"{i}.png")
    return folder / "lightning_logs" / "first"


@pytest.fixture(scope="module")
def probed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probed") / "probe"
    assert main(["probe", "--ckpt_path", str(run), f"--out={folder}", *QUIET]) == 0
    return folder


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


def best_of_scikit_learns(train: Any, other: Any) -> LogisticRegression:
    """The one with the highest accuracy on ``other``; of equal ones that with the least C."""
    models = [
        LogisticRegression(C=c, tol=1e-8, max_iter=20000).fit(train[0].astype(np.float64), train[1])
        for c in (0.01, 0.1, 1.0, 10.0, 100.0)
    ]
    return max(models, key=lambda model: model.score(*other))


def test_accuracies_are_those_of_scikit_learn_on_the_features(probed: Path) -> None:
    assert {path.name for path in probed.iterdir()} == FILES
    found = json.loads((probed / "metrics.json").read_text())
    x = arrays_of(probed / "features.npz")
    train = x["train_features"], x["train_labels"]
    test = x["test_features"], x["test_labels"]
    knn = KNeighborsClassifier(10, metric="cosine").fit(*train)
    val = x["val_features"], x["val_labels"]
    linear = best_of_scikit_learns(train, val)
    assert found["c"] == linear.C
    assert found["knn"]["acc"] == pytest.approx(knn.score(*test))
    assert found["linear"]["acc"] == pytest.approx(linear.score(*test))
    assert (found["train_images"], found["test_images"]) == (1295, 359)


def test_the_strength_is_chosen_on_validation_and_not_on_what_is_scored(tmp_path: Path) -> None:
    """Features that a test image shares with a training image: scored, the weakest penalty wins."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 30, generator=generator)
    kept: dict[str, Rows] = {}

    def extract(data: ImageData, split: Split) -> Rows:
        labels = split.labels
        values = centres[labels] + 2 * torch.randn(len(labels), 30, generator=generator)
        if kept.keys() == {"train", "val"}:  # test, the last to be asked for
            known = kept["train"]
            values = torch.stack([known.values[known.labels == label][0] for label in labels])
        rows = Rows(values, labels, torch.arange(len(labels)))
        kept[("train", "val", "test")[len(kept)]] = rows
        return rows

    data = ImageData(patch_size=2, train_fraction=0.1)
    found = probe_data_set(data, extract, tmp_path, k=1, c=None, about={}).metrics["c"]
    train, val, test = (
        (kept[name].values.numpy(), kept[name].labels.numpy()) for name in ("train", "val", "test")
    )
    assert found == best_of_scikit_learns(train, val).C
    assert found != best_of_scikit_learns(train, test).C


def test_features_are_those_of_the_loaded_model(run: Path, probed: Path) -> None:
    model, preprocess, _ = load(run)
    data = ImageData(patch_size=2)
    data.setup("test")
    split = data.splits["test"]
    with torch.no_grad():
        x = preprocess(split.images.gather(split.members))
        expected = model.pool(model.forward_features(x)).numpy()
    found = arrays_of(probed / "features.npz")
    np.testing.assert_allclose(found["test_features"], expected, rtol=1e-3, atol=1e-5)
    assert found["test_labels"].tolist() == split.labels.tolist()


def test_other_data_with_other_classes_can_be_probed(
    run: Path, photo_folder: PhotoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo_folder("train+test", classes=("ant", "bee", "cat"), count=6)
    data = ["--data.dataset=folder", f"--data.data_dir={root}"]
    for source in ("--ckpt_path", "--model.pretrained"):
        out = tmp_path / source
        weights = run / "checkpoints" / "best.ckpt"
        assert main(["probe", source, str(weights), *data, "--k=3", f"--out={out}", *QUIET]) == 0
    same = [
        arrays_of(tmp_path / name / "features.npz")
        for name in ("--ckpt_path", "--model.pretrained")
    ]
    assert same[0]["class_names"].tolist() == ["ant", "bee", "cat"]
    np.testing.assert_allclose(same[0]["test_features"], same[1]["test_features"], rtol=1e-4)
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("wrote")]
    assert any(line.startswith("linear ") for line in said)
    assert max(map(len, said)) <= 80


@pytest.mark.parametrize(
    "precision", ["bf16-mixed", pytest.param("32-true", marks=pytest.mark.slow)]
)
def test_a_saved_probe_scores_as_it_said(
    precision: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [f"--trainer.precision={precision}", "--trainer.accelerator=cpu", *QUIET]
    few = ["--data.shots=10", "--save=few"]
    assert main(["probe", f"--ckpt_path={run}", *few, *options]) == 0
    said = json.loads(Path("probe/metrics.json").read_text())["linear"]["acc"]
    out = capsys.readouterr().out
    assert "saved       lightning_logs/few/checkpoints/best.ckpt: use it with --run few" in out
    assert "100 images to learn from" in out
    assert 0.2 < said < 1
    assert main(["test", "--run=few", "--out=report", *options]) == 0
    assert f"test/acc {said:.4f}" in capsys.readouterr().out
    assert json.loads(Path("report/metrics.json").read_text())["scores"]["acc"] == said


def test_a_saved_probe_of_other_classes_predicts_exports_and_explains_them(
    run: Path, photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are bare ones without a head."""
    monkeypatch.chdir(tmp_path)
    model, *_ = load(run)
    model.remove_head()
    torch.save(model.state_dict(), "bare.pth")
    root = photo_folder("train+val+test", classes=("ant", "bee", "cat"), count=4)
    words = [f"--data.data_dir={root}", "--data.dataset=folder", "--data.in_chans=1", "--k=3"]
    weights = ["--model.pretrained=bare.pth", "--model.num_heads=2", "--data.img_size=8"]
    assert main(["probe", *weights, *words, "--save=animals", *QUIET]) == 0
    found = load("lightning_logs/animals")
    assert found.class_names == ["ant", "bee", "cat"]
    expected = model.state_dict()
    body = {n: v for n, v in found.model.state_dict().items() if not n.startswith("head.")}
    assert body.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in body.items())
    images = [f"--data.images={root / 'test'}"]
    assert main(["predict", "--run=animals", *images, "--out=p.csv", *QUIET]) == 0
    assert "ant" in Path("p.csv").read_text()
    assert main(["export", "--run=animals", *QUIET]) == 0
    assert main(["explain", "--run=animals", *images, "--count=1", *QUIET]) == 0


def test_a_saved_probe_starts_a_training_but_resumes_none(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["probe", f"--ckpt_path={run}", "--save=one", *QUIET]) == 0
    assert main(["probe", f"--ckpt_path={run}", "--save=one", "--out=again", *QUIET]) == 2
    assert [run.state for run in read_runs(Path("lightning_logs"))] == ["probe"]
    assert "lightning_logs/one exists" in capsys.readouterr().err
    assert not Path("again").exists()
    fit = ["fit", "--config=digits.yaml", PLAIN, *SMALL, *QUIET, "--trainer.max_steps=1"]
    with pytest.warns(UserWarning, match="one has no last.ckpt"):
        assert main([*fit, "--run=one"]) == 2
    assert "give --model.pretrained" in capsys.readouterr().err
    assert main([*fit, "--model.pretrained=lightning_logs/one"]) == 0
    assert "head kept for the same 10 classes" in caplog.text


def test_neighbours_in_a_folder_are_the_most_alike_but_not_the_image_itself(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(run.parent.parent)
    args = ["--data.images", "digits", "--query", "digits/3.png", f"--out={tmp_path / 'alike'}"]
    assert main(["probe", "--ckpt_path", str(run), *args, *QUIET]) == 0
    x = arrays_of(tmp_path / "alike" / "features.npz")
    similarity = cosine_similarity(x["features"])[3]
    order = [i for i in similarity.argsort()[::-1] if i != 3]
    with (tmp_path / "alike" / "nearest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [x["files"][i] for i in order[:7]]
    assert [float(row["similarity"]) for row in rows] == pytest.approx(
        similarity[order].tolist(), abs=1e-4
    )


def nearest_of(folder: Path) -> dict[str, list[str]]:
    """The files that nearest.csv names for each query, nearest first."""
    found: dict[str, list[str]] = {}
    with (folder / "nearest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["query"], []).append(row["file"])
    return found


def most_alike(folder: Path, query: str, left_out: set[str]) -> list[str]:
    x = arrays_of(folder / "features.npz")
    files = x["files"].tolist()
    similarity = cosine_similarity(x["features"])[files.index(query)]
    return [files[i] for i in similarity.argsort()[::-1] if files[i] not in left_out]


def test_a_link_to_the_query_is_no_neighbour_of_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.parent.parent / "digits", "digits")
    Path("digits/link.png").symlink_to("3.png")
    args = ["--data.images=digits", "--query", "digits/3.png", "digits/0.png", "--out=alike"]
    assert main(["probe", "--ckpt_path", str(run), *args, *QUIET]) == 0
    same = {"digits/3.png", "digits/link.png"}
    found = nearest_of(Path("alike"))
    assert found["digits/3.png"] == most_alike(Path("alike"), "digits/3.png", same)
    assert same <= set(most_alike(Path("alike"), "digits/0.png", {"digits/0.png"}))
    assert len(found["digits/0.png"]) == 7


def test_a_query_from_elsewhere_finds_every_image_of_a_small_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = run.parent.parent / "digits"
    Path("few").mkdir()
    for i in range(3):
        shutil.copy(digits / f"{i}.png", "few")
    query = str(digits / "7.png")
    args = ["--data.images=few", "--query", query, "few/1.png", "--out=alike"]
    assert main(["probe", "--ckpt_path", str(run), *args, *QUIET]) == 0
    found = nearest_of(Path("alike"))
    assert set(found[query]) == {"few/0.png", "few/1.png", "few/2.png"}
    assert set(found["few/1.png"]) == {"few/0.png", "few/2.png"}


def test_an_image_and_a_link_to_it_are_too_few(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run.parent.parent / "digits" / "0.png", tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to("0.png")
    args = [f"--data.images={tmp_path}", f"--out={tmp_path / 'alike'}"]
    assert main(["probe", "--ckpt_path", str(run), *args, *QUIET]) == 2
    assert "neighbours need 2 images that can be read, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ("--k 0", "k 0 is too small"),
        ("--c 0", "c 0"),
        ("--k 1296", "k 1296 is more than the 1295 training images"),
        ("--query a.png", "give --data.images too"),
        ("--layer 7", "no block 7"),
        ("--pool token", "no class token"),
        ("--data.split val", "probe scores the test split"),
        ("--save ../x", "save '../x' is not a name"),
        ("--save x --layer 0", "leave out"),
        ("--save x --pool avg", "leave out"),
        ("--save x --data.images a.png", "images have no classes to fit"),
        ("--data.shots 0", "shots 0 leaves no image"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    args: str,
    part: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["probe", "--ckpt_path", str(run), *args.split(), *QUIET]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def predict(run: Path, *args: str) -> int:
    images = ["--data.images", str(run.parent.parent / "digits")]
    return main(["predict", "--ckpt_path", str(run), *images, *args, *QUIET])


@torch.no_grad()
def test_predict_writes_features_with_the_names_of_their_files(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.features"
    assert predict(run, "--output=features", "--layer=0", f"--out={out}") == 0
    found = arrays_of(out)
    model, preprocess, _ = load(run)
    x = torch.cat([preprocess(preprocess.read(str(file))[None]) for file in found["files"]])
    tokens = model.blocks[0](model.embed(x))
    np.testing.assert_allclose(found["features"], tokens.mean(dim=1).numpy(), rtol=1e-3, atol=1e-5)
    assert [Path(str(file)).name for file in found["files"]] == [f"{i}.png" for i in range(8)]


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        ("features --out=a.csv", ".npz"),
        ("features --out=a.NPY", ".npz"),
        ("patches --out=a.csv", ".npy"),
    ],
)
def test_a_name_of_another_format_is_refused(
    words: str,
    ending: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(run, *f"--output={words}".split()) == 2
    assert f"writes arrays of NumPy; end it in {ending} (--out)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_features_never_replace_a_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert predict(run, "--output=features") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"features.npz", "features-2.npz"}


def test_a_layer_without_features_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(run, "--layer=0") == 2
    assert "give output features too (--layer, --pool, --output)" in capsys.readouterr().err


def test_weights_without_a_head_give_features(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    state = {
        name.removeprefix("vit."): value
        for name, value in content["state_dict"].items()
        if name.startswith("vit.") and "head" not in name
    }
    torch.save(state, tmp_path / "body.pth")
    out = tmp_path / "features.npz"
    images = ["--data.images", str(run.parent.parent / "digits"), "--data.invert=false"]
    source = ["--model.pretrained", str(tmp_path / "body.pth"), "--model.num_heads=2"]
    assert main(["predict", *source, *images, "--output=features", f"--out={out}", *QUIET]) == 0
    assert arrays_of(out)["features"].shape == (8, 16)


def test_files_that_cannot_be_read_have_no_features_and_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    for file in (run.parent.parent / "digits").iterdir():
        (tmp_path / "pictures" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pictures" / "3.png").write_bytes(b"no image")
    images = ["--ckpt_path", str(run), "--data.images", str(tmp_path / "pictures"), *QUIET]
    assert main(["predict", *images, "--output=features", f"--out={tmp_path / 'a.npz'}"]) == 0
    assert "3.png" in capsys.readouterr().out
    assert main(["probe", *images, f"--out={tmp_path / 'alike'}"]) == 0
    assert "1 cannot be read" in capsys.readouterr().out
    for path in (tmp_path / "a.npz", tmp_path / "alike" / "features.npz"):
        names = [Path(str(file)).name for file in arrays_of(path)["files"]]
        assert names == [f"{i}.png" for i in (0, 1, 2, 4, 5, 6, 7)]


def test_neighbours_among_shards_are_refused_before_anything_is_computed(
    run: Path,
    photo_folder: PhotoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    root = photo_folder()
    shards = shard(root, tmp_path / "shards")
    for name, rest in (("probe", []), ("anomaly", [f"--normal={root}"])):
        assert main([name, f"--ckpt_path={run}", f"--data.images={shards}", *rest, *QUIET]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "images are in shards, and this command reads files" in said
