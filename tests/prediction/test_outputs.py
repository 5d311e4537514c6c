"""JSON Lines, more or fewer classes, abstaining, and patch tokens."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitlit.data.batch import Batch
from vitlit.errors import InputError, Stopped
from vitlit.model.features import PatchFeature
from vitlit.model.vit import ViT
from vitlit.prediction.outputs import PatchWriter, feature_of, make_writer
from vitlit.prediction.row_file import RowFile
from vitlit.prediction.writer import JsonWriter, PredictionWriter

NAMES = ["ant", "bee", "cät"]
FILES = ["a.png", "b\udcff.png", "c.png"]
PROBABILITIES = torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0], [0.125, 0.0, 0.875]])


def batch(sample: list[int], valid: list[bool], bad: Any = ()) -> Batch:
    places, truth = torch.tensor(sample), torch.tensor(valid)
    return Batch(torch.empty(len(sample), 0), torch.zeros_like(places), places, truth, 0, 0, bad)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_of(path: str) -> list[list[str]]:
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def filled(writer: PredictionWriter, outputs: torch.Tensor = PROBABILITIES) -> PredictionWriter:
    """Images 0 and 2, and 1, which cannot be read."""
    writer.add(outputs, batch([0, 1, 2], [True, False, True], [(1, "no image")]))
    return writer


def test_json_has_an_object_for_each_image_in_the_order_given() -> None:
    filled(JsonWriter(None, NAMES, top=2)).finish(FILES)
    lines = Path("predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ant, bee, cat = ("ant", 0.125), ("bee", 0.5), ("cät", 0.875)
    assert [json.loads(line) for line in lines] == [
        {
            "file": "a.png",
            "class": "bee",
            "probability": 0.5,
            "top": [{"class": n, "probability": p} for n, p in (bee, ("ant", 0.25))],
        },
        {"file": "b\udcff.png", "error": "no image"},
        {
            "file": "c.png",
            "class": "cät",
            "probability": 0.875,
            "top": [{"class": n, "probability": p} for n, p in (cat, ant)],
        },
    ]


def test_below_the_threshold_there_is_a_probability_but_no_class(
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled(PredictionWriter("a.csv", NAMES, abstain_below=0.6)).finish(FILES)
    assert [row[:3] for row in rows_of("a.csv")[1:]] == [
        ["a.png", "", "0.5000"],
        [FILES[1], "", ""],
        ["c.png", "cät", "0.8750"],
    ]
    out = capsys.readouterr().out
    assert "a.png  0.5000  none (perhaps bee)" in out
    assert "no class for 1 of 2 images: probability below 0.6" in out
    filled(JsonWriter("a.jsonl", NAMES, abstain_below=0.6)).finish(FILES)
    found = [json.loads(line) for line in Path("a.jsonl").read_text("utf-8").splitlines()]
    assert [one.get("class", "bad") for one in found] == [None, "bad", "cät"]


def test_a_probability_at_the_threshold_is_enough() -> None:
    filled(PredictionWriter("a.csv", NAMES, abstain_below=0.5)).finish(FILES)
    assert [row[1] for row in rows_of("a.csv")[1:]] == ["bee", "", "cät"]


@pytest.mark.parametrize(("top", "expected"), [(1, ["bee"]), (2, ["bee", "ant"]), (9, None)])
def test_as_many_classes_are_listed_as_were_asked_for(top: int, expected: list[str] | None) -> None:
    filled(PredictionWriter("a.csv", NAMES, top=top)).finish(FILES)
    head, row, *_ = rows_of("a.csv")
    assert head[3] == f"top{top}"
    names = [part.partition(":")[0] for part in row[3].split(";")]
    assert names == expected if expected else sorted(names) == sorted(NAMES)


def test_patch_tokens_are_those_of_the_model_in_the_order_of_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = PatchWriter(None)
    tokens = torch.randn(4, 6, 5)
    filled(writer, tokens[:3])
    writer.add(tokens[3:], batch([3], [True]))
    assert not Path("patches.npy").exists()  # until it is complete
    writer.finish([*FILES, "d.png"])
    found = np.load("patches.npy", mmap_mode="r")
    np.testing.assert_array_equal(found, tokens[[0, 2, 3]].numpy())
    assert rows_of("patches.csv") == [
        ["file", "row", "error"],
        ["a.png", "0", ""],
        [FILES[1], "", "no image"],
        ["c.png", "1", ""],
        ["d.png", "2", ""],
    ]
    assert "3 images of 6 patch tokens of 5 numbers" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["patches.csv", "patches.npy"]


def test_only_the_rows_of_a_batch_are_in_memory() -> None:
    """What the writer holds besides the file does not grow with the tokens."""
    writer = PatchWriter(None)
    for i in range(3):
        writer.add(torch.zeros(1, 1000, 100), batch([i], [True]))
    held = [value for value in vars(writer).values() if isinstance(value, torch.Tensor)]
    assert held == []
    [part] = Path().glob(".patches.npy.*.part")
    assert part.stat().st_size > 1_000_000
    writer.abandon()


def test_a_signal_leaves_the_tokens_so_far() -> None:
    writer, stopped = PatchWriter("x.npy"), Stopped(15, "somewhere")
    filled(writer, torch.ones(3, 2, 2)).stop(stopped, FILES)
    assert np.load("x.npy").shape == (2, 2, 2)
    assert stopped.where == "after 3 of 3 images; wrote the patch tokens of these to x.npy"
    PatchWriter("y.npy").stop(stopped, [])
    assert sorted(path.name for path in Path().iterdir()) == ["x.csv", "x.npy"]


def test_an_error_leaves_no_part_of_the_tokens() -> None:
    writer = filled(PatchWriter(None), torch.ones(3, 2, 2))
    writer.abandon()
    assert list(Path().iterdir()) == []
    other = PatchWriter(None)
    other.add(torch.ones(1, 2, 2), batch([1], [False], [(1, "no image")]))
    with pytest.raises(InputError, match="1 of 1 image cannot be read"):
        other.finish(FILES)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("output", ["probabilities", "json", "features", "patches"])
def test_an_answer_that_is_no_finite_number_is_an_error_beside_the_other_answers(
    output: str, bad: float
) -> None:
    settings = {"output": output, "out": None, "top_k": 5, "abstain_below": 0.0}
    writer = make_writer(settings, NAMES)
    values = torch.eye(3) if output != "patches" else torch.ones(3, 2, 2)
    values[1, 0] = bad
    writer.add(values, batch([2, 0, 1], [True] * 3))
    with pytest.raises(
        InputError, match=r"infinite for 1 of 3 images, the first is a\.png"
    ) as info:
        writer.finish(FILES)
    assert str(info.value).endswith(f"{writer.path} has the answers for the others")
    if output == "probabilities":
        rows = {name: (cell, error) for name, cell, *_, error in rows_of("predictions.csv")[1:]}
        assert rows[FILES[1]] == ("cät", "")
        assert rows["c.png"] == ("ant", "")
        assert rows["a.png"] == ("", "the model's answer is NaN or infinite")
    if output == "json":
        lines = Path("predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert set(json.loads(lines[0])) == {"file", "error"}  # NaN is no JSON


def test_no_finite_number_at_all_is_an_error_with_the_names_in_the_file() -> None:
    writer = filled(PredictionWriter(None, NAMES), torch.full((3, 3), float("nan")))
    with pytest.raises(InputError, match="infinite for 2 of 2 images"):
        writer.finish(FILES)
    assert [row[1] for row in rows_of("predictions.csv")[1:]] == ["", "", ""]


def test_a_table_that_is_there_is_not_overwritten() -> None:
    Path("x.csv").write_text("mine")
    with pytest.raises(InputError, match=r"x\.csv exists"):
        PatchWriter("x.npy")
    with pytest.raises(InputError, match=r"end it in \.npy"):
        PatchWriter("y.csv")


def test_several_processes_cannot_write_patch_tokens() -> None:
    PredictionWriter(None, NAMES).check_several_processes()
    with pytest.raises(InputError, match="one process"):
        PatchWriter(None).check_several_processes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k 0 is too small"),
        ({"abstain_below": 1.5}, "abstain_below 1.5 is not a probability"),
        ({"abstain_below": float("nan")}, "abstain_below nan is not a probability"),
        ({"output": "features", "top_k": 3}, "which features have none of"),
        ({"output": "patches", "abstain_below": 0.5}, "which patches have none of"),
    ],
)
def test_wrong_choices_are_refused(settings: dict[str, Any], message: str) -> None:
    asked = {"output": "json", "out": None, "top_k": 5, "abstain_below": 0.0, **settings}
    with pytest.raises(InputError, match=message):
        make_writer(asked, NAMES)


def test_the_output_patches_takes_a_layer_but_no_pool() -> None:
    model = ViT(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)
    asked = {"output": "patches", "layer": 0, "pool": None}
    assert feature_of(asked, model) == PatchFeature(0)
    with pytest.raises(InputError, match="leave out pool"):
        feature_of({**asked, "pool": "avg"}, model)
    with pytest.raises(InputError, match="no block 2"):
        feature_of({**asked, "layer": 2}, model)


def test_two_commands_that_started_together_keep_both_arrays() -> None:
    writers = [PatchWriter(None), PatchWriter(None)]
    writers[1]._part = Path(".patches.npy.2.part")  # as in another process
    for number, writer in enumerate(writers):
        writer.add(torch.full((3, 2, 4), float(number)), batch([0, 1, 2], [True] * 3))
    for writer in writers:
        writer.finish(FILES)
    for number, name in enumerate(("patches", "patches-2")):
        assert (np.load(f"{name}.npy") == number).all()
        assert [row[:2] for row in rows_of(f"{name}.csv")[1:]] == [
            [file, str(row)] for row, file in enumerate(FILES)
        ]


def test_a_disk_that_is_full_while_closing_keeps_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RowFile.close

    def close(self: RowFile) -> None:
        whole(self)
        raise OSError(28, "No space left on device")

    writer = PatchWriter(None)
    writer.add(torch.zeros(3, 2, 4), batch([0, 1, 2], [True] * 3))
    monkeypatch.setattr(RowFile, "close", close)
    with pytest.raises(InputError, match="No space left on device"):
        writer.finish(FILES)
    assert not list(Path().iterdir())
