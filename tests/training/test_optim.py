"""Parameter groups against timm's, the schedule against closed forms and torch's own."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler

from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.training.classifier import Classifier
from vitlit.training.optim.groups import freeze, parameter_groups
from vitlit.training.optim.optimizers import tell_unused
from vitlit.training.optim.schedule import schedule_factor, warmup_constant, warmup_cosine


@pytest.fixture
def model() -> ViT:
    return ViT(img_size=8, patch_size=4, num_classes=5, embed_dim=8, depth=1, num_heads=2)


def names_in(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return sorted(names[id(parameter)] for parameter in parameters)


def test_matrices_decay_and_the_rest_is_spared_as_in_timm(model: ViT) -> None:
    names = ["pos_embed", "cls_token"]
    spared, decayed = param_groups_weight_decay(model, 0.1, no_weight_decay_list=names)
    groups = parameter_groups(model, weight_decay=0.1, decay="matrices")
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert names_in(model, groups[0]["params"]) == names_in(model, decayed["params"])
    assert names_in(model, groups[1]["params"]) == names_in(model, spared["params"])


def test_what_decays_in_a_vit_is_its_projections(model: ViT) -> None:
    group, _ = parameter_groups(model, weight_decay=0.1, decay="matrices")
    layers = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]
    expected = [f"blocks.0.{layer}.weight" for layer in layers]
    assert names_in(model, group["params"]) == [
        *expected,
        "head.weight",
        "patch_embed.proj.weight",
    ]


def test_positions_are_spared_inside_a_larger_module_too(model: ViT) -> None:
    outer = nn.ModuleDict({"vit": model})
    _, spared = parameter_groups(outer, weight_decay=0.1, decay="matrices")
    assert {"vit.pos_embed", "vit.cls_token"} <= set(names_in(outer, spared["params"]))


def test_everything_decays_in_one_group_when_all_is_asked(model: ViT) -> None:
    (group,) = parameter_groups(model, weight_decay=0.1, decay="all")
    assert names_in(model, group["params"]) == names_in(model, model.parameters())
    assert group["weight_decay"] == 0.1


def test_an_empty_group_is_left_out() -> None:
    (group,) = parameter_groups(nn.LayerNorm(4), weight_decay=0.1, decay="matrices")
    assert group["weight_decay"] == 0.0


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_frozen_parameters_are_left_out(model: ViT, decay: str) -> None:
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    groups = parameter_groups(model, weight_decay=0.1, decay=decay)
    kept = [parameter for group in groups for parameter in group["params"]]
    assert names_in(model, kept) == ["head.bias", "head.weight"]


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.1),
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (35, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos 45 degrees
        (60, 0.6),
        (85, 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2),
        (110, 0.2),
        (500, 0.2),
    ],
)
def test_the_cosine_factor_equals_its_closed_form(step: int, factor: float) -> None:
    assert warmup_cosine(step, total=110, warmup=10, floor=0.2) == pytest.approx(factor)


def test_without_warmup_the_cosine_starts_at_its_top() -> None:
    assert warmup_cosine(0, total=100, warmup=0, floor=0.0) == 1.0


@pytest.mark.parametrize(
    ("step", "warmup", "factor"), [(0, 4, 0.25), (3, 4, 1.0), (9999, 4, 1.0), (0, 0, 1.0)]
)
def test_the_constant_factor_rises_to_one_and_stays(step: int, warmup: int, factor: float) -> None:
    assert warmup_constant(step, warmup=warmup) == factor


def learning_rates(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    """The rate that each optimiser step uses, for a base rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_cosine_schedule_equals_torchs_linear_then_cosine() -> None:
    """torch's LinearLR counts ``total_iters`` intervals, so 8 warm-up steps are 7 intervals; its
    CosineAnnealingLR starts at the first step after them."""
    warmup, total, floor = 8, 40, 0.05
    factor = schedule_factor("cosine", total=total, warmup=warmup, floor=floor)
    ours = learning_rates(lambda o: LambdaLR(o, factor), total)
    rise = learning_rates(lambda o: LinearLR(o, 1 / warmup, total_iters=warmup - 1), warmup)
    fall = total - warmup
    down = learning_rates(lambda o: CosineAnnealingLR(o, fall, eta_min=floor), fall)
    assert ours == pytest.approx(rise + down)


