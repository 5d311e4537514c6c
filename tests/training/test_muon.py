"""Muon's updates, next to torch.optim.Muon and to singular values computed by themselves."""

import pytest
import torch
from torch import Tensor, nn

from vitlit.model.vit import ViT
from vitlit.training.optim import muon
from vitlit.training.optim.groups import parameter_groups
from vitlit.training.optim.muon import MuonAdamW, orthogonal


@pytest.fixture
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(muon, "has_bf16_units", lambda _: request.param)
    return bool(request.param)


def by_singular_values(matrix: Tensor) -> Tensor:
    """The polynomial of Jordan (2024), five times, on the singular values of the scaled matrix."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()  # the Frobenius norm
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return u @ values.diag() @ v


@pytest.mark.parametrize("units", [False], indirect=True)
@pytest.mark.parametrize("shape", [(4, 4), (3, 11), (12, 5), (1, 7)])
@pytest.mark.usefixtures("units")
def test_a_matrix_becomes_what_its_singular_values_say(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonal(matrix)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_singular_values(matrix), rtol=1e-3, atol=1e-4)


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("units", [False, True], indirect=True)
def test_filters_are_updated_as_matrices_by_torch(units: bool) -> None:
    """Exactly in bfloat16, in which torch.optim.Muon computes; in float32 up to its rounding."""
    torch.manual_seed(0)
    filters, plain = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(5, 8))
    twins = [nn.Parameter(p.detach().flatten(1).clone()) for p in (filters, plain)]
    group = {"params": [filters, plain], "lr": 0.02, "weight_decay": 0.1, "is_muon": True}
    other = nn.Parameter(torch.zeros(2))
    rest = {"params": [other], "lr": 0.1, "weight_decay": 0.0, "is_muon": False}
    ours = MuonAdamW([group, rest], lr=0.1, fused=None)
    theirs = torch.optim.Muon(twins, 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    start = [twin.detach().clone() for twin in twins]
    for _ in range(3):
        for p, twin in zip((filters, plain), twins, strict=True):
            p.grad = torch.randn_like(p)
            twin.grad = p.grad.flatten(1).clone()
        ours.step()
        theirs.step()  # type: ignore[no-untyped-call]
    for p, twin, old in zip((filters, plain), twins, start, strict=True):
        far = (twin - old).abs().max().item()
        closeness = 1e-6 if units else 0.02 * far
        torch.testing.assert_close(p.detach().flatten(1), twin.detach(), rtol=0, atol=closeness)


def test_the_filters_of_a_stem_are_muons_but_the_first() -> None:
    model = ViT(
        img_size=16, patch_size=8, num_classes=5, embed_dim=32, depth=1, num_heads=2,
        patch_embed="conv_stem", stem_convs=2, pos_embed="sincos2d", global_pool="avg",
    )  # fmt: skip
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, weight_decay=0.1, decay="matrices", muon_lr=1.0)
    muons = {names[id(p)] for g in groups if g["is_muon"] for p in g["params"]}
    assert {f"patch_embed.convs.{i}.weight" for i in range(1, 6)} <= muons
    assert "patch_embed.convs.0.weight" not in muons
    assert sum(len(g["params"]) for g in groups) == len(names)
