"""The card of an export: what it tells, what it leaves out, and that the hub's package reads it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from vitlit.deploy.export import export_model
from vitlit.deploy.origin import Origin, licence_of, origin_of
from vitlit.images.image_bytes import file_hash
from vitlit.images.preprocess import Preprocess
from vitlit.model.cost import cost_by_part
from vitlit.model.vit import ViT
from vitlit.tasks.known import make_task

SMALL: dict[str, Any] = {
    "img_size": 16, "patch_size": 8, "num_classes": 2, "embed_dim": 8, "depth": 1, "num_heads": 2,
}  # fmt: skip
DATA = {
    "dataset": "folder",
    "data_dir": "/home/someone/secret",
    "class_names": ["cat", "dog"],
    "val_fraction": 0.1,
    "test_fraction": 0.2,
    "split_seed": 3,
}
SCORES = {"images": 1234, "acc": 0.9, "acc_interval": [0.88, 0.92], "loss": 0.3}


def card_of(
    folder: Path, origin: Origin, names: list[str], model: ViT | None = None, **options: Any
) -> ModelCard:
    torch.manual_seed(0)
    model = model or ViT(**{**SMALL, "num_classes": len(names)})
    preprocess = Preprocess(3, (16, 16), (16, 16), (0.5,) * 3, (0.5,) * 3)
    export_model(model, preprocess, names, folder, origin=origin, **options)
    return ModelCard.load(str(folder / "README.md"))


SEVERAL = {"images": 9, "map": 0.8, "f1": 0.7, "map_interval": None, "f1_interval": None}
CLASS = {"images": 3, "ap": 0.8, "f1": 0.7, "threshold": 0.25}


def make_report(run: Path, content: dict[str, Any] | None = None, **of: Any) -> Path:
    """A run with a checkpoint and the report of a test of it."""
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = run / "checkpoints" / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    report = run / "test_report"
    report.mkdir()
    about = {"weights": str(checkpoint), "dataset": "folder", "split": "test", "flip": False}
    found = {"scores": SCORES, "file": str(file_hash(str(checkpoint))), "note": ""}
    found |= {**(content or {}), "of": {**about, **of}}
    (report / "metrics.json").write_text(json.dumps(found))
    rows = ["image,file,class,predicted,probability", *["1,a.png,cat,dog,0.9"] * 3]
    (report / "mistakes.csv").write_text("\n".join([*rows, "2,b.png,dog,cat,0.8"]))
    return checkpoint


@pytest.mark.parametrize("positions", ["learn", "sincos2d"])
def test_the_card_counts_the_parameters_that_the_summary_of_fit_counts(
    tmp_path: Path, positions: str
) -> None:
    model = ViT(**SMALL, pos_embed=positions)  # type: ignore[arg-type]
    card = card_of(tmp_path / "out", Origin(), ["cat", "dog"], model)
    count = sum(part.parameters for part in cost_by_part(model).values())
    assert f"width 8, {count:,} parameters" in card.text


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"fold": "1/10"},
            "Fold 1 of 10 was held out for the test, and 10 % of the others",
        ),
        ({"train_fraction": 0.25}, "Of the training images, 25 % were used."),
        ({"shots": 5}, "Of each class, 5 training images were used."),
    ],
)
def test_the_card_tells_how_the_images_were_split(
    settings: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    checkpoint = make_report(tmp_path / "run")
    text = card_of(
        tmp_path / "out",
        origin_of({"pretrained": None}, DATA | settings, str(checkpoint)),
        ["cat", "dog"],
    ).text
    assert wanted in " ".join(text.split())
    assert ("20 % of its images" in text) == ("fold" not in settings)


def test_the_card_tells_data_scores_and_mistakes(tmp_path: Path) -> None:
    checkpoint = make_report(tmp_path / "run")
    origin = origin_of({"pretrained": None}, DATA, str(checkpoint))
    card = card_of(tmp_path / "out", origin, ["cat", "dog"])
    assert "Trained on a folder of images, with 2 classes." in card.text
    assert "20 % of its images were held out for the test, and 10 % of the others" in card.text
    assert "On 1,234 held-out test images; 95 % interval" in card.text
    assert "from 0.8800 to 0.9200" in card.text
    assert "cat taken for dog (3), dog taken for cat (1)" in card.text
    assert "Trained from scratch." in card.text
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        "accuracy", 0.9, "test",
    )  # fmt: skip


def test_scores_of_several_classes_need_no_interval(tmp_path: Path) -> None:
    classes = {"cat": CLASS, "a|b": {**CLASS, "ap": None}}  # of which there was no image
    checkpoint = make_report(tmp_path / "run", {"scores": SEVERAL, "classes": classes})
    origin = origin_of({}, {**DATA, "task": "multi_label"}, str(checkpoint))
    task = make_task({"task": "multi_label", "thresholds": [0.25, 0.5]})
    card = card_of(tmp_path / "out", origin, ["cat", "a|b"], task=task)
    assert "On 9 held-out test images.\n" in card.text
    assert "| mean average precision | 0.8000 |  |" in card.text
    assert "| cat | 3 | 0.8000 | 0.7000 | 0.2500 |" in card.text
    assert "| a\\|b | 3 |  | 0.7000 | 0.2500 |" in card.text
    assert "the thresholds are 0.25, 0.5." in card.text


@pytest.mark.parametrize(
    "content",
    [
        {"scores": SEVERAL},
        {"scores": SEVERAL, "classes": {"cat": {**CLASS, "threshold": None}}},
        {"scores": {**SEVERAL, "f1_interval": [0.1]}, "classes": {}},
        {"scores": {"images": 9, "mae": 1.0, "mae_interval": [0.5, 1.5]}},
    ],
)
def test_a_report_without_some_of_its_numbers_is_left_out(
    content: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = make_report(tmp_path / "run", content)
    assert origin_of({}, DATA, str(checkpoint)).report is None


def test_where_files_lie_is_nobodys_business(tmp_path: Path) -> None:
    checkpoint = make_report(tmp_path / "run")
    weights = tmp_path / "private" / "weights.safetensors"
    origin = origin_of({"pretrained": str(weights)}, DATA, str(checkpoint))
    card = card_of(tmp_path / "out", origin, ["cat", "dog"])
    assert "weights.safetensors" in card.content
    assert str(tmp_path) not in card.content
    assert "secret" not in card.content


@pytest.mark.parametrize("changes", [{"split": "val"}, {"flip": True}], ids=str)
def test_scores_of_something_else_are_left_out(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = make_report(tmp_path / "run", **changes)
    assert origin_of({}, DATA, str(checkpoint)).report is None


def test_scores_of_earlier_weights_or_of_images_that_were_trained_on_are_left_out(
    tmp_path: Path,
) -> None:
    checkpoint = make_report(tmp_path / "run")
    assert origin_of({}, DATA, str(checkpoint)).report is not None
    checkpoint.write_bytes(b"newer weights")
    assert origin_of({}, DATA, str(checkpoint)).report is None
    checkpoint = make_report(tmp_path / "other", {"note": "it may have been trained on these"})
    assert origin_of({}, DATA, str(checkpoint)).report is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"of": 1, "scores": {"acc_interval": [1]}}'])
def test_a_broken_report_is_left_out(content: str, tmp_path: Path) -> None:
    checkpoint = make_report(tmp_path / "run")
    (tmp_path / "run" / "test_report" / "metrics.json").write_text(content)
    assert origin_of({}, DATA, str(checkpoint)).report is None


def test_without_any_knowledge_the_card_says_so(tmp_path: Path) -> None:
    card = card_of(tmp_path / "out", Origin(), [], format="pt2")
    assert "Not known." in card.text
    assert "Not measured." in card.text
    assert "The model has no head and gives features." in card.text
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "license" not in card.data.to_dict()


def test_names_cannot_break_the_card(tmp_path: Path) -> None:
    names = ["<img src=x>", "a|b *c* `d`", "line\nbreak", "---"]
    card = card_of(tmp_path / "out", Origin(), names, naming="vitlit")
    assert r"\<img src=x\>, a\|b \*c\* \`d\`, line break, ---" in card.text


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("timm/vit_small_patch16_224.augreg_in21k", "apache-2.0"),
        ("timm/vit_base_patch16_224.mae", "cc-by-nc-4.0"),
        ("timm/vit_small_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("timm/eva02_tiny_patch14_224.mim_in22k", "mit"),
        ("openai/clip-vit-base-patch16", "mit"),
        ("someone/something", None),
        ("fruits/apple/w.pth", None),  # a folder of any name
        ("/data/openai/mine.ckpt", None),
        ("/data/vit_small.augreg/model.safetensors", "apache-2.0"),
    ],
)
def test_the_licence_of_known_weights_is_told(name: str, licence: str | None) -> None:
    assert licence_of(name) == licence


def test_a_folder_tells_its_own_licence(tmp_path: Path) -> None:
    folder = tmp_path / "augreg"  # whose name would tell another one
    folder.mkdir()
    (folder / "config.json").write_text('{"pretrained_cfg": {"license": "bsd-3-clause"}}')
    assert licence_of(str(folder)) == "bsd-3-clause"
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n# hello\n")
    assert licence_of(str(folder)) == "mine"
    shutil.rmtree(folder)
    assert licence_of(str(folder)) == "apache-2.0"


def test_the_licence_stands_in_the_front_matter(tmp_path: Path) -> None:
    name = "timm/vit_small_patch16_dinov3.lvd1689m"
    origin = origin_of({"pretrained": name}, DATA, str(tmp_path / "x.ckpt"))
    data = card_of(tmp_path / "out", origin, ["cat", "dog"]).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "dinov3-license")
    assert data["base_model"] == name


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_the_code_of_a_pushed_program_runs(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downloaded(repository: str, file: str) -> str:
        assert repository == "me/cats"
        return str(tmp_path / "out" / file)

    options = {"format": format, "repository": "me/cats"}
    card = card_of(tmp_path / "out", Origin(), ["cat", "dog"], **options)
    [code] = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", downloaded)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["model"] is not None


@pytest.mark.parametrize("place", ["lightning_logs/pre", "weights/pre.safetensors"])
def test_a_path_that_is_gone_is_no_model_of_the_hub(place: str, tmp_path: Path) -> None:
    origin = origin_of({"pretrained": place}, DATA, str(tmp_path / "x.ckpt"))
    assert origin.start == Path(place).name
    card = card_of(tmp_path / "out", origin, ["cat", "dog"])
    assert "base_model" not in card.data.to_dict()
