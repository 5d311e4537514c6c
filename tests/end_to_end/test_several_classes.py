"""Images of several classes, from fit to export: what the commands write, against scikit-learn."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from huggingface_hub import ModelCard
from PIL import Image
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from vitlit import Classifier, ImageData, load
from vitlit.__main__ import main
from vitlit.data.datamodule import PlainImageData
from vitlit.evaluation.multi_label_report import MultiLabelReport
from vitlit.files import is_output
from vitlit.weights.checkpoint import MODEL_KEY, read_checkpoint

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["--model.patch_size=4", "--model.embed_dim=8", "--model.depth=1", "--model.num_heads=1"]
NAMES = ["bright", "left", "top"]  # what is true of an image


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 images, their labels, and the run of a training on them."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "photos").mkdir()
    draws = np.random.default_rng(0)
    lines = ["file,classes"]
    for i in range(60):
        bright, left, top = draws.random(3) < 0.5
        pixels = draws.integers(0, 60, (8, 8))
        pixels[:4] += 80 * top
        pixels[:, :4] += 80 * left
        Image.fromarray((pixels + 30 * bright).astype(np.uint8)).save(folder / f"photos/{i:02}.png")
        given = [name for name, is_so in zip(NAMES, (bright, left, top), strict=True) if is_so]
        lines.append(f"{i:02}.png,{';'.join(given)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    data = ["--data.dataset=folder", "--data.data_dir=photos", "--data.labels=labels.csv"]
    data += ["--data.img_size=8", "--data.in_chans=1", "--data.batch_size=16", "--data.mixup=0.2"]
    data += ["--model.class_weights=balanced", "--model.label_smoothing=0.1"]
    data += [
        "--trainer.max_epochs=3",
        "--trainer.precision=32-true",
        "--model.lr=0.01",
        "--data.val_fraction=0.25",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *data, *SMALL, *QUIET, "--run=first"]) == 0
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home / "lightning_logs" / "first"


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def answers(run: Path, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities and targets of a split, and the thresholds in the checkpoint."""
    content = read_checkpoint(run / "checkpoints" / "best.ckpt")
    model, preprocess, names = load(run)
    assert names == NAMES
    data = PlainImageData(**content["datamodule_hyper_parameters"])
    data.setup("fit")
    data.setup("test")
    part = data.splits[split]
    with torch.no_grad():
        logits = model(preprocess(part.images.gather(part.members)))
    return logits.sigmoid(), part.labels, torch.tensor(content[MODEL_KEY]["thresholds"])


def test_the_checkpoint_has_the_thresholds_of_the_highest_f1_on_validation(run: Path) -> None:
    probabilities, targets, thresholds = answers(run, "val")
    for k in range(3):
        found = sk.f1_score(targets[:, k], probabilities[:, k] > thresholds[k], zero_division=0)
        cuts = [-1.0, *probabilities[:, k].tolist()]
        every = [
            sk.f1_score(targets[:, k], probabilities[:, k] > cut, zero_division=0) for cut in cuts
        ]
        assert found == max(every)


@pytest.mark.usefixtures("run")
def test_a_test_after_a_training_in_python_has_its_thresholds() -> None:
    data = ImageData(
        dataset="folder", data_dir="photos", labels="labels.csv", patch_size=4, img_size=8
    )
    size = {"embed_dim": 8, "depth": 1, "num_heads": 1, "img_size": 8, "patch_size": 4}
    model = Classifier(task="multi_label", num_classes=3, in_chans=3, lr=0.01, **size)
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(model, data)
    [found] = trainer.test(model, data)
    split = data.splits["test"]
    with torch.no_grad():
        pixels = data.preprocess(split.images.gather(split.members))
        probabilities = model.vit.eval()(pixels).sigmoid()
    thresholds = torch.tensor(model.hparams["thresholds"])
    scores = [
        sk.f1_score(split.labels, probabilities > cut, average="macro", zero_division=0)
        for cut in (thresholds, 0.5)
    ]
    assert found["test/f1"] == pytest.approx(scores[0])
    assert scores[0] != pytest.approx(scores[1])


