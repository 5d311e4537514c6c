"""When a training is compiled, and that no variant of the model breaks the compiler's graph."""

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._inductor
from pytorch_lightning.callbacks import Timer
from torch._dynamo.utils import counters

from vitlit.model.low_rank import add_adapters
from vitlit.model.vit import ViT
from vitlit.training import compiling, training_module
from vitlit.training.classifier import Classifier
from vitlit.training.compiling import (
    GPU_OPTIONS,
    compile_training,
    eager_seconds,
    is_worthwhile,
    should_compile,
    training_seconds,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "cifar10.yaml": {"patch_embed": "linear", "global_pool": "avg", "drop_path_rate": 0.1},
    "class token": {"global_pool": "token", "reg_tokens": 2},
    "conv": {"patch_embed": "conv", "pos_embed": "sincos2d"},
    "conv_stem": {"patch_embed": "conv_stem", "global_pool": "seq"},
    "shifted": {"patch_embed": "shifted", "attention": "lsa"},
    "gpsa": {"attention": "gpsa", "gpsa_blocks": 1},
    "rope": {"pos_embed": "rope", "qkv_bias": False},
    "LayerScale": {"init_values": 1e-5, "act": "gelu_tanh"},
    "dropout": {"drop_rate": 0.1, "pos_drop_rate": 0.1, "proj_drop_rate": 0.1},
    "adapters": {"lora_rank": 2},
    "attention dropout": {"attn_drop_rate": 0.1, "pos_embed": "none", "class_token": True},
}
AGAIN = ("dropout", True)  # blocks are computed again in the backward pass
SIZE = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def small(**changes: Any) -> ViT:
    rank = changes.pop("lora_rank", 0)
    model = ViT(**{**SIZE, "num_classes": 5, **changes})
    if rank:
        add_adapters(model, rank, rank)
    return model


def trainer(device: str = "cuda", steps: float = 1e6, **changes: Any) -> Any:
    strategy = SimpleNamespace(root_device=torch.device(device))
    defaults = {
        "estimated_stepping_batches": steps,
        "global_step": 0,
        "accumulate_grad_batches": 1,
        "callbacks": [],
        "datamodule": SimpleNamespace(batch_size=64),
        "strategy": strategy,
    }
    return SimpleNamespace(**{**defaults, **changes})


@pytest.mark.parametrize(
    ("device", "seconds", "answer"),
    [("cuda", 299.0, False), ("cuda", 300.0, True), ("cpu", 1e9, False), ("mps", 1e9, False)],
)
def test_long_trainings_on_a_gpu_are_worth_compiling(
    device: str, seconds: float, answer: bool
) -> None:
    assert is_worthwhile(device, seconds) is answer


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_option_decides_where_it_is_given(asked: bool, device: str) -> None:
    assert should_compile(asked, small(), trainer(device)) is asked


def test_the_choice_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "missing_tool", lambda: "")
    with caplog.at_level(logging.INFO):
        assert should_compile(None, small(), trainer())
        assert not should_compile(None, small(), trainer(steps=10))
        assert not should_compile(None, small(), trainer("cpu"))
    assert len([text for text in caplog.messages if "compile false prevents it" in text]) == 1


def test_a_machine_without_a_compiler_trains_without_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert not should_compile(None, small(), trainer())
    assert "C compiler" in caplog.text or "triton" in caplog.text


@pytest.mark.parametrize(
    ("triton", "compilers", "environment", "missing"),
    [
        (None, ["gcc"], {}, "the package triton"),
        (1, [], {}, "a C compiler"),
        (1, ["cc"], {}, ""),
        (1, ["gcc"], {}, ""),
        (1, ["clang"], {}, ""),
        (1, ["mine"], {}, "a C compiler"),
        (1, ["mine"], {"CC": "mine"}, ""),
    ],
    ids=str,
)
def test_what_a_compiler_lacks_is_named(
    triton: Any,
    compilers: list[str],
    environment: dict[str, str],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: triton)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name in compilers or None)
    monkeypatch.setattr(compiling.os, "environ", environment)
    assert compiling.missing_tool() == missing


def test_a_training_is_as_long_as_what_is_left_of_it() -> None:
    step = eager_seconds(small(), 64)
    assert training_seconds(small(), trainer(steps=500, global_step=200)) == 300 * step
    both = trainer(steps=500, accumulate_grad_batches=4)
    assert training_seconds(small(), both) == 2000 * step
    limit = Timer(duration={"seconds": 7})
    assert training_seconds(small(), trainer(callbacks=[limit])) == 7


def test_the_arithmetic_of_a_step_is_three_forward_passes() -> None:
    with torch.device("meta"):
        vit = ViT(img_size=224, patch_size=16, embed_dim=768, depth=12)
    # timm's figure: 17.58 billion multiplications and additions, two operations, for an image
    assert eager_seconds(vit, 1000) * 1e14 == pytest.approx(3 * 2 * 17.58e9 * 1000, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "again"), [*((name, False) for name in VARIANTS), AGAIN])
def test_a_variant_is_one_graph_for_the_compiler(name: str, again: bool) -> None:
    torch.compiler.reset()
    model = small(**VARIANTS[name]).train()
    model.blocks.set_grad_checkpointing(again)
    x = torch.randn(3, 3, 8, 8)
    model.compile(backend="aot_eager", fullgraph=True)
    model(x).sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in trained)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_gpu_joins_small_kernels(device: str) -> None:
    found: list[dict[str, Any]] = []
    compilable: Any = SimpleNamespace(compile=lambda **options: found.append(options["options"]))
    with warnings.catch_warnings():
        compile_training([compilable], trainer(device), "max-autotune")
    expected = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
    expected |= GPU_OPTIONS if device == "cuda" else {}
    assert found == [expected]


def scoring_model(graphs: list[Any]) -> Classifier:
    """A compiled model that scores batches of 4 images as within a training on a GPU."""

    def keep(graph: Any, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    counters.clear()
    model = Classifier(**SIZE, num_classes=5).eval()
    torch.nn.init.normal_(model.vit.head.weight)
    model.vit.compile(backend=keep)
    model._full_batch = 4
    return model


@pytest.mark.parametrize("made_within", [False, True])
def test_validation_compiles_one_size_of_batch_and_pads_the_last(made_within: bool) -> None:
    graphs: list[Any] = []
    model = scoring_model(graphs)
    with torch.inference_mode(made_within):
        images = torch.randn(10, 3, 8, 8)
    with torch.inference_mode():
        found = [model(part) for part in images.split(4)]
        expected = model.vit.forward(images)
    assert [len(part) for part in found] == [4, 4, 2]
    assert torch.allclose(torch.cat(found), expected, atol=1e-6)
    assert len(graphs) == 1
    assert not counters["graph_break"]


def test_after_its_training_a_model_scores_uncompiled_again() -> None:
    graphs: list[Any] = []
    model = scoring_model(graphs)
    model.on_fit_end()
    with torch.inference_mode():
        assert model(torch.randn(3, 3, 8, 8)).shape == (3, 5)
    assert not graphs


@pytest.mark.parametrize(("device", "full"), [("cuda", 64), ("cpu", None)])
def test_only_on_a_gpu_is_validation_compiled(
    device: str, full: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "compile_training", lambda *_: lambda function: function)
    model = Classifier(**SIZE, num_classes=5, compile=True)
    model._trainer = trainer(device)
    monkeypatch.setattr(Classifier, "device", torch.device(device))
    model.on_fit_start()
    assert model._full_batch == full
