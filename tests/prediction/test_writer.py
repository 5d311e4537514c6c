"""predictions.csv and features.npz, from batches of numbers."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.errors import InputError, Stopped
from vitlit.evaluation.inference import Processes, answer
from vitlit.model.vit import ViT
from vitlit.prediction.multi_label import MultiLabelWriter
from vitlit.prediction.outputs import FeatureWriter, feature_of, make_writer
from vitlit.prediction.writer import PredictionWriter
from vitlit.tasks.known import make_task
from vitlit.tasks.multi_label import MultiLabel

NAMES = ["ant", "bee", "cat"]


def asked(output: str, out: str | None = None, **more: Any) -> dict[str, Any]:
    return {"output": output, "out": out, "top_k": 5, "abstain_below": 0.0, **more}


def batch(sample: list[int], valid: list[bool], bad: Any = ()) -> Batch:
    places, truth = torch.tensor(sample), torch.tensor(valid)
    return Batch(torch.empty(len(sample), 0), torch.zeros_like(places), places, truth, 0, 0, bad)


def written(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(writer: PredictionWriter) -> PredictionWriter:
    """Batches of the images 3, 0 and 1, of which 1 cannot be read, and a row that fills up."""
    writer.add(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), batch([3, 0], [True, True]))
    values = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.2, 0.3]])
    writer.add(values, batch([1, 0], [False, False], [(1, "no image"), (1, "no image")]))
    return writer


FILES = ["a.png", "b.png", "c.png", "d.png"]
ROWS = [
    ["file", "class", "probability", "top5", "error"],
    ["a.png", "ant", "0.5000", "ant:0.5000;cat:0.3000;bee:0.2000", ""],
    ["b.png", "", "", "", "no image"],
    ["d.png", "bee", "0.7000", "bee:0.7000;cat:0.2000;ant:0.1000", ""],
]


def test_rows_come_in_the_order_given_and_a_bad_file_has_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = filled(make_writer(asked("probabilities", None), NAMES))
    writer.finish(FILES)
    assert writer.path == Path("predictions.csv")
    assert written(writer.path) == ROWS
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:2] == ["a.png  0.5000  ant", "d.png  0.7000  bee"]
    assert "more" not in printed.out
    assert "b.png" in printed.out + printed.err


def test_of_many_classes_five_are_written() -> None:
    writer = PredictionWriter("x.csv", [f"n{i}" for i in range(7)])
    writer.add(torch.arange(7.0)[None] / 21, batch([0], [True]))
    writer.finish(FILES)
    [_, row] = written(Path("x.csv"))
    assert [part.partition(":")[0] for part in row[3].split(";")] == ["n6", "n5", "n4", "n3", "n2"]


def test_of_equal_probabilities_the_first_class_is_given_as_in_the_scores() -> None:
    drawn = torch.randint(0, 3, (400, 100), generator=torch.Generator().manual_seed(0)) / 4
    names = [f"n{i}" for i in range(100)]
    writer = PredictionWriter("x.csv", names)
    writer.add(drawn, batch([*range(400)], [True] * 400))
    writer.finish([f"{i}.png" for i in range(400)])
    given = [row[1] for row in written(Path("x.csv"))[1:]]
    assert given == [names[i] for i in drawn.argmax(dim=1).tolist()]


@pytest.mark.parametrize(
    ("count", "more"), [(10, None), (11, "… and 1 more"), (13, "… and 3 more")]
)
def test_ten_predictions_are_printed(
    count: int, more: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = PredictionWriter(None, NAMES)
    writer.add(torch.eye(3)[:1].repeat(count, 1), batch(list(range(count)), [True] * count))
    writer.finish([f"{i}.png" for i in range(count)])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if ".png" in line]) == 10
    assert [line for line in lines if line.startswith("…")] == ([more] if more else [])
    assert len(written(writer.path)) == count + 1


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_class_names_are_printed_without_escape_sequences(
    limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[2Jcat"
    labels = MultiLabelWriter("b.csv", [hostile], task=MultiLabel({"thresholds": None}))
    for writer in (PredictionWriter("a.csv", [hostile], abstain_below=limit), labels):
        writer.add(torch.tensor([[0.75]]), batch([0], [True]))
        writer.finish(["0.png"])
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert r"\x1b[2Jcat" in shown
        assert written(writer.path)[1][1] in ("", hostile)  # the table has the name itself


def test_no_image_that_can_be_read_is_an_error_with_the_names_in_the_file() -> None:
    writer = PredictionWriter(None, NAMES)
    writer.add(torch.eye(3)[:1], batch([2], [False], [(2, "no image")]))
    with pytest.raises(InputError, match=r"wrote these names to predictions\.csv"):
        writer.finish(FILES)
    assert written(Path("predictions.csv"))[1:] == [["c.png", "", "", "", "no image"]]


def test_only_the_first_process_writes_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    second = Processes(world=1, is_first=False)
    filled(PredictionWriter(None, NAMES)).finish(FILES, second)
    filled(FeatureWriter(None)).finish(FILES, second)
    assert not list(Path().iterdir())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("rank", "name"), [(None, "x.csv"), (0, "x-process-0.csv")])
def test_a_signal_leaves_the_rows_so_far(rank: int | None, name: str) -> None:
    stopped = Stopped(15, "somewhere")
    filled(PredictionWriter("x.csv", NAMES)).stop(stopped, FILES, rank)
    assert written(Path(name)) == ROWS
    assert stopped.where == f"after 3 of 4 images; wrote the predictions of these to {name}"


def test_a_signal_before_the_first_batch_leaves_no_file() -> None:
    stopped = Stopped(15, "somewhere")
    make_writer(asked("features", "x"), NAMES).stop(stopped, FILES)
    PredictionWriter("y", NAMES).stop(stopped, [])
    assert stopped.where == "somewhere"
    assert not list(Path().iterdir())


def test_a_signal_after_bad_files_alone_leaves_their_names() -> None:
    writer, stopped = PredictionWriter(None, NAMES), Stopped(15, "somewhere")
    writer.add(torch.eye(3)[:1], batch([2], [False], [(2, "no image")]))
    writer.stop(stopped, FILES)
    assert "after 1 of 4 images" in stopped.where
    assert written(Path("predictions.csv"))[1][0] == "c.png"


def test_the_folder_of_the_file_is_made_with_those_above_it() -> None:
    filled(PredictionWriter("a/b/x.csv", NAMES)).finish(FILES)
    PredictionWriter("a/b/y.csv", NAMES)  # the folder is there
    assert written(Path("a/b/x.csv")) == ROWS


def test_a_place_that_cannot_be_written_to_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("file").touch()
    with pytest.raises(InputError, match=r"cannot make the folder of file/a/x\.csv") as found:
        PredictionWriter("file/a/x.csv", NAMES)
    assert found.value.arguments == ("out",)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"cannot write into .*; give another file") as found:
        PredictionWriter("x.csv", NAMES)
    assert found.value.arguments == ("out",)


def test_features_are_written_with_the_names_of_their_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = filled(make_writer(asked("features", None), []))
    writer.finish(FILES)
    with np.load("features.npz") as arrays:
        assert arrays["files"].tolist() == ["a.png", "d.png"]
        assert np.allclose(arrays["features"], [[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    assert "2 images of 3 features" in capsys.readouterr().out
    again = make_writer(asked("features", None), [])
    assert again.path != Path("features.npz")  # the file is there


def test_features_of_no_image_are_an_error_and_no_file() -> None:
    writer = FeatureWriter("x")
    writer.add(torch.eye(3)[:1], batch([2], [False], [(2, "no image")]))
    with pytest.raises(InputError, match=r"c\.png"):
        writer.finish(FILES)
    assert not list(Path().iterdir())


def test_a_signal_leaves_the_features_so_far_in_the_file_that_was_named() -> None:
    stopped = Stopped(15, "somewhere")
    filled(FeatureWriter("x.out")).stop(stopped, FILES)
    assert stopped.where == "after 2 of 4 images; wrote the features of these to x.out"
    with np.load("x.out") as arrays:
        assert arrays["files"].tolist() == ["a.png", "d.png"]


SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 1}


def test_an_answer_is_probabilities_or_a_feature_in_float32() -> None:
    model = ViT(**SMALL, num_classes=3).eval()
    x = torch.rand(2, 3, 8, 8)

    def half(x: Tensor) -> Tensor:
        return model(x).bfloat16()

    found = answer(half, model, None, x, make_task({}))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, half(x).float().softmax(dim=1))
    feature = feature_of({"output": "features", "layer": 0, "pool": "token"}, model)
    assert feature is not None
    torch.testing.assert_close(answer(half, model, feature, x, make_task({})), feature(model, x))


@pytest.mark.parametrize("setting", [{"layer": 0}, {"pool": "token"}])
def test_a_choice_of_features_without_features_is_refused(setting: dict[str, Any]) -> None:
    model, plain = ViT(**SMALL), {"output": "probabilities", "layer": None, "pool": None}
    assert feature_of(plain, model) is None
    with pytest.raises(InputError, match="choose among features") as found:
        feature_of({**plain, **setting}, model)
    assert found.value.arguments == ("layer", "pool", "output")
    with pytest.raises(InputError, match="layer"):
        feature_of({**plain, "output": "features", "layer": 2}, model)


def test_two_commands_that_started_together_keep_both_files() -> None:
    first, second = PredictionWriter(None, NAMES), PredictionWriter(None, NAMES)
    for writer in (first, second):
        filled(writer).finish(FILES)
    assert first.path == Path("predictions.csv")
    assert second.path == Path("predictions-2.csv")
    assert written(first.path) == written(second.path)
