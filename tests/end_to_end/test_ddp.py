"""Several processes: each way to start them, equal training, and every sample counted once."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pair import Command, run_pair
from PIL import Image
from processes import TORCHRUN, VITLIT, environment, free_port
from programs import save_program, small_cnn
from recorder import RECORDED, losses_in
from trainings import STATE, same

from vitlit import ImageData
from vitlit.__main__ import main

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
DDP = ["--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--trainer.devices=2"]
ONE = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
TIMEOUT = 180


pytestmark = pytest.mark.first


def run(command: list[str], folder: Path, **changes: str) -> str:
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def by_console_script(args: list[str], folder: Path) -> str:
    return run([VITLIT, *args], folder)


def by_module(args: list[str], folder: Path) -> str:
    return run([sys.executable, "-m", "vitlit", *args], folder)


def by_torchrun(args: list[str], folder: Path) -> str:
    """With --run, which torchrun would take for one of its own options but for the two dashes."""
    [made] = (folder / "lightning_logs").iterdir()
    launch = [TORCHRUN, "--nproc_per_node=2", f"--master_port={free_port()}", "-m", "--", "vitlit"]
    return run([*launch, *args, "--run", made.name], folder)


def by_srun(args: list[str], folder: Path) -> str:
    """What srun does: the same command in every task, told apart by the environment."""
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "vitlit",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    tasks = [
        subprocess.Popen(
            [VITLIT, *args],
            cwd=folder,
            env=environment(**slurm, SLURM_PROCID=rank, SLURM_LOCALID=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [task.communicate(timeout=TIMEOUT) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    return outputs[0][0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, and a data folder with 61 test images."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = [*SMALL, *QUIET, "--trainer.max_epochs=3"]
        assert main(["fit", "--config", "digits.yaml", *args]) == 0
    data = ImageData(patch_size=2)
    data.setup("test")
    split = data.splits["test"]
    for number, index in enumerate(split.members[:61].tolist()):
        image = split.images.gather(torch.tensor([index]))[0, 0].numpy()
        for part in ("train", "test"):
            file = folder / "data" / part / str(int(split.labels[number])) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return folder


@pytest.fixture(scope="module")
def pair(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that run the commands of this module, one after the other."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("train", "leave out"):
        (folder / name).mkdir()
    shutil.copytree(home / "data" / "test", folder / "leave out" / "photos")
    with_bad_images(folder)
    score = ["predict", "--ckpt_path=last", *QUIET, *DDP]
    bad = [f"--data.images={folder / 'bad'}", "--data.batch_size=2", f"--out={folder / 'bad.csv'}"]
    good = ["--data.images", "data/test", "--data.batch_size=8", f"--out={folder / 'good.csv'}"]
    commands = {
        "train": Command([*TRAIN, "--data.batch_size=16", *DDP], str(folder / "train")),
        "predict": Command([*score, *good], str(home)),
        "list": Command([*score, *bad], str(home)),
        "leave out": Command([*LEAVE_OUT, *OFTEN, "--data.memory_gb=1"], str(folder / "leave out")),
        "report": Command([*REPORT, *DDP, f"--out={folder / 'report'}"], str(home)),
    }
    run_pair(commands, folder, environment(), [free_port() for _ in commands])
    return folder


def with_bad_images(folder: Path) -> None:
    """A folder of one good image and four bad ones, and photos of which two are bad."""
    (folder / "bad").mkdir()
    Image.new("L", (8, 8)).save(folder / "bad" / "good.png")
    for i in range(4):
        (folder / "bad" / f"bad{i}.png").write_bytes(b"no image")
    spoil(folder / "leave out")


def spoil(folder: Path) -> None:
    first, second = sorted(folder.glob("photos/*/*.png"))[:2]
    first.write_bytes(first.read_bytes()[:60])
    second.write_bytes(b"no image")


SCORES = r"reached .*(?:\n {12}.*)*"  # with the lines that go on in the next column


@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(by_console_script, marks=pytest.mark.slow),
        pytest.param(by_torchrun, marks=pytest.mark.slow),
        pytest.param(by_module, marks=pytest.mark.slow),
        pytest.param(by_srun, marks=pytest.mark.slow),
    ],
)
def test_two_processes_test_61_samples_as_61(
    launch: Callable[[list[str], Path], str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["test", "--ckpt_path=last", "--data.dataset=folder", "--data.data_dir=data"]
    args += ["--data.batch_size=8", *QUIET]
    monkeypatch.chdir(home)
    assert main([*args, *ONE]) == 0
    [expected] = re.findall(SCORES, capsys.readouterr().out)
    both = launch([*args, *DDP], home)
    assert "(61 images)" in expected
    right = float(re.findall(r"test/acc (\S+)", expected)[0]) * 61
    assert abs(right - round(right)) < 0.01  # a share of 61, not of 62
    assert re.findall(SCORES, both) == [expected]


TRAIN = ["fit", "--config=digits.yaml", *SMALL, *QUIET, "--trainer.max_steps=50"]
TRAIN += ["--trainer.precision=32-true", "--data.mixup=0"]  # each process mixes its own images
TRAIN += ["--data.crop_padding=1", "--data.flip=true", *RECORDED]


def test_two_processes_train_as_one(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--data.batch_size=32", *ONE]) == 0
    one, two = losses_in(tmp_path, 1), losses_in(pair / "train", 2)
    assert len(one) == 50
    assert one[-1] < one[0]
    torch.testing.assert_close(two, one, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("learning", ["muon", "teacher"])
def test_two_processes_learn_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learning: str
) -> None:
    words = [*TRAIN, "--trainer.max_steps=20"]
    if learning == "teacher":
        torch.manual_seed(0)
        program = save_program(small_cnn(), tmp_path / "cnn.pt2")
        words += [f"--model.teacher={program}"]
    else:
        words += ["--model.optimizer=muon"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert main([*words, "--data.batch_size=32", *ONE]) == 0
    by_console_script([*words, "--data.batch_size=16", *DDP], tmp_path / "two")
    one, two = losses_in(tmp_path / "one", 1), losses_in(tmp_path / "two", 2)
    # Muon rounds gradients to bfloat16, so differences in the last bit grow
    torch.testing.assert_close(two, one, rtol=1e-3 if learning == "muon" else 1e-5, atol=0)


STRATEGY = """
trainer:
  strategy:
    class_path: pytorch_lightning.strategies.DDPStrategy
    init_args: {gradient_as_bucket_view: false}
