"""Export in 8-bit integers: the arithmetic, the accuracy that is printed, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.deploy.int8 import INT8_NAME, int8_lines, write_int8
from vitlit.deploy.programs import ONNX_NAME

CHECKPOINT = Path(__file__).parents[1] / "stored" / "old_checkpoint" / "last.ckpt"
FIT = ["fit", "--data.dataset=digits", "--model.patch_size=2", "--model.embed_dim=16"]
FIT += ["--model.depth=1", "--model.num_heads=2", "--trainer.max_epochs=3", "--run=own"]
FIT += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]


def write_product(path: Path, matrix: Any) -> None:
    """A program that multiplies images (B, n) by a matrix."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("MatMul", ["images", "w"], ["logits"])
    ends = [
        helper.make_tensor_value_info(name, kind, ["B", size])
        for name, size in zip(("images", "logits"), matrix.shape, strict=True)
    ]
    weights = onnx.numpy_helper.from_array(matrix, "w")
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [weights])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def in_int8(x: Any, matrix: Any) -> Any:
    """The product in integers: one scale for x, one of 7 bits for each column of the matrix."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    pixels = np.clip(np.round(x / scale) + zero, 0, 255) - zero
    scales = np.abs(matrix).max(axis=0) / 64
    return pixels @ np.round(matrix / scales) * scale * scales


def test_a_program_in_int8_computes_with_one_scale_for_each_output(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(32, 8)) * 10.0 ** np.arange(-4, 4)).astype(np.float32)
    x = rng.normal(size=(5, 32)).astype(np.float32)
    write_product(tmp_path / ONNX_NAME, matrix)
    file = write_int8(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [INT8_NAME, ONNX_NAME]
    (found,) = onnxruntime.InferenceSession(file).run(None, {"images": x})
    expected = in_int8(x, matrix)
    size = np.abs(expected).max(axis=0)
    # Halves may be rounded either way: one step in 255 of one pixel, or in 64 of one weight.
    np.testing.assert_allclose(found / size, expected / size, atol=5e-3)
    assert np.abs(found - x @ matrix).max() > 0


def test_what_cannot_be_measured_is_said_with_the_reason(tmp_path: Path) -> None:
    for name in (ONNX_NAME, INT8_NAME):
        (tmp_path / name).write_bytes(bytes(1_500_000))
    data = ImageData(dataset="mnist", data_dir=str(tmp_path / "gone"), patch_size=4)
    sizes, missing = int8_lines(tmp_path, data, patch_size=4, has_head=True)
    assert sizes.endswith("model.int8.onnx, 1.5 MB instead of 1.5")
    assert re.search(r"val/acc +not measured: cannot read mnist in\s+\S+gone", missing)
    *_, headless = int8_lines(tmp_path, data, patch_size=4, has_head=False)
    assert headless.endswith("since the model has no head")


def test_int8_is_for_onnx(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", f"--ckpt_path={CHECKPOINT}", f"--out={out}", "--quantize=int8"]) == 2
    assert "quantize int8 applies to format onnx" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("invert", ["false", "true"])
@pytest.mark.parametrize("embedding", ["linear", "conv"])
def test_the_accuracy_of_the_programs_is_that_of_validate(
    embedding: str,
    invert: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, f"--model.patch_embed={embedding}", f"--data.invert={invert}"]) == 0
    assert main(["validate", "--run=own"]) == 0
    (expected,) = re.findall(r"reached +val/acc (\S+)", capsys.readouterr().out)[-1:]
    assert main(["export", "--run=own", "--format=onnx", "--quantize=int8"]) == 0
    found = re.search(r"(\S+) in int8, (\S+) in float32; .* (\S+)%", capsys.readouterr().out)
    assert found is not None
    assert found[2] == expected
    assert abs(float(found[1]) - float(expected)) < 0.03
    assert float(found[3]) > 90
