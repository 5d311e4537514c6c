"""Wrong command lines and configs: one short message that names the value, exit status 2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitlit.__main__ import main

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = "--model.embed_dim=16 --model.depth=1 --model.num_heads=2 --trainer.max_epochs=1"
FIT = f"fit --config digits.yaml {SMALL} --trainer.limit_train_batches=1"
COMMANDS = [  # words, and parts of the message
    ("tset", ["unknown command 'tset'", "did you mean test?"]),
    ("fti --config digits.yaml", ["'fti'", "did you mean fit?"]),
    ("FIT", ["'FIT'", "did you mean fit?"]),
    ("train", ["unknown command 'train'", "known: fit"]),
    ("--config digits.yaml", ["unknown command '--config'", "known: fit"]),
    ("fit", ["--trainer.max_epochs", "--config digits.yaml"]),
    ("fit digits.yaml", ["unrecognized arguments: digits.yaml"]),
    ("fit --config", ["--config: expected one argument"]),
    ("fit --config digit.yaml", ["digit.yaml", "did you mean digits.yaml?"]),
    ("fit --config nope.yaml", ["no configuration 'nope.yaml'; `vitlit` alone lists"]),
    ("fit --config .", ["no configuration '.'; `vitlit` alone lists"]),
    ("fit --config http://localhost/a.yaml", ["no configuration 'http://localhost/a.yaml'"]),
    ("fit --confg digits.yaml", ["confg", "did you mean config?"]),
    ("fit -x", ["unrecognized arguments: -x"]),
    (f"{FIT} extra words", ["unrecognized arguments: extra words"]),
    (f"{FIT} --model.depht 3", ["model.depht", "did you mean model.depth?"]),
    (f"{FIT} --depth 3", ["unknown option depth", "did you mean model.depth?"]),
    (f"{FIT} --model.depth", ["--model.depth: expected one argument"]),
    (f"{FIT} --model.depth three", ["model.depth three", "int"]),
    (f"{FIT} --model.depth 1.5", ["model.depth 1.5", "int"]),
    (f"{FIT} --model.depth 0", ["depth 0 is too small", "(--model.depth)"]),
    (f"{FIT} --model.depth -1", ["depth -1 is too small", "(--model.depth)"]),
    (f"{FIT} --model.embed_dim 15", ["embed_dim 15", "multiple of"]),
    (f"{FIT} --model.lr fast", ["model.lr fast", "float"]),
    (f"{FIT} --model.lr 0", ["lr 0.0 is not positive", "(--model.lr)"]),
    (f"{FIT} --model.lr nan", ["model.lr nan is not valid; expected float"]),
    (f"{FIT} --trainer.barebones true", ["trainer.barebones", "leave it out"]),
    (f"{FIT} --model.optimizer adm", ["model.optimizer adm is not valid", "did you mean adam?"]),
    (
        f"{FIT} --model.optimizer AdamW",
        ["model.optimizer AdamW is not valid", "did you mean adamw?"],
    ),
    (
        f"{FIT} --model.schedule cosin",
        ["model.schedule cosin is not valid", "did you mean cosine?"],
    ),
    (f"{FIT} --model.qkv_bias maybe", ["model.qkv_bias maybe", "bool"]),
    (f"{FIT} --model.patch_size 3", ["patch_size 3", "8x8"]),
    (f"{FIT} --model.num_classes 10", ["model.num_classes", "data.num_classes"]),
    (f"{FIT} --model.class_names [a]", ["model.class_names", "data.class_names"]),
    (f"{FIT} --model 3", ["model 3 is neither a group of settings nor a file"]),
    (f"{FIT} --model [1]", ["model [1] is neither a group of settings nor"]),
    (f"{FIT} --model.warmup_epochs -1", ["warmup_epochs -1.0 is too small"]),
    (f"{FIT} --model.warmup_epochs 1 --model.warmup_steps 3", ["exclude each other"]),
    (f"{FIT} --model.pretrained nosuch.pth", ["no weights nosuch.pth; give a file"]),
    (f"{FIT} --model.pretrained .", ["no checkpoint in the folder .; it has no"]),
    (f"{FIT} --data.dataset mnits", ["data.dataset mnits is not valid", "did you mean mnist?"]),
    (f"{FIT} --data.batch_size 0", ["batch_size 0 is too small; give 1 or more"]),
    (f"{FIT} --data.batch_size many", ["data.batch_size many", "int"]),
    (f"{FIT} --data.num_workers -1", ["num_workers -1 is too small; give 0 or more"]),
    (f"{FIT} --data.val_fraction 2", ["val_fraction 2.0 is not a share"]),
    (f"{FIT} --data.off_last 3", ["data.off_last 3", "dict"]),
    (f"{FIT} --data.off_last {{mxi:0.5}}", ["data.off_last {mxi:0.5} is not valid"]),
    (f"{FIT} --data.mean red", ["data.mean red", "list"]),
    (f"{FIT} --data.resized_crop [2,1]", ["resized_crop [2.0, 1.0] must be two numbers"]),
    (f"{FIT} --data.data_dir nosuch --data.dataset folder", ["no folder", "nosuch; give data_dir"]),
    (f"{FIT} --data.patch_size 4", ["data.patch_size", "model.patch_size"]),
    (f"{FIT} --trainer.max_epoch 3", ["trainer.max_epoch", "did you mean trainer.max_epochs?"]),
    (f"{FIT} --trainer.max_epochs ten", ["trainer.max_epochs ten", "int"]),
    (f"{FIT} --trainer.accelerator gpux", ["accelerator='gpux'", "Available names are"]),
    (f"{FIT} --trainer.accelerator tpu", ["torch_xla", "pip install"]),
    (f"{FIT} --trainer.devices 0 --trainer.accelerator cpu", ["devices='0'", "not a valid input"]),
    (f"{FIT} --trainer.strategy dpp", ["trainer.strategy dpp is not known", "did you mean ddp?"]),
    (f"{FIT} --trainer.precision 8", ["trainer.precision 8 is not valid"]),
    (f"{FIT} --trainer.limit_train_batches 0", ["limit_train_batches 0 leaves nothing to do"]),
    (f"{FIT} --trainer.max_epochs 0", ["trainer.max_epochs 0 trains nothing"]),
    (f"{FIT} --trainer.max_steps 0", ["trainer.max_steps 0 trains nothing"]),
    (f"{FIT} --run=", ["run '' is not a name"]),
    (f"{FIT} --trainer.limit_val_batches -1", ["invalid value -1 for limit_val_batches"]),
    (
        f"{FIT} --trainer.callbacks nosuch.Callback",
        ["nosuch.Callback", "--allow_classes_of nosuch"],
    ),
    (f"{FIT} --trainer.callbacks LerningRateMonitor", ["LerningRateMonitor is not valid"]),
    (f"{FIT} --trainer.logger csv", ["trainer.logger csv is not valid"]),
    (f"{FIT} --trainer.logger.class_path nosuch.Logger", ["nosuch.Logger is not a class of"]),
    (f"{FIT} --allow_classes_of a/b", ["allow_classes_of 'a/b'"]),
    (f"{FIT} --ema.decay 2", ["ema.decay 2.0 is not in [0, 1)", "--ema.decay"]),
    (f"{FIT} --early_stopping.patience -1", ["early_stopping.patience -1"]),
    (f"{FIT} --pictures.every_n_epochs -2", ["every_n_epochs -2 of the pictures"]),
    (f"{FIT} --checkpoints.every_n_steps -2", ["checkpoints.every_n_steps -2"]),
    (f"{FIT} --checkpoints.every_minutes nan", ["checkpoints.every_minutes nan"]),
    (f"{FIT} --run a/b", ["run 'a/b' is not a name"]),
    (f"{FIT} --run ../a", ["run '../a' is not a name"]),
    (f"{FIT} --seed_everything x", ["seed_everything x", "int"]),
    (f"{FIT} --seed_everything -3", ["seed_everything -3 is not in 0 to"]),
    (f"{FIT} --ckpt_path last", ["no last checkpoint"]),
    (f"{FIT} --ckpt_path http://localhost/a.ckpt", ["http://localhost/a.ckpt", "download"]),
    (f"{FIT} --ckpt_path half.ckpt", ["half.ckpt has no optimizer_states"]),
    (f"{FIT} --weights_only false", ["weights_only false would run code"]),
    (f"{FIT} --trainer.default_root_dir s3://bucket", ["s3://bucket is an address"]),
    (f"{FIT} --trainer.default_root_dir file.txt", ["folder file.txt", "Not a directory"]),
    ("test", ["test needs --ckpt_path"]),
    ("test --ckpt_path nosuch.ckpt", ["no checkpoint nosuch.ckpt; give"]),
    ("test --ckpt_path file.txt", ["file.txt is not a checkpoint"]),
    ("test --ckpt_path half.ckpt", ["does not fit the model"]),
    ("test --run nosuch", ["no checkpoint", "nosuch; give a .ckpt file"]),
    ("validate --ckpt_path .", ["no checkpoint in the folder"]),
    ("predict", ["predict needs --ckpt_path"]),
    ("predict --ckpt_path half.ckpt", ["predict needs images", "(--data.images)"]),
    ("explain --count 3", ["explain needs --ckpt_path"]),
    ("compare", ["compare needs checkpoints", "`vitlit compare A B`"]),
    ("export --format onx", ["format onx is not valid", "did you mean onnx?"]),
    (
        f"{FIT} --trainer.callbacks LearningRateFinder",
        ["trainer.callbacks LearningRateFinder", "a learning rate that is not", "--model.lr"],
    ),
    (
        f"{FIT} --trainer.callbacks BatchSizeFinder",
        ["trainer.callbacks BatchSizeFinder", "a batch size that is not", "--data.batch_size"],
    ),
    (
        "test --ckpt_path half.ckpt --trainer.callbacks BatchSizeFinder",
        ["trainer.callbacks BatchSizeFinder", "leave it out"],
    ),
]
CONFIGS = [
    ("", ["holds no named values"]),
    ("words", ["holds no named values"]),
    ("- a", ["holds no named values"]),
    ("3: a", ["holds no named values"]),
    ("model: {", ["own.yaml is not YAML: while"]),
    ("\tmodel: 3", ["own.yaml is not YAML: while"]),
    ("model: 3", ["model 3 is not a group"]),
    ("modle: {depth: 3}", ["modle.depth", "did you mean model.depth?"]),
    ("model: {dept: 3}", ["model.dept", "did you mean model.depth?"]),
    ("model: {depth: 3, depth: 4}", ["depth is set twice"]),
    ("model: {depth: [3]}", ["model.depth [3] is not valid; expected int"]),
    ("model: {depth: null}", ["model.depth null is not valid"]),
    ("model: {img_size: 8}", ["model.img_size", "data.img_size"]),
    ("data: {dataset: [digits]}", ["data.dataset ['digits'] is not valid"]),
    ("data: {class_names: [no, yes]}", ["data.class_names", "reads no", "write text in quotes"]),
    ("run: no", ["run False", "reads no", "write text in quotes"]),
    ("trainer: {max_epochs: {a: 3}}", ["trainer.max_epochs {'a': 3} is not valid"]),
    ("trainer: {callbacks: [{class_path: os.system}]}", ["os.system is not a class of"]),
    ("trainer: {callbacks: [{init_args: {a: 3}}]}", ["trainer.callbacks [", "is not valid"]),
    (
        "trainer: {callbacks: {class_path: pytorch_lightning.callbacks.Timr}}",
        ["has no attribute 'Timr'"],
    ),
    (
        "trainer: {callbacks: {class_path: pytorch_lightning.callbacks.Timer, init_args: {x: 3}}}",
        ["trainer.callbacks {", "'init_args': {'x': 3}} is not valid"],
    ),
    (
        "trainer: {callbacks: [{class_path: Timer}, {class_path: pytorch_lightning.callbacks."
        "BatchSizeFinder, init_args: {init_val: 4}}]}",
        ["trainer.callbacks BatchSizeFinder", "give --data.batch_size a value"],
    ),
    ("allow_classes_of: os", ["allow_classes_of", "only the command line"]),
    ("seed_everything: [3]", ["seed_everything [3] is not valid"]),
    ("ema: 3", ["ema 3 is not a group of settings"]),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text file, and a checkpoint that lacks its weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITLIT_CACHE", str(tmp_path.parent / "cache"))
    (tmp_path / "file.txt").write_text("text")
    model = {"img_size": 8, "in_chans": 1, "num_classes": 10, "patch_size": 2, "embed_dim": 16}
    model |= {"depth": 1, "num_heads": 2}
    content = {"state_dict": {}, "hyper_parameters": model, "epoch": 0, "global_step": 0}
    content |= {"datamodule_hyper_parameters": {"dataset": "digits"}}
    torch.save(content, tmp_path / "half.ckpt")
    return tmp_path


def check_message(message: str, parts: list[str]) -> None:
    """Clear: each part is there; at most five lines, no traceback."""
    assert all(part in message for part in parts), message
    assert 1 <= len(message.strip().splitlines()) <= 5, message
    assert "Traceback" not in message
    assert "defect" not in message


@pytest.mark.parametrize(("words", "parts"), COMMANDS, ids=lambda value: str(value)[-60:])
def test_a_wrong_command_is_one_short_message(
    words: str, parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    assert main([*words.split(), *(QUIET if len(words.split()) > 1 else [])]) == 2
    check_message(last_lines(capsys.readouterr().err), parts)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(("text", "parts"), CONFIGS, ids=lambda value: str(value)[:60])
def test_a_wrong_config_is_one_short_message(
    text: str, parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own.yaml").write_text(text)
    assert main([*FIT.split(), "--config", "own.yaml", *QUIET]) == 2
    check_message(last_lines(capsys.readouterr().err), parts)


def last_lines(text: str) -> str:
    """From our message on: Lightning's notes may come before it."""
    return text[text.rindex("vitlit:") :] if "vitlit:" in text else text


def test_no_part_is_so_short_that_any_message_has_it() -> None:
    assert [parts for _, parts in [*COMMANDS, *CONFIGS] if max(map(len, parts)) < 11] == []


def test_there_are_at_least_sixty() -> None:
    assert len(COMMANDS) + len(CONFIGS) >= 60


@pytest.mark.slow
@pytest.mark.parametrize(("words", "parts"), [COMMANDS[i] for i in (0, 5, 14, 38, 81)])
def test_a_real_process_ends_the_same_way(words: str, parts: list[str], here: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vitlit", *words.split()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 2
    check_message(last_lines(result.stderr), parts)


def test_every_command_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes took a third longer with Linux zeroing the same pages again and again."""
    calls: list[str] = []
    monkeypatch.setattr("vitlit.__main__.keep_freed_memory", lambda: calls.append("kept"))
    assert main(["predict", "--nonsense", "3"]) == 2
    assert calls == ["kept"]
