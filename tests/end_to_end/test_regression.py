"""A number for each image, through every command: fit, test, predict, probe, compare, resume."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.neighbors import NearestNeighbors

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.features.probe_classifiers import STRENGTHS, nearest
from vitlit.features.probe_numbers import choose_ridge, fit_ridge, neighbour_mean
from vitlit.images.find_images import find_images
from vitlit.weights.checkpoint import MODEL_KEY, read_checkpoint

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["--model.patch_size=4", "--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
IMAGES = 120


def make_images(folder: Path) -> None:
    """Digits as files, and ink.csv: the number of pixels above a level, an age, and the class."""
    (folder / "images").mkdir()
    digits = load_digits()
    rows = []
    for i, pixels in enumerate(digits.images[:IMAGES]):
        file = f"{i:03}.png"
        grey = np.round(pixels * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / file)
        rows.append([file, int((pixels > 7).sum()), digits.target[i]])
    with (folder / "ink.csv").open("w", newline="") as file_of_labels:
        csv.writer(file_of_labels).writerows([["file", "ink", "class"], *rows])


def data_words(folder: Path) -> list[str]:
    return [
        "--data.dataset=folder",
        f"--data.data_dir={folder / 'images'}",
        f"--data.labels={folder / 'ink.csv'}",
        "--data.img_size=8",
        "--data.in_chans=1",
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, labels, and the run lightning_logs/ink."""
    folder = tmp_path_factory.mktemp("home")
    make_images(folder)
    words = [*data_words(folder), "--data.target=ink", "--data.batch_size=16", *SMALL, *QUIET]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *words, "--trainer.max_epochs=2", "--run=ink"]) == 0
        assert main(["test", "--run=ink", *QUIET]) == 0
    return folder


