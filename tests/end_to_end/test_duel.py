"""The duel's arithmetic: epochs that fit a budget, the peer's schedule, the table."""

import math
import sys
from pathlib import Path

import duel
import duel_timm
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

PLACE = duel.Place(Path("data"), Path("work"), "32-true")


def result(name: str, test: float) -> duel.Result:
    return duel.Result(name, 20.0, "a processor", "32-true", 2, 1200.0, [0.3, 0.5], test)


def test_as_many_epochs_as_the_budget_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting takes 40 s, a step 0.5 s, and 300 images held out a third of as many trained on."""
    validation = 0.5 * 300 / 3 / 100

    def train(name: str, place: duel.Place, epochs: int, batches: int, run: str) -> float:
        assert (name, place, epochs) == ("plain", PLACE, 1)
        return 40 + 0.5 * batches + validation

    monkeypatch.setattr(duel, "train", train)
    monkeypatch.setattr(duel, "batch_size", lambda name, place: 100)
    images = {"train": 2700, "val": 300}
    epoch = 0.5 * 27 + validation
    for epochs in (1, 7, 20):
        assert duel.epochs_within(40.1 + epochs * epoch, "plain", PLACE, images) == epochs
    assert duel.epochs_within(1.0, "plain", PLACE, images) == 1


def test_the_peers_rate_warms_up_and_falls_as_a_cosine() -> None:
    steps, warmup = 60, 10
    shares = [duel_timm.rate_at(step, steps, warmup) for step in range(steps + 1)]
    assert shares[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    rate, low = duel_timm.RATE, duel_timm.MIN_RATE
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    cosine = CosineAnnealingLR(optimizer, steps - warmup, eta_min=low)
    for share in shares[warmup:]:
        assert share * rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        cosine.step()
    assert math.isclose(shares[-1] * rate, low)


def test_the_peer_decays_matrices_alone() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})
    model.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, 4, 2)))
    plain, decayed = duel_timm.parameter_groups(model)
    assert decayed == {"params": [model["linear"].weight], "weight_decay": 0.05}
    assert len(plain["params"]) == 4  # type: ignore[arg-type]


def test_all_learn_from_the_same_images(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+test", classes=("ant", "bee"), count=20)
    found = duel.image_files(root)
    paths = {name: {path for path, _ in files} for name, files in found.items()}
    assert not paths["train"] & paths["val"]
    assert paths["train"] | paths["val"] == set(map(str, root.glob("train/*/*")))
    assert paths["test"] == set(map(str, root.glob("test/*/*")))
    assert all(
        label == ["ant", "bee"].index(Path(path).parent.name) for path, label in found["val"]
    )


@pytest.mark.draws
def test_the_table_has_the_best_first_and_the_picture_a_line_for_each(tmp_path: Path) -> None:
    results = [result("timm", 0.5), result("stem", 0.75)]
    rows = duel.text_of(results).splitlines()[-2:]
    assert rows[0] == "| `cifar10_cpu.yaml` | 2 | 20.0 | 0.5000 | 0.7500 |"
    assert rows[1].startswith("| timm's vit_tiny")
    duel.draw(results, tmp_path / "duel.png")
    with Image.open(tmp_path / "duel.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    drawn = {tuple(bytes.fromhex(text[1:])) for text in duel.COLOURS}
    assert len(colours & drawn) == len(results)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data-dir . --minutes 0", "--minutes 0.0 is not positive"),
        ("--data-dir nowhere", "--data-dir nowhere: there is no folder train in it"),
        ("--data-dir . --quick --write", "leave it out, or --write"),
    ],
)
def test_what_cannot_be_run_is_refused_first(
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "train").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["duel.py", *words.split()])
    with pytest.raises(SystemExit):
        duel.parse_args()
    assert said in capsys.readouterr().err