def test_the_constant_schedule_equals_torchs_linear_warmup_without_a_known_end() -> None:
    factor = schedule_factor("constant", total=math.inf, warmup=8, floor=0.0)
    ours = learning_rates(lambda o: LambdaLR(o, factor), 20)
    assert ours == pytest.approx(learning_rates(lambda o: LinearLR(o, 1 / 8, total_iters=7), 20))


def test_the_cosine_schedule_refuses_a_run_without_an_end() -> None:
    with pytest.raises(InputError, match=r"cosine.*give max_epochs or max_steps") as caught:
        schedule_factor("cosine", total=math.inf, warmup=8, floor=0.0)
    assert caught.value.arguments == ("max_epochs", "max_steps", "schedule")


def test_each_layer_has_its_share_of_the_rate_of_the_one_above(model: ViT) -> None:
    outer = nn.ModuleDict({"vit": model})
    groups = parameter_groups(
        outer, weight_decay=0.1, decay="matrices", lr=2.0, layer_decay=0.5, depth=1
    )
    rates = {name: group["lr"] for group in groups for name in names_in(outer, group["params"])}
    expected = {"patch_embed": 0.5, "cls_token": 0.5, "pos_embed": 0.5, "blocks": 1.0}
    expected |= {"norm": 2.0, "head": 2.0}
    assert rates == {name: expected[name.split(".")[1]] for name in rates}
    assert len(rates) == len(list(outer.parameters()))
    assert groups[-1]["lr"] == 2.0


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_the_head_has_its_own_rate_and_the_last_group_the_usual_one(
    model: ViT, layer_decay: float
) -> None:
    groups = parameter_groups(
        model, weight_decay=0.1, decay="matrices", lr=2.0, layer_decay=layer_decay, depth=1,
        head_lr=5.0,
    )  # fmt: skip
    rates = {name: group["lr"] for group in groups for name in names_in(model, group["params"])}
    usual = parameter_groups(
        model, weight_decay=0.1, decay="matrices", lr=2.0, layer_decay=layer_decay, depth=1
    )
    expected = {name: group["lr"] for group in usual for name in names_in(model, group["params"])}
    assert rates == {**expected, "head.weight": 5.0, "head.bias": 5.0}
    assert groups[-1]["lr"] == 2.0


@pytest.mark.parametrize(
    ("blocks", "trained"),
    [(0, {"patch_embed", "cls_token", "pos_embed", "blocks", "norm", "head"}),
     (1, {"norm", "head"}), (-1, {"head"})],
)  # fmt: skip
def test_freezing_spares_what_is_above(model: ViT, blocks: int, trained: set[str]) -> None:
    freeze(model, blocks, depth=1)
    left = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert left == trained


def test_muons_matrices_are_those_of_the_blocks(model: ViT) -> None:
    groups = parameter_groups(model, weight_decay=0.1, decay="all", lr=1.0, muon_lr=3.0)
    muon, adamw = groups
    layers = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]
    assert names_in(model, muon["params"]) == [f"blocks.0.{layer}.weight" for layer in layers]
    assert (muon["is_muon"], muon["lr"], adamw["is_muon"], adamw["lr"]) == (True, 3.0, False, 1.0)
    assert len(muon["params"]) + len(adamw["params"]) == len(list(model.parameters()))


def test_the_positions_of_gpsa_are_not_muons() -> None:
    model = ViT(
        img_size=8, patch_size=4, num_classes=5, embed_dim=8, depth=1, num_heads=2,
        attention="gpsa", global_pool="avg", class_token=False,
    )  # fmt: skip
    muon, *_ = parameter_groups(model, weight_decay=0.1, decay="matrices", muon_lr=1.0)
    assert all(p.ndim == 2 for p in muon["params"])
    assert not any("locality" in name for name in names_in(model, muon["params"]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, ""),
        ({"momentum": 0.8}, "momentum 0.8 is for optimizer sgd, not adamw"),
        ({"momentum": 0.8, "optimizer": "sgd"}, ""),
        ({"min_lr": 1e-5}, ""),
        ({"min_lr": 1e-5, "schedule": "constant"}, "min_lr 1e-05 has no effect with schedule"),
    ],
)
def test_settings_that_no_update_reads_are_told(
    settings: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell_unused({**Classifier().hparams, **settings})
    assert told in caplog.text if told else not caplog.text