def history(home: Path) -> list[dict[str, str]]:
    with (home / "lightning_logs" / "ink" / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_history_and_the_best_checkpoint_follow_the_error_downwards(home: Path) -> None:
    rows = history(home)
    assert {"train/mae", "val/mae", "val/rmse", "val/r2"} <= rows[0].keys()
    best = read_checkpoint(home / "lightning_logs" / "ink" / "checkpoints" / "best.ckpt")
    errors = [float(row["val/mae"]) for row in rows]
    assert best["epoch"] == errors.index(min(errors))


def test_the_checkpoint_keeps_mean_and_deviation_of_the_training_images(home: Path) -> None:
    settings = read_checkpoint(home / "lightning_logs/ink/checkpoints/last.ckpt")[MODEL_KEY]
    data = ImageData(
        dataset="folder",
        data_dir=str(home / "images"),
        labels=str(home / "ink.csv"),
        target="ink",
        img_size=8,
        in_chans=1,
        patch_size=4,
    )
    data.setup("fit")
    ink = data.splits["train"].labels.numpy()
    assert settings["target_mean"] == pytest.approx(ink.mean(), rel=1e-6)
    assert settings["target_std"] == pytest.approx(ink.std(), rel=1e-6)
    assert settings["class_names"] == ["ink"]


def test_the_report_has_the_scores_of_scikit_learn_for_its_predictions(home: Path) -> None:
    report = home / "lightning_logs" / "ink" / "test_report"
    found = json.loads((report / "metrics.json").read_text())["scores"]
    with (report / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    true, said = (np.array([float(row[name]) for row in rows]) for name in ("ink", "predicted"))
    assert len(rows) == found["images"]
    assert found["mae"] == pytest.approx(mean_absolute_error(true, said), rel=1e-4)
    assert found["rmse"] == pytest.approx(mean_squared_error(true, said) ** 0.5, rel=1e-4)
    assert found["r2"] == pytest.approx(r2_score(true, said), abs=1e-4)
    assert found["mae_interval"][0] < found["mae"] < found["mae_interval"][1]
    errors = [abs(float(row["error"])) for row in rows]
    assert errors == sorted(errors, reverse=True)
    page = (report / "index.html").read_text()
    assert page.count("<circle") == len(rows)
    assert {"scatter.png", "residuals.png", "worst.png"} <= {one.name for one in report.iterdir()}


def test_the_figures_of_a_report_among_photos_are_no_photos(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "lightning_logs" / "ink" / "test_report", tmp_path / "of yesterday")
    shutil.copy(home / "images" / "000.png", tmp_path)
    assert find_images([str(tmp_path)]) == [str(tmp_path / "000.png")]


def test_predict_and_python_give_numbers_in_the_unit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    image = home / "images" / "007.png"
    for output in ("probabilities", "json"):
        words = [f"--data.images={image}", f"--output={output}", f"--out={tmp_path / output}"]
        assert main(["predict", "--run=ink", *words, *QUIET]) == 0
    with (tmp_path / "probabilities").open() as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["file", "ink", "error"]
    answer = json.loads((tmp_path / "json").read_text())
    model, preprocess, names = load("best")
    with torch.no_grad():
        wanted = model(preprocess(preprocess.read(image)[None])).item()
    assert float(row["ink"]) == pytest.approx(wanted, rel=1e-5)
    assert answer == {
        "file": str(image),
        "target": "ink",
        "value": pytest.approx(wanted, rel=1e-5),
    }
    assert names == ["ink"]
    assert 10 < wanted < 40  # ink of digits, not a standardised number
    assert f"ink {float(row['ink']):.6g}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def exported(home: Path) -> Path:
    """The run, exported for transformers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        words = ["--run=ink", "--naming=huggingface", "--out=exported"]
        assert main(["export", *words, *QUIET]) == 0
    return home / "exported"


def answer_of(home: Path, image: Path) -> float:
    """What the checkpoint answers, by its own settings."""
    content = read_checkpoint(home / "lightning_logs/ink/checkpoints/best.ckpt")
    model, preprocess, _ = load(home / "lightning_logs/ink/checkpoints/best.ckpt")
    state = {name.removeprefix("vit."): one for name, one in content["state_dict"].items()}
    model.load_state_dict(state)
    settings = content[MODEL_KEY]
    with torch.no_grad():
        output = model(preprocess(preprocess.read(image)[None])).item()
    return output * settings["target_std"] + settings["target_mean"]


def test_exported_weights_answer_in_the_unit(
    home: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    image = home / "images" / "011.png"
    out = tmp_path / "predictions.csv"
    words = [f"--model.pretrained={exported}", f"--data.images={image}", f"--out={out}"]
    assert main(["predict", *words, *QUIET]) == 0
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["ink"]) == pytest.approx(answer_of(home, image), rel=1e-4)
    config = json.loads((exported / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "ink"})


def test_a_test_of_exported_weights_has_the_scores_of_the_run_but_no_loss(
    home: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(home)
    words = [f"--model.pretrained={exported}", *data_words(home)]
    words += ["--data.target=ink", f"--out={tmp_path / 'of_export'}"]
    assert main(["test", *words, *QUIET]) == 0
    said = capsys.readouterr().out
    assert "test/mae" in said
    assert "test/loss" not in said
    scores = json.loads((tmp_path / "of_export" / "metrics.json").read_text())["scores"]
    own = home / "lightning_logs" / "ink" / "test_report" / "metrics.json"
    expected = json.loads(own.read_text())["scores"]
    assert scores["mae"] == pytest.approx(expected["mae"], rel=1e-4)
    assert scores["loss"] is None


def test_the_card_of_an_export_tells_the_error_and_the_column(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    found = json.loads(
        (exported.parent / "lightning_logs/ink/test_report/metrics.json").read_text()
    )
    for name, words in (("mae", "mean absolute error"), ("r2", "R2")):
        low, high = found["scores"][f"{name}_interval"]
        row = f"| {words} | {found['scores'][name]:.4f} | {low:.4f} to {high:.4f} |"
        assert row in card
    assert f"| loss (of standardised numbers) | {found['scores']['loss']:.4f} |" in card
    assert "with a number for each image" in card
    assert "One number: ink" in card
    assert "classes" not in card


@pytest.mark.slow
def test_transformers_and_onnx_runtime_answer_in_the_unit(
    home: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime import InferenceSession
    from transformers import AutoModelForImageClassification

    monkeypatch.chdir(home)
    image = home / "images" / "011.png"
    wanted = answer_of(home, image)
    _, preprocess, _ = load("best")
    x = preprocess(preprocess.read(image)[None])
    theirs = AutoModelForImageClassification.from_pretrained(str(exported))
    with torch.no_grad():
        assert theirs(x).logits.item() == pytest.approx(wanted, rel=1e-4)
    words = ["--run=ink", "--format=onnx", "--preprocess=true", "--out=onnx"]
    assert main(["export", *words, *QUIET]) == 0
    session = InferenceSession(home / "onnx" / "model.onnx")
    pixels = np.asarray(Image.open(image).convert("RGB"))
    assert [one.name for one in session.get_outputs()] == ["numbers"]
    (found,) = session.run(None, {"image": pixels})
    assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_the_page_of_an_export_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert main(["export", "--run=ink", "--format=web", "--out=web", *QUIET]) == 2
    assert "format web shows probabilities of classes" in capsys.readouterr().err


def test_explain_shows_the_number_and_what_supports_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    image, out = home / "images" / "011.png", tmp_path / "explained"
    words = ["--run=ink", f"--data.images={image}", f"--out={out}"]
    assert main(["explain", *words, *QUIET]) == 0
    arrays = np.load(out / "arrays.npz")
    wanted = answer_of(home, image)
    assert arrays["numbers"].item() == pytest.approx(wanted, rel=1e-2)  # in bfloat16
    assert "probabilities" not in arrays
    assert arrays["relevance"].shape == (1, 2, 2)
    page = (out / "index.html").read_text()
    assert "011.png" in page
    assert f"ink {arrays['numbers'].item():.4g}" in page


def test_fine_tuning_keeps_the_answers_of_the_head(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    best = tmp_path / "home/lightning_logs/ink/checkpoints/best.ckpt"
    words = [*data_words(home), "--data.target=ink", "--data.split_seed=1", *SMALL[:1], *QUIET]
    tiny = ["--model.lr=1e-12", "--trainer.max_steps=1", "--run=tuned"]
    assert main(["fit", f"--model.pretrained={best}", *words, *tiny]) == 0
    before, preprocess, _ = load(best)
    after, _, _ = load(tmp_path / "home/lightning_logs/tuned/checkpoints/last.ckpt")
    x = preprocess(preprocess.read(home / "images" / "003.png")[None])
    assert after(x).item() == pytest.approx(before(x).item(), rel=1e-4)


def test_compare_gives_errors_and_their_difference(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    paths = [f"lightning_logs/ink/checkpoints/{name}.ckpt" for name in ("best", "last")]
    shutil.copy(paths[0], "other.ckpt")
    assert main(["compare", paths[0], "other.ckpt", *QUIET]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = json.loads(Path("lightning_logs/ink/test_report/metrics.json").read_text())["scores"]
    assert f"  {scores['mae']:<8.4g}  " in "\n".join(lines)
    assert "+0 (+0 to +0): within noise" in "\n".join(lines)


def test_a_saved_probe_answers_as_its_regression(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(home)
    # float32: scikit-learn's regression is not rounded as a model in bfloat16 is
    words = ["--run=ink", "--save=probed", "--trainer.precision=32-true"]
    assert main(["probe", *words, f"--out={tmp_path / 'probe'}", *QUIET]) == 0
    found = json.loads((tmp_path / "probe" / "metrics.json").read_text())
    arrays = np.load(tmp_path / "probe" / "features.npz")
    train, test = ((arrays[f"{n}_features"], arrays[f"{n}_labels"]) for n in ("train", "test"))
    ridge = Ridge(alpha=1 / found["c"]).fit(*train)
    wanted = mean_absolute_error(test[1], ridge.predict(test[0]))
    assert found["linear"]["mae"] == pytest.approx(wanted, rel=1e-3)
    assert main(["test", "--run=probed", *QUIET]) == 0
    scores = json.loads(Path("lightning_logs/probed/test_report/metrics.json").read_text())
    assert scores["scores"]["mae"] == pytest.approx(wanted, rel=1e-3)


def test_a_probe_of_numbers_takes_no_settings_of_classes_from_the_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Label smoothing and a teacher belong to its training, and numbers have neither."""
    monkeypatch.chdir(tmp_path)
    words = [*data_words(home), "--data.batch_size=16", *SMALL, *QUIET, "--trainer.max_steps=1"]
    assert main(["fit", *words, "--run=teacher"]) == 0
    taught = ["--model.label_smoothing=0.1", "--model.teacher=lightning_logs/teacher"]
    assert main(["fit", *words, *taught, "--run=pupil"]) == 0
    assert main(["probe", "--run=pupil", "--data.target=ink", *QUIET]) == 0
    assert "mae" in json.loads(Path("probe/metrics.json").read_text())["linear"]


def test_ridge_and_the_neighbours_mean_equal_those_of_scikit_learn() -> None:
    draws = torch.Generator().manual_seed(0)
    features, others = (torch.randn(n, 6, generator=draws) for n in (80, 30))
    targets, theirs = (x[:, :1] * 3 + 50 + x[:, 1:2].square() for x in (features, others))
    for c in STRENGTHS:
        found = fit_ridge(features, targets, c=c)
        wanted = Ridge(alpha=1 / c).fit(features.numpy(), targets.numpy())
        assert np.allclose(found.weight.numpy(), wanted.coef_, rtol=1e-4, atol=1e-5)
        assert np.allclose(found.bias.numpy(), wanted.intercept_, rtol=1e-5)
    errors = {
        c: mean_squared_error(
            theirs, Ridge(alpha=1 / c).fit(features.numpy(), targets.numpy()).predict(others)
        )
        for c in STRENGTHS
    }
    assert choose_ridge((features, targets), (others, theirs))[1] == min(errors, key=errors.get)
    near = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features)
    rows = near.kneighbors(others, return_distance=False)
    wanted_mean = targets.numpy()[rows].mean(axis=1)
    found_mean = neighbour_mean(nearest(others, features, 5), targets)
    assert np.allclose(found_mean.numpy(), wanted_mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--data.target=weight"], "no column weight of numbers; it has ink, class: give one"),
        (["--data.task=regression"], "no column target of numbers; it has ink, class: name the"),
        (["--data.target=ink", "--data.task=single_label"], "target ink is the column of numbers"),
        (["--data.target=ink", "--model.label_smoothing=0.1"], "label_smoothing 0.1 spreads"),
        (["--data.target=ink", "--model.class_weights=balanced"], "class_weights balanced weights"),
        (["--data.target=ink", "--model.teacher=best"], "teacher gives probabilities of classes"),
        (["--data.target=ink", "--data.shots=3"], "shots counts images of each class"),
        (["--data.target=ink", "--checkpoints.monitor=val/acc"], "val/acc is no score of the task"),
        (["--model.loss=l1"], "loss l1 is of regression, and the labels are classes"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    more = [*SMALL, *QUIET, "--trainer.max_epochs=1", f"--trainer.default_root_dir={home / 'no'}"]
    assert main(["fit", *data_words(home), *more, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert reason in error
    assert "Traceback" not in error


def test_label_smoothing_of_a_shipped_recipe_is_turned_off_and_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(home)
    table = ["--data.labels=ink.csv", "--data.target=ink", "--data.img_size=8", "--data.in_chans=1"]
    words = [*table, *SMALL, *QUIET, "--trainer.max_steps=1", "--run=recipe"]
    assert main(["fit", "images", *words]) == 0
    told = "label_smoothing 0.1 of photos.yaml is for classes, and is not used for regression"
    assert [one for one in caplog.messages if "smoothing" in one] == [told]
    settings = read_checkpoint(home / "lightning_logs/recipe/checkpoints/last.ckpt")[MODEL_KEY]
    assert settings["label_smoothing"] == 0
    assert main(["test", "--run=recipe", "--config=photos.yaml", *table[2:], *SMALL, *QUIET]) == 0


def test_label_smoothing_that_the_user_asks_for_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    Path("own.yaml").write_text("model: {label_smoothing: 0.2}\n")
    for words in (["--config=photos.yaml", "--config=own.yaml"], ["--model.label_smoothing=0.2"]):
        table = ["--data.labels=ink.csv", "--data.target=ink"]
        assert main(["fit", "images", *words, *table, "--run=refused", *QUIET]) == 2
        assert "label_smoothing 0.2 spreads the target" in capsys.readouterr().err


def test_a_checkpoint_of_one_task_is_refused_for_another(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    words = [*data_words(home), *SMALL, *QUIET, "--trainer.max_steps=1", "--run=classes"]
    assert main(["fit", *words]) == 0
    assert main(["test", "--run=classes", "--data.target=ink"]) == 2
    assert "data.target ink asks for regression, and" in capsys.readouterr().err
    assert main(["test", "--run=ink", "--data.task=single_label"]) == 2
    assert "data.task asks for single_label" in capsys.readouterr().err


def test_numbers_in_the_column_of_classes_stay_classes_and_are_told(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "ages.csv"
    table.write_text("file,class\n" + "".join(f"{i:03}.png,{i / 2}\n" for i in range(20)))
    settings = {"dataset": "folder", "data_dir": str(home / "images"), "labels": str(table)}
    data = ImageData(**settings, img_size=8, in_chans=1, patch_size=4)
    assert (data.task, data.num_classes) == ("single_label", 20)
    assert "set data.target to class" in caplog.text
    numbers = ImageData(**settings, target="class", img_size=8, in_chans=1, patch_size=4)
    assert (numbers.task, numbers.class_names) == ("regression", ["class"])


def test_classes_that_are_small_whole_numbers_are_told_nothing(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"dataset": "folder", "data_dir": str(home / "images")}
    assert ImageData(**settings, labels=str(home / "ink.csv")).num_classes == 10
    assert "data.target" not in caplog.text


def test_regression_needs_a_table(home: Path) -> None:
    with pytest.raises(InputError, match="needs dataset folder and labels, a CSV file"):
        ImageData(dataset="digits", task="regression")