"""


@pytest.mark.slow
def test_gradients_in_buckets_train_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    train = ["fit", "--config=digits.yaml", *SMALL, *QUIET, "--trainer.max_steps=12", *DDP]
    train += ["--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.1"]
    (tmp_path / "copied.yaml").write_text(STRATEGY)
    for name in ("views", "copied"):
        (tmp_path / name).mkdir()
    # the last config decides, after --trainer.strategy=ddp
    more = {"views": [], "copied": [f"--config={tmp_path / 'copied.yaml'}"]}
    commands = {name: Command([*train, *args], str(tmp_path / name)) for name, args in more.items()}
    run_pair(commands, tmp_path, environment(), [free_port() for _ in commands])
    first, second = (
        torch.load(next((tmp_path / name).glob("lightning_logs/*/checkpoints/last.ckpt")))
        for name in more
    )
    assert first["global_step"] == 12
    assert all(same(first.get(name), second.get(name)) for name in STATE)


def test_two_processes_predict_each_file_once(home: Path, pair: Path) -> None:
    lines = (pair / "good.csv").read_text().splitlines()[1:]
    expected = sorted(str(path.relative_to(home)) for path in home.glob("data/test/*/*.png"))
    assert [line.split(",")[0] for line in lines] == expected


@pytest.mark.faults
def test_two_processes_list_each_bad_file_once(pair: Path) -> None:
    with (pair / "bad.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bad = [pair / "bad" / f"bad{i}.png" for i in range(4)]
    good = pair / "bad" / "good.png"
    assert [row["file"] for row in rows if not row["error"]] == [str(good)]
    assert [row["file"] for row in rows if row["error"]] == [str(path) for path in bad]
    text = (pair / "list.out").read_text()
    assert [text.count(f"{path}: ") for path in bad] == [1] * 4
    assert "4 of 5 images cannot be read" in text


LEAVE_OUT = ["fit", "--config=debug.yaml", "--data.dataset=folder", "--data.data_dir=photos"]
LEAVE_OUT += ["--data.img_size=8", "--model.patch_size=4", "--data.on_bad_image=skip"]
LEAVE_OUT += ["--data.num_workers=0", *SMALL, *QUIET, *DDP]
OFTEN = ["--checkpoints.every_minutes=1e-9"]  # after the first step, whose save costs nothing yet
LEFT_OUT = ["left out images that cannot be read (train 1 of 44, val 0 of 6):"]


@pytest.mark.faults
def test_two_processes_leave_out_the_same_bad_files(pair: Path) -> None:
    assert re.findall(r"left out .*", (pair / "leave out.err").read_text()) == LEFT_OUT


def test_two_processes_save_by_the_clock_within_an_epoch(pair: Path) -> None:
    [file] = pair.glob("leave out/lightning_logs/*/checkpoints/last-1.ckpt")
    assert torch.load(file, weights_only=True)["position"]["batch"] > 0


@pytest.mark.slow
@pytest.mark.faults
def test_two_processes_that_decode_as_they_go_leave_out_the_same_bad_files(
    home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "data" / "test", tmp_path / "photos")
    spoil(tmp_path)
    errors = tmp_path / "errors.txt"
    args = ["sh", VITLIT, *LEAVE_OUT, "--data.memory_gb=0"]
    run(["sh", "-c", f'"$@" 2> {errors}', *args], tmp_path)
    assert re.findall(r"left out .*", errors.read_text()) == LEFT_OUT


REPORT = ["test", "--ckpt_path=last", "--data.dataset=folder", "--data.data_dir=data", *QUIET]
REPORT += ["--data.batch_size=8"]


def test_two_processes_report_as_one(
    home: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert main([*REPORT, *ONE, f"--out={tmp_path / 'report'}"]) == 0
    one, two = (
        json.loads((folder / "report" / "metrics.json").read_text()) for folder in (tmp_path, pair)
    )
    assert one["scores"]["images"] == 61
    for name, value in one["scores"].items():
        assert two["scores"][name] == pytest.approx(value, rel=1e-5), name
    assert two["temperature"] == pytest.approx(one["temperature"], rel=1e-3)
    assert two["classes"] == one["classes"]