def test_the_report_is_scikit_learns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_path", str(run), *QUIET]) == 0
    probabilities, targets, thresholds = answers(run, "test")
    given = probabilities > thresholds
    report = json.loads((run / "test_report" / "metrics.json").read_text())
    expected = {
        "map": sk.average_precision_score(targets, probabilities, average="macro"),
        "f1": sk.f1_score(targets, given, average="macro", zero_division=0),
        "f1_micro": sk.f1_score(targets, given, average="micro", zero_division=0),
        "exact": sk.accuracy_score(targets, given),
    }
    found = report["scores"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["map_interval"][0] <= found["map"] <= found["map_interval"][1]
    assert [report["classes"][name]["threshold"] for name in NAMES] == thresholds.tolist()
    names = {path.name for path in (run / "test_report").iterdir()}
    assert names >= {"index.html", "classes.csv", "classes.png", "mistakes.csv"}
    assert is_output(run / "test_report")
    rows = read_rows(run / "test_report" / "mistakes.csv")
    assert len(rows) == int((given != targets.bool()).sum())
    page = (run / "test_report" / "index.html").read_text()
    pattern = r"predicted <bdi>(not )?(\w+)</bdi></em> \((\d\.\d\d)\)"
    shown = re.findall(pattern, page)
    assert 0 < len(shown) <= len(rows)
    for (is_not, name, sure), row in zip(shown, rows, strict=False):
        assert (bool(is_not), name) == (row["mistake"] == "missed", row["class"])
        of_class = float(row["probability"])  # but the page says how sure it was of what it said
        assert float(sure) == pytest.approx(1 - of_class if is_not else of_class, abs=0.0051)
    assert "fitted on the validation images" in capsys.readouterr().out
    assert report["thresholds_from"] == "fitted"


def test_thresholds_that_were_given_are_not_called_fitted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model.thresholds=[.5,.5,.5]", f"--out={tmp_path / 'report'}"]
    assert main(["test", "--ckpt_path", str(run), *words, *QUIET]) == 0
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert report["thresholds_from"] == "given"
    assert "0.500 to 0.500, as given" in capsys.readouterr().out


def test_predictions_are_the_classes_above_their_thresholds(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.csv"
    args = ["--data.images=photos", f"--out={out}", *QUIET]
    assert main(["predict", "--ckpt_path", str(run), *args]) == 0
    model, preprocess, _ = load(run)
    _, _, thresholds = answers(run, "test")
    rows = read_rows(out)
    assert len(rows) == 60
    for row in rows:
        with torch.no_grad():
            chances = model(preprocess(preprocess.read(row["file"])[None]))[0].sigmoid()
        order = chances.argsort(descending=True).tolist()
        given = [NAMES[k] for k in order if chances[k] > thresholds[k]]
        assert row["classes"] == ";".join(given)


def test_an_export_keeps_task_and_thresholds(run: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "found.jsonl"
    assert main(["export", "--ckpt_path", str(run), f"--out={out}", *QUIET]) == 0
    args = ["--data.images=photos", "--output=json", *QUIET]
    assert main(["predict", "--model.pretrained", str(out), *args, f"--out={file}"]) == 0
    other = tmp_path / "other.jsonl"
    assert main(["predict", "--ckpt_path", str(run), *args, f"--out={other}"]) == 0
    for one, two in zip(*(path.read_text().splitlines() for path in (file, other)), strict=True):
        theirs, own = json.loads(one), json.loads(two)
        assert [pair["class"] for pair in theirs["classes"]] == [p["class"] for p in own["classes"]]


def test_the_card_of_an_export_has_the_scores_of_test(run: Path, tmp_path: Path) -> None:
    assert main(["test", "--ckpt_path", str(run), *QUIET]) == 0
    assert main(["export", "--ckpt_path", str(run), f"--out={tmp_path / 'out'}", *QUIET]) == 0
    report = json.loads((run / "test_report" / "metrics.json").read_text())
    card = ModelCard.load(str(tmp_path / "out" / "README.md"))
    scores = report["scores"]
    for name, words in (("map", "mean average precision"), ("f1", "F1, mean over classes")):
        low, high = scores[f"{name}_interval"]
        assert f"| {words} | {scores[name]:.4f} | {low:.4f} to {high:.4f} |" in card.text
    for name, one in report["classes"].items():
        assert f"| {name} | {one['images']} | {one['ap']:.4f} | {one['f1']:.4f} |" in card.text
        assert f" | {one['threshold']:.4f} |\n" in card.text
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found == {"mAP": round(scores["map"], 4), "f1": round(scores["f1"], 4)}


def test_each_class_of_an_image_has_a_map(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    assert main(["explain", "--ckpt_path", str(run), "--count=3", f"--out={out}", *QUIET]) == 0
    _, _, thresholds = answers(run, "test")
    with np.load(out / "arrays.npz") as arrays:
        maps, chances = arrays["class_maps"], arrays["probabilities"]
    given = chances > thresholds.numpy()
    nobody = ~given.any(axis=1)
    given[nobody, chances[nobody].argmax(axis=1)] = True  # the surest, if none is above
    assert np.array_equal(~np.isnan(maps).any(axis=(2, 3)), given)
    assert (out / "classes.png").is_file()


def test_a_probe_is_scikit_learns_and_its_saved_model_scores_as_it_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--ckpt_path", str(run), "--save=linear", "--k=5", *QUIET]) == 0
    assert "fitted on validation images" in capsys.readouterr().out
    found = json.loads(Path("probe/metrics.json").read_text())
    with np.load("probe/features.npz") as arrays:
        x = dict(arrays)
    fits = {
        c: OneVsRestClassifier(LogisticRegression(C=c, tol=1e-8, max_iter=20000)).fit(
            x["train_features"].astype(np.float64), x["train_labels"]
        )
        for c in (0.01, 0.1, 1.0, 10.0, 100.0)
    }

    def score(c: float, split: str) -> float:
        said = fits[c].decision_function(x[f"{split}_features"])
        return float(sk.average_precision_score(x[f"{split}_labels"], said, average="macro"))

    assert found["c"] == max(fits, key=lambda c: score(c, "val"))  # of equal ones the least
    assert found["linear"]["map"] == pytest.approx(score(found["c"], "test"), abs=1e-6)
    assert main(["test", "--run=linear", "--out=report", *QUIET]) == 0
    assert f"test/map {found['linear']['map']:.4f}" in capsys.readouterr().out
    scores = json.loads(Path("report/metrics.json").read_text())["scores"]
    names = ("map", "map_interval", "f1", "f1_micro", "exact")
    assert {name: found["linear"][name] for name in names} == {n: scores[n] for n in names}


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["test", "--data.task=single_label"], "data.task asks for single_label, and"),
        (["test", "--data.labels=one.csv"], "its column class gives each image one class"),
        (["test", "--data.labels=null", "--data.dataset=digits"], "are not 10 different names"),
        (["export", "--format=web"], "format web shows one class for each image"),
        (["predict", "--data.images=photos", "--abstain_below=0.5"], "each with a threshold"),
        (["probe", "--data.shots=3"], "shots counts images of one class"),
        (["test", "--model.thresholds=[0.5]"], "are not 3 numbers from 0 to 1"),
    ],
)
def test_what_a_model_of_several_classes_cannot_do_is_said(
    args: list[str], part: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one.csv").write_text("file,class\n00.png,top\n01.png,left\n")
    start: list[Any] = ["--ckpt_path", str(run)]
    assert main([args[0], *start, *args[1:], *QUIET]) == 2
    assert part in " ".join(capsys.readouterr().err.split())


def test_class_names_in_another_order_take_their_thresholds_along(
    run: Path, tmp_path: Path
) -> None:
    assert main(["export", "--ckpt_path", str(run), f"--out={tmp_path / 'out'}", *QUIET]) == 0
    words = ["predict", f"--model.pretrained={tmp_path / 'out'}", "--data.images=photos", *QUIET]
    found = []
    for number, more in enumerate(([], [f"--data.class_names=[{','.join(reversed(NAMES))}]"])):
        assert main([*words, *more, f"--out={tmp_path / str(number)}.csv"]) == 0
        found.append([row["classes"] for row in read_rows(tmp_path / f"{number}.csv")])
    assert found[0] == found[1]
    assert len(set(found[0])) > 2


def test_without_any_class_the_interval_has_its_reason() -> None:
    scores = {"map_interval": None, "images": 6}
    metrics = {"scores": scores, "classes": {"a": {"threshold": 0.5}}, "thresholds_from": "given"}
    assert "none: no image has a class" in MultiLabelReport.lines(metrics)[0]
