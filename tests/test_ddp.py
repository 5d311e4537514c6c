"""Several processes: each way to start them, equal training, and every sample counted once."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitlit.__main__ import main
from vitlit.datamodule import ImageData

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
DDP = ["--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--trainer.devices=2"]
SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
TIMEOUT = 180
VITLIT = str(Path(sys.executable).parent / "vitlit")
TORCHRUN = str(Path(sys.executable).parent / "torchrun")


def environment(**changes: str) -> dict[str, str]:
    """Of a shell: without what a trainer of another test in this process left behind."""
    tests = Path(__file__).parent
    own = os.pathsep.join(map(str, (tests, tests.parent)))
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": own, "CUDA_VISIBLE_DEVICES": ""}
    left = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
    inherited = {name: value for name, value in os.environ.items() if name not in left}
    return {**inherited, **quiet, **changes}


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


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


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


@pytest.mark.parametrize(
    "launch",
    [
        by_console_script,
        pytest.param(by_torchrun, marks=pytest.mark.slow),
        pytest.param(by_module, marks=pytest.mark.slow),
        pytest.param(by_srun, marks=pytest.mark.slow),
    ],
)
def test_two_processes_test_61_samples_as_61(
    launch: Callable[[list[str], Path], str], home: Path
) -> None:
    args = ["test", "--ckpt_path=last", "--data.dataset=folder", "--data.data_dir=data"]
    args += ["--data.batch_size=8", *QUIET]
    alone = run([VITLIT, *args, "--trainer.accelerator=cpu"], home)
    both = launch([*args, *DDP], home)
    [expected] = re.findall(r"reached .*", alone)
    assert "(61 images)" in expected
    right = float(re.findall(r"test/acc (\S+)", expected)[0]) * 61
    assert abs(right - round(right)) < 0.01  # a share of 61, not of 62
    assert re.findall(r"reached .*", both) == [expected]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    losses: dict[int, torch.Tensor] = {}
    recorder = "{class_path: recorder.LossRecorder, init_args: {folder: .}}"
    args = ["fit", "--config=digits.yaml", *SMALL, *QUIET, "--trainer.max_steps=50"]
    args += ["--data.crop_padding=1", "--data.flip=true", f"--trainer.callbacks=[{recorder}]"]
    args += ["--allow_classes_of=recorder"]
    for world, extra in ((1, ["--data.batch_size=32"]), (2, ["--data.batch_size=16", *DDP])):
        folder = tmp_path / str(world)
        folder.mkdir()
        run([VITLIT, *args, "--trainer.accelerator=cpu", *extra], folder)
        files = sorted(folder.glob("losses-*.json"))
        assert len(files) == world
        ranks = [torch.tensor(json.loads(file.read_text())) for file in files]
        losses[world] = torch.stack(ranks).mean(dim=0)
    assert len(losses[1]) == 50
    assert losses[1][-1] < losses[1][0]
    torch.testing.assert_close(losses[2], losses[1], rtol=1e-5, atol=0)


def test_two_processes_predict_each_file_once(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.csv"
    args = ["predict", "--ckpt_path=last", "--data.images", "data/test", f"--out={out}", *QUIET]
    run([VITLIT, *args, "--data.batch_size=8", *DDP], home)
    files = [line.split(",")[0] for line in out.read_text().splitlines()[1:]]
    expected = sorted(str(path.relative_to(home)) for path in home.glob("data/test/*/*.png"))
    assert files == expected


@pytest.mark.faults
def test_two_processes_list_each_bad_file_once(home: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", [tmp_path / f"bad{i}.png" for i in range(4)]
    Image.new("L", (8, 8)).save(good)
    for path in bad:
        path.write_bytes(b"no image")
    out = tmp_path / "found.csv"
    args = ["predict", "--ckpt_path=last", f"--data.images={tmp_path}", f"--out={out}", *QUIET]
    text = run([VITLIT, *args, "--data.batch_size=2", *DDP], home)
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == [str(good)]
    assert [text.count(f"{path}: ") for path in bad] == [1] * 4
    assert "4 of 5 images cannot be read" in text


@pytest.mark.faults
@pytest.mark.parametrize("memory_gb", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_processes_leave_out_the_same_bad_files(
    home: Path, tmp_path: Path, memory_gb: int
) -> None:
    shutil.copytree(home / "data" / "test", tmp_path / "photos")
    first, second = sorted(tmp_path.glob("photos/*/*.png"))[:2]
    first.write_bytes(first.read_bytes()[:60])
    second.write_bytes(b"no image")
    args = ["fit", "--config=debug.yaml", "--data.dataset=folder", "--data.data_dir=photos"]
    args += ["--data.img_size=8", "--model.patch_size=4", f"--data.memory_gb={memory_gb}"]
    args += ["--data.on_bad_image=skip", "--data.num_workers=0", *SMALL, *QUIET, *DDP]
    errors = tmp_path / "errors.txt"
    run(["sh", "-c", f'"$@" 2> {errors}', "sh", VITLIT, *args], tmp_path)
    assert re.findall(r"left out .*", errors.read_text()) == [
        "left out images that cannot be read (train 2 of 39, val 0 of 10):"
    ]


def test_two_processes_report_as_one(home: Path, tmp_path: Path) -> None:
    args = ["test", "--ckpt_path=last", "--data.dataset=folder", "--data.data_dir=data", *QUIET]
    tables = []
    for name, extra in (("one", ["--trainer.accelerator=cpu"]), ("two", DDP)):
        run([VITLIT, *args, "--data.batch_size=8", *extra, f"--out={tmp_path / name}"], home)
        tables.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert tables[0]["scores"]["images"] == 61
    for name, value in tables[0]["scores"].items():
        assert tables[1]["scores"][name] == pytest.approx(value, rel=1e-5), name
    assert tables[1]["temperature"] == pytest.approx(tables[0]["temperature"], rel=1e-3)
    assert tables[1]["classes"] == tables[0]["classes"]
