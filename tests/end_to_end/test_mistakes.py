"""Wrong command lines and configs: one short message that names the value, exit status 2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from odd_folder import make_odd_folder
from trainings import RUN

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
    ("fit digits.yaml", ["no folder digits.yaml; give fit --config digits.yaml"]),
    ("fit --config", ["--config: expected one argument"]),
    ("fit --config digit.yaml", ["digit.yaml", "did you mean digits.yaml?"]),
    ("fit --config nope.yaml", ["no configuration 'nope.yaml'; `vitlit` alone lists"]),
    ("fit --config .", ["no configuration '.'; `vitlit` alone lists"]),
    ("fit --config http://localhost/a.yaml", ["no configuration 'http://localhost/a.yaml'"]),
    ("fit --confg digits.yaml", ["confg", "did you mean config?"]),
    ("fit -x", ["unrecognized arguments: -x"]),
    (f"{FIT} extra words", ["unrecognized arguments: extra words"]),
    (f"{FIT} --model.depht 3", ["model.depht", "did you mean model.depth?"]),
    (f"{FIT} --epochs 3", ["unknown option epochs", "did you mean trainer.max_epochs?"]),
    (f"{FIT} --depth 3", ["unknown option depth", "did you mean model.depth?"]),
    (f"{FIT} --model.depth", ["--model.depth: expected one argument"]),
    (f"{FIT} --model.depth three", ["model.depth three", "a whole number"]),
    (f"{FIT} --model.depth 1.5", ["model.depth 1.5", "a whole number"]),
    (f"{FIT} --model.depth 0", ["depth 0 is too small", "(--model.depth)"]),
    (f"{FIT} --model.depth -1", ["depth -1 is too small", "(--model.depth)"]),
    (
        f"{FIT} --model.embed_dim 15 --model.pos_embed sincos2d --model.attention_init xavier",
        ["embed_dim 15", "multiple of"],
    ),
    (f"{FIT} --model.lr fast", ["model.lr fast", "a number"]),
    (f"{FIT} --model.lr 0", ["lr 0.0 is not positive", "(--model.lr)"]),
    (f"{FIT} --model.lr nan", ["model.lr nan is not valid; expected a number"]),
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
    (f"{FIT} --model.qkv_bias maybe", ["model.qkv_bias maybe", "true or false"]),
    (f"{FIT} --model.patch_size 3", ["patch_size 3", "8x8"]),
    (f"{FIT} --model.num_classes 10", ["model.num_classes", "data.num_classes"]),
    (f"{FIT} --model.class_names [a]", ["model.class_names", "data.class_names"]),
    (f"{FIT} --model 3", ["model 3 is neither a group of settings nor a file"]),
    (f"{FIT} --model [1]", ["model [1] is neither a group of settings nor"]),
    (f"{FIT} --model.warmup_epochs -1", ["warmup_epochs -1.0 is too small"]),
    (f"{FIT} --model.warmup_epochs 1 --model.warmup_steps 3", ["exclude each other"]),
    (f"{FIT} --model.pretrained nosuch.pth", ["no weights nosuch.pth; give a file"]),
    (f"{FIT} --model.pretrained .", ["no checkpoint in the folder .; it has no"]),
    (f"{FIT} --data.dataset mnits", ["unknown dataset 'mnits'", "did you mean mnist?"]),
    (f"{FIT} --data.batch_size 0", ["batch_size 0 is too small; give 1 or more"]),
    (f"{FIT} --data.batch_size many", ["data.batch_size many", "expected auto or a whole number"]),
    (f"{FIT} --data.num_workers -1", ["num_workers -1 is too small; give 0 or more"]),
    (f"{FIT} --data.val_fraction 2", ["val_fraction 2.0 is not a share"]),
    (f"{FIT} --data.off_last 3", ["data.off_last 3", "dict"]),
    (f"{FIT} --data.off_last {{mxi:0.5}}", ["data.off_last {mxi:0.5} is not valid"]),
    (f"{FIT} --data.mean red", ["data.mean red", "list"]),
    (f"{FIT} --data.resized_crop [2,1]", ["resized_crop [2.0, 1.0] must be two numbers"]),
    (f"{FIT} --data.data_dir nosuch --data.dataset folder", ["no folder", "nosuch; give data_dir"]),
    (f"{FIT} --data.patch_size 4", ["data.patch_size", "model.patch_size"]),
    (f"{FIT} --trainer.max_epoch 3", ["trainer.max_epoch", "did you mean trainer.max_epochs?"]),
    (f"{FIT} --trainer.max_epochs ten", ["trainer.max_epochs ten", "a whole number"]),
    (f"{FIT} --trainer.accelerator gpux", ["accelerator='gpux'", "Available names are"]),
    (f"{FIT} --trainer.accelerator tpu", ["torch_xla", "pip install"]),
    (
        f"{FIT} --trainer.devices 0 --trainer.accelerator cpu",
        ["devices 0 leaves none; give 1"],
    ),
    (f"{FIT} --trainer.strategy dpp", ["trainer.strategy dpp is not known", "did you mean ddp?"]),
    (f"{FIT} --trainer.precision 8", ["trainer.precision 8 is not valid"]),
    (f"{FIT} --trainer.limit_train_batches 0", ["limit_train_batches 0 leaves nothing to do"]),
    (f"{FIT} --trainer.max_epochs 0", ["trainer.max_epochs 0 trains nothing"]),
    (f"{FIT} --trainer.max_steps 0", ["trainer.max_steps 0 trains nothing"]),
    (f"{FIT} --run=", ["run '' is not a name"]),
    (f"{FIT} --trainer.limit_val_batches -1", ["invalid value -1", "for limit_val_batches"]),
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
    (f"{FIT} --seed_everything x", ["seed_everything x", "a whole number"]),
    (f"{FIT} --seed_everything -3", ["seed_everything -3 is not in 0 to"]),
    (f"{FIT} --ckpt_path last", ["no last checkpoint"]),
    (f"{FIT} --ckpt_path http://localhost/a.ckpt", ["http://localhost/a.ckpt", "download"]),
    (f"{FIT} --ckpt_path half.ckpt", ["half.ckpt has no optimizer_states"]),
    (f"{FIT} --weights_only false", ["weights_only false would run code"]),
    (f"{FIT} --trainer.default_root_dir s3://bucket", ["s3://bucket is a URL"]),
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
        ["trainer.callbacks LearningRateFinder", "a learning rate that is neither", "--model.lr"],
    ),
    (
        f"{FIT} --trainer.callbacks BatchSizeFinder",
        ["trainer.callbacks BatchSizeFinder", "a batch size that is neither", "--data.batch_size"],
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
    ("model: {depth: [3]}", ["model.depth [3] is not valid; expected a whole number"]),
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
        ["trainer.callbacks BatchSizeFinder", "set --data.batch_size"],
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


DIGITS = f"fit --config digits.yaml {SMALL}"
PHOTOS = "fit photos --model.patch_size 8 --data.img_size 16"
OK = "--ckpt_path ok.ckpt"
SITUATIONS = [  # words, and parts of the message, in the folder of odd_folder.py
    ("test --ckpt_path cut.ckpt", ["cut.ckpt is not a checkpoint, or is truncated"]),
    ("test --ckpt_path empty.ckpt", ["empty.ckpt is not a checkpoint, or is truncated"]),
    ("test --ckpt_path text.ckpt", ["text.ckpt is not a checkpoint, or is truncated"]),
    ("test --ckpt_path pickle.ckpt", ["pickle.ckpt is not a checkpoint, or is truncated"]),
    ("test --ckpt_path photos/a/0.png", ["photos/a/0.png is not a checkpoint"]),
    ("test --ckpt_path folder.ckpt", ["no checkpoint in the folder folder.ckpt"]),
    ("test --ckpt_path list.ckpt", ["it holds no named parts"]),
    ("test --ckpt_path tensor.ckpt", ["it holds no named parts"]),
    ("test --ckpt_path odd.ckpt", ["it has no state_dict, hyper_parameters"]),
    ("test --ckpt_path loop.ckpt", ["no checkpoint loop.ckpt", "give a .ckpt file"]),
    ("test --ckpt_path lost", ["no checkpoint lost; give a .ckpt file"]),
    ("test --ckpt_path /dev/null", ["no checkpoint /dev/null; give"]),
    ("test --ckpt_path ok.ckpt/x", ["no checkpoint ok.ckpt/x; give"]),
    ("test --ckpt_path=", ["ckpt_path '' names no checkpoint", "(--ckpt_path)"]),
    (f"test --ckpt_path {'x' * 300}", ["File name too long", "check the path"]),
    ("test --ckpt_path -dash.ckpt", ["--ckpt_path: expected one argument"]),
    ("test --ckpt_path=-dash.ckpt", ["no checkpoint -dash.ckpt; give"]),
    ("test ok.ckpt", ["unrecognized arguments: ok.ckpt", "a run with --run NAME"]),
    ("test --ckpt_path last --run nosuch", ["no last checkpoint in the run", "that run's folder"]),
    (f"test {OK} --ckpt_path text.ckpt", ["text.ckpt is not a checkpoint"]),
    (f"test {OK} --model.pretrained ok.ckpt", ["are two models; give test one of them"]),
    (f"test {OK} --model.depth 3", ["model.depth 3 contradicts ok.ckpt, which has 1"]),
    (f"test {OK} --model.patch_size 4", ["model.patch_size 4 contradicts ok.ckpt"]),
    (f"test {OK} --config digits.yaml", ["model.embed_dim 48 contradicts ok.ckpt"]),
    (f"test {OK} --out file.txt", ["file.txt exists; give another name", "(--out)"]),
    (f"test {OK} --out empty", ["empty exists; give another name", "(--out)"]),
    (f"test {OK} --out=", ["out '' names no file; give a name", "(--out)"]),
    (f"test {OK} --out lost", ["lost exists; give another name", "(--out)"]),
    (f"test {OK} --flip maybe", ["flip maybe is not valid; expected true or false"]),
    (f"test {OK} --data.split trian", ["data.split trian is not valid", "did you mean train?"]),
    (f"test {OK} --data.dataset folder --data.data_dir photos", ["only the folder has a, b"]),
    (f"test {OK} --data.data_dir photos", ["which data.dataset digits does not read"]),
    (f"test {OK} --trainer.limit_test_batches 0", ["limit_test_batches 0 leaves nothing"]),
    (f"test {OK} --trainer.limit_test_batches 1.5", ["invalid value 1.5 for limit_test"]),
    (f"test {OK} --data.images flat", ["test looks at a data set", "(--data.images)"]),
    (f"{FIT} --data.images flat", ["fit looks at a data set; leave out images"]),
    (f"export {OK} --data.images flat", ["export looks at a data set; leave out images"]),
    (f"validate {OK} --data.split test", ["validation images; leave out split", "(--data.split)"]),
    (f"explain {OK} --data.split test", ["validation images; leave out split"]),
    (f"validate {OK} --flip true", ["unknown option flip"]),
    (f"validate {OK} --out x", ["unknown option out"]),
    ("compare ok.ckpt", ["compare needs two checkpoints or more; give `vitlit"]),
    (f"compare {OK}", ["compare needs two checkpoints or more; give `vitlit"]),
    ("compare ok.ckpt ok.ckpt", ["name the same checkpoint twice"]),
    ("compare ok.ckpt nosuch.ckpt", ["no checkpoint nosuch.ckpt; give"]),
    ("compare ok.ckpt text.ckpt", ["text.ckpt is not a checkpoint"]),
    (f"predict {OK} --data.images nosuch", ["no such file or folder: nosuch"]),
    (f"predict {OK} --data.images empty", ["no images in empty; known extensions"]),
    (f"predict {OK} --data.images texts", ["no images in texts; known extensions"]),
    (f"predict {OK} --data.images loop.ckpt", ["no such file or folder: loop.ckpt"]),
    (f"predict {OK} --data.images flat --out file.txt", ["file.txt exists; give another"]),
    (f"predict {OK} --data.images flat --out file.txt/a", ["cannot make the folder of file.txt/a"]),
    (f"predict {OK} --data.images flat --out=", ["out '' names no file", "(--out)"]),
    (f"predict {OK} --data.images flat --output feature", ["did you mean features?"]),
    (f"predict {OK} --data.images flat --layer 0", ["layer and pool choose among features"]),
    (f"predict {OK} --data.images flat --layer 9 --output features", ["no block 9; give a layer"]),
    (f"predict {OK} --data.images flat --pool cls", ["pool cls is not valid; expected one of"]),
    (f"predict {OK} --data.images flat --data.batch_size -3", ["batch_size -3 is too small"]),
    (
        f"predict {OK} --data.images flat --data.num_workers 100000",
        ["num_workers 100000 is more than the maximum of 512 processes", "(--data.num_workers)"],
    ),
    (f"predict {OK} --data.images flat --data.img_size 16", ["data.img_size 16 contradicts"]),
    (f"predict {OK} --data.labels labels.csv", ["labels labels.csv needs dataset folder"]),
    (f"predict {OK} --data.images http://localhost/a.png", ["address of one image; download"]),
    (f"predict {OK} flat", ["unrecognized arguments: flat"]),
    (f"predict {OK} --images flat", ["unknown option images; did you mean data.images?"]),
    (f"predict {OK} --data.images flat --top_k 0", ["top_k 0 is too small", "(--top_k)"]),
    (f"predict {OK} --data.images flat --abstain_below 2", ["is not a probability", "(--abstain"]),
    (f"predict {OK} --data.images flat --output patches --pool avg", ["leave out pool", "--pool"]),
    (f"anomaly {OK} --data.images flat", ["give a folder of them (--normal)"]),
    (f"anomaly {OK} --normal empty --data.images flat", ["no images in empty; known extensions"]),
    (f"anomaly {OK} --normal flat", ["anomaly needs images to score", "(--data.images)"]),
    (f"explain {OK} --count 0", ["explain takes 1 to 64 images, not 0", "(--count)"]),
    (f"explain {OK} --count -1", ["explain takes 1 to 64 images, not -1", "(--count)"]),
    (f"explain {OK} --count 1000", ["explain takes 1 to 64 images, not 1000", "(--count)"]),
    (f"explain {OK} --count many", ["count many is not valid; expected a whole number"]),
    (f"explain {OK} --out file.txt", ["file.txt exists; give another name", "(--out)"]),
    (f"explain {OK} --out=", ["out '' names no file; give a name", "(--out)"]),
    (f"explain {OK} --data.images bad/a/0.png", ["1 of 1 image cannot be read"]),
    (f"explain {OK} --fusion men", ["fusion men is not valid", "did you mean mean?"]),
    (f"export {OK} --format safetensor", ["did you mean safetensors?"]),
    (f"export {OK} --out file.txt", ["file.txt exists; give another name", "(--out)"]),
    (f"export {OK} --out=", ["out '' names no file; give a name", "(--out)"]),
    (f"export {OK} --naming tim", ["naming tim is not valid", "did you mean timm?"]),
    (f"probe {OK} --k 0", ["k 0 is too small; give 1 or more (--k)"]),
    (f"probe {OK} --k 100000", ["k 100000 is more than the", "training images"]),
    (f"probe {OK} --k ten", ["k ten is not valid; expected a whole number"]),
    (f"probe {OK} --query flat", ["--query searches your own images"]),
    (f"probe {OK} --layer 7", ["no block 7; give a layer from"]),
    (f"probe {OK} --out file.txt", ["file.txt exists; give another name", "(--out)"]),
    (f"probe {OK} --data.dataset folder --data.data_dir empty", ["no class folders in"]),
    ("fit --config folder.ckpt", ["no configuration 'folder.ckpt'"]),
    ("fit --config binary.yaml", ["binary.yaml is not YAML: it is not text in UTF-8"]),
    ("fit --config latin.yaml", ["latin.yaml is not YAML: it is not text in UTF-8"]),
    ("fit --config wide.yaml", ["wide.yaml is not YAML: it is not text in UTF-8"]),
    ("fit --config ok.ckpt", ["ok.ckpt is not YAML: it is not text in UTF-8"]),
    ("fit --config empty.yaml", ["empty.yaml is not a configuration: it holds no"]),
    ("fit --config list.yaml", ["list.yaml is not a configuration: it holds no"]),
    ("fit --config tab.yaml", ["tab.yaml is not YAML: while scanning"]),
    ("fit --config two.yaml", ["two.yaml is not YAML: expected a single document"]),
    ("fit --config loop.yaml", ["no configuration 'loop.yaml'"]),
    ("fit --config /dev/null", ["no configuration '/dev/null'"]),
    ("fit --config=", ["no configuration ''; `vitlit` alone lists"]),
    ("fit --config nested.yaml", ["nested.yaml names another config", "--config of its own"]),
    ("fit --config digits.yaml --config command.yaml", ["unknown option fit.model.depth"]),
    ("fit empty", ["no class folders in", "put the images of each class"]),
    ("fit classes", ["no images in", "for class a, b; known extensions"]),
    ("fit half", ["no images in", "for class b; known extensions"]),
    ("fit texts", ["no images in", "for class a, b; known extensions"]),
    ("fit flat", ["no class folders in", "put the images of each class"]),
    ("fit bad", ["8 of 8 images cannot be read", "(--data.on_bad_image)"]),
    ("fit one", ["has one class, a, and a classifier needs two", "(--data.data_dir)"]),
    ("fit looped", ["has one class, b, and a classifier needs two", "(--data.data_dir)"]),
    ("fit nosuch", ["there is no folder nosuch; give fit a folder of images"]),
    ("pretrain photos/a/0.png", ["photos/a/0.png is not a folder"]),
    ("fit photos photos", ["unrecognized arguments: photos"]),
    ("fit photos --data.dataset mnist", ["trains on that folder, so it takes no --data.dataset"]),
    ("fit photos --data.data_dir empty", ["trains on that folder, so it takes no --data.data_dir"]),
    (f"{PHOTOS} --data.labels nosuch.csv", ["cannot read labels", "nosuch.csv: No such file"]),
    (f"{PHOTOS} --data.labels photos", ["cannot read labels", "Is a directory"]),
    (f"{PHOTOS} --data.labels labels.csv", ["labels.csv, line 2: no file", "nosuch.png"]),
    (f"{PHOTOS} --data.labels columns.csv", ["has no column file and no class"]),
    (f"{PHOTOS} --data.labels empty.csv", ["has no column file and no class"]),
    (f"{PHOTOS} --data.labels head.csv", ["names no images; give it a line for each"]),
    (f"{PHOTOS} --data.labels twice.csv", ["twice.csv, line 3: a/0.png has the class y, and x"]),
    ("fit photos --data.img_size 0", ["img_size 0x0 has no pixels", "(--data.img_size)"]),
    ("fit photos --data.img_size -8", ["img_size -8x-8 has no pixels", "(--data.img_size)"]),
    ("fit photos --data.img_size [8,8,8]", ["[8, 8, 8] is not one number or two"]),
    ("fit photos --data.img_size 8.5", ["data.img_size 8.5 is not valid"]),
    ("fit photos --data.img_size 100000", ["img_size 100000x100000 is more than the maximum"]),
    (f"{PHOTOS} --data.in_chans 2", ["data.in_chans 2 is not valid; expected one of 1, 3"]),
    (f"{PHOTOS} --data.class_names [a]", ["has one class, a, and a classifier needs two"]),
    (f"{PHOTOS} --data.class_names [a,a]", ["are not 2 different names"]),
    (f"{PHOTOS} --data.class_names [b,a,c]", ["only the model has c"]),
    (f"{PHOTOS} --data.val_fraction -0.1", ["val_fraction -0.1 is not a share"]),
    (f"{PHOTOS} --data.test_fraction nan", ["data.test_fraction nan is not valid"]),
    (f"{PHOTOS} --data.train_fraction 0", ["train_fraction 0.0 is not a share"]),
    (f"{PHOTOS} --data.memory_gb -1", ["memory_gb -1.0 is too small"]),
    (f"{PHOTOS} --data.split_by hsh", ["data.split_by hsh is not valid", "did you mean hash?"]),
    (f"{PHOTOS} --data.on_bad_image skp", ["did you mean skip?"]),
    (f"{PHOTOS} --model.pretrained text.ckpt", ["text.ckpt is no weight file; give"]),
    (f"{PHOTOS} --model.pretrained photos", ["photos has no model.safetensors and no"]),
    (f"{PHOTOS} --model.pretrained=", ["model.pretrained '' names no weights; give a file"]),
    (f"{PHOTOS} --model.freeze_blocks 1", ["would freeze untrained weights"]),
    (f"{PHOTOS} --ckpt_path ok.ckpt", ["model.patch_size 8 contradicts ok.ckpt"]),
    (f"{DIGITS} --data.mixup -1", ["mixup -1.0 is negative or not finite", "(--data.mixup)"]),
    (f"{DIGITS} --data.mixup inf", ["data.mixup inf is not valid; expected a number"]),
    (f"{DIGITS} --data.rotation nan", ["data.rotation nan is not valid; expected a number"]),
    (f"{DIGITS} --data.crop_padding -1", ["crop_padding -1 is too small; give 0 or more"]),
    (f"{DIGITS} --data.mean [nan]", ["data.mean nan is not valid; expected a number"]),
    (f"{DIGITS} --data.mean []", ["mean [] has 0 numbers for 1 channels (--data.mean)"]),
    (f"{DIGITS} --data.std [0]", ["std [0.0] must be positive in every channel"]),
    (f"{DIGITS} --data.batch_size {10**20}", ["is more than the 1295 training images"]),
    (f"{DIGITS} --data.batch_size 1e9", ["data.batch_size 1000000000.0 is not valid"]),
    (f"{DIGITS} --model.lr inf", ["model.lr inf is not valid; expected a number"]),
    (f"{DIGITS} --model.lr=-1", ["lr -1.0 is not positive; give one above 0 (--model.lr)"]),
    (f"{DIGITS} --model.lr=", ["model.lr  is not valid; expected a number"]),
    (f"{DIGITS} --model.weight_decay -1", ["weight_decay -1.0 is too small; give 0 or more"]),
    (f"{DIGITS} --model.layer_decay 2", ["layer_decay 2.0 must be above 0 and at most 1"]),
    (f"{DIGITS} --model.label_smoothing 1", ["label_smoothing 1.0 is not in [0, 1)"]),
    (f"{DIGITS} --model.drop_rate 1", ["drop_rate 1.0 is not in [0, 1)"]),
    (f"{DIGITS} --model.num_heads 0", ["num_heads 0 does not divide embed_dim"]),
    (f"{DIGITS} --model.mlp_ratio 0", ["mlp_ratio 0.0 leaves the MLP no width"]),
    (f"{DIGITS} --model.embed_dim 0", ["embed_dim 0 is too small; give 1 or more"]),
    (
        f"{DIGITS} --model.embed_dim 100000000",
        ["embed_dim 100000000 and depth 1 make a model of", "this machine has"],
    ),
    (f"{DIGITS} --model.patch_size 0", ["patch_size 0 is not positive; give 1 or more"]),
    (f"{DIGITS} --model.reg_tokens -1", ["reg_tokens -1 is too small; give 0 or more"]),
    (f"{DIGITS} --model.norm_eps -1", ["norm_eps -1.0 is not in [0, 1)"]),
    (f"{DIGITS} --model.warmup_fraction 2", ["warmup_fraction 2.0 is not in [0, 1)"]),
    (f"{DIGITS} --model.momentum 1", ["momentum 1.0 is not in [0, 1)"]),
    (f"{DIGITS} --model.class_weights balance", ["did you mean balanced?"]),
    (f"{DIGITS} --trainer.max_epochs -5", ["must be a non-negative integer or -1"]),
    (f"{DIGITS} --trainer.max_time banana", ["'banana')` is not a valid duration"]),
    (f"{DIGITS} --trainer.limit_train_batches 2.5", ["invalid value 2.5 for limit_train"]),
    (f"{DIGITS} --trainer.gradient_clip_val -1", ["gradient_clip_val -1 is negative"]),
    (f"{DIGITS} --trainer.accumulate_grad_batches 0", ["accumulate_grad_batches 0 is not"]),
    (f"{DIGITS} --trainer.val_check_interval 2.5", ["invalid value 2.5 for val_check"]),
    (f"{DIGITS} --trainer.num_nodes 0", ["`num_nodes` must be a positive integer"]),
    (f"{DIGITS} --trainer.devices -2", ["should be an int > 0"]),
    (f"{DIGITS} --trainer.default_root_dir /proc", ["cannot make the folder /proc/"]),
    (f"{DIGITS} --timeout_seconds 0", ["timeout_seconds 0.0 is not above 0"]),
    (f"{DIGITS} --nonfinite.skip -1", ["skip -1 is too small; give 0 or more"]),
    (f"{DIGITS} --early_stopping.patience 1.5", ["early_stopping.patience 1.5 is not valid"]),
    (f"{DIGITS} --checkpoints.monitor val/f1", ["checkpoints.monitor val/f1 is no score"]),
    (f"{DIGITS} --run=-x", ["run '-x' is not a name; use letters", "(--run)"]),
    (f"{DIGITS} --run 猫😀/x", ["run '猫😀/x' is not a name; use letters", "(--run)"]),
    (f"{DIGITS} --allow_classes_of os,", ["allow_classes_of '' is not a package"]),
    (
        f"{DIGITS} --seed_everything 1.5",
        ["seed_everything 1.5 is not valid; expected a whole number"],
    ),
    (f"{DIGITS} --ckpt_path ok.ckpt", ["ok.ckpt has already reached max_epochs 1"]),
    ("fit --config finetune.yaml --data.data_dir photos", ["fine-tunes weights that you choose"]),
    (
        "fit --config cifar10.yaml --data.data_dir empty --data.download false",
        ["cannot read cifar"],
    ),
    (
        "fit --data.dataset imagenet --data.data_dir empty --trainer.max_epochs 1",
        ["no ImageNet in", "https://image-net.org"],
    ),
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which much is wrong, with one good checkpoint."""
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main([*RUN, "--trainer.max_epochs=1", "--run=one"]) == 0
    make_odd_folder(root, home / "lightning_logs" / "one" / "checkpoints" / "last.ckpt")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("words", "parts"), SITUATIONS, ids=lambda value: str(value)[-60:])
def test_an_odd_situation_is_one_short_message(
    words: str,
    parts: list[str],
    odd: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(odd)
    before = sorted(odd.rglob("*"))
    assert main([*words.split(" "), *QUIET, "--trainer.accelerator=cpu"]) == 2
    check_message(last_lines(capsys.readouterr().err), parts)
    assert sorted(odd.rglob("*")) == before


def last_lines(text: str) -> str:
    """From our message on: Lightning's notes may come before it."""
    return text[text.rindex("vitlit:") :] if "vitlit:" in text else text


def test_no_part_is_so_short_that_any_message_has_it() -> None:
    assert [
        parts for _, parts in [*COMMANDS, *CONFIGS, *SITUATIONS] if max(map(len, parts)) < 11
    ] == []


def test_there_are_at_least_300_and_each_is_another() -> None:
    words = [words for words, _ in [*COMMANDS, *CONFIGS, *SITUATIONS]]
    assert len(set(words)) == len(words) >= 300


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
