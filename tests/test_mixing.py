"""MixUp and CutMix: shares, rectangles and targets, from the pixels that come out."""

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from vitlit.mixing import mix
from vitlit.seeding import address

LABELS = torch.arange(8)


def marked(count: int = 8, height: int = 12, width: int = 20) -> Tensor:
    """Images that tell which they are: all pixels of image i are i."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, height, width)


def mixed(count: int = 8, key: int = 1, **settings: Any) -> tuple[Tensor, Tensor]:
    options = {"num_classes": count, "mixup": 0.0, "cutmix": 0.0, **settings}
    return mix(marked(count), torch.arange(count), address(key), **options)


def own_shares(targets: Tensor) -> Tensor:
    return targets[torch.arange(len(targets)), torch.arange(len(targets))]


def test_mixup_blends_each_image_with_the_one_before_it_as_its_target_says() -> None:
    found, targets = mixed(mixup=1.0)
    share = own_shares(targets)
    before = LABELS.roll(1)
    expected = share * LABELS + (1 - share) * before
    torch.testing.assert_close(found, expected.view(-1, 1, 1, 1).expand(found.shape))
    torch.testing.assert_close(targets[LABELS, before], 1 - share)


def test_cutmix_pastes_one_rectangle_of_the_image_before_and_counts_its_area() -> None:
    found, targets = mixed(256, cutmix=1.0)
    labels = torch.arange(256)
    own = found[:, 0] == labels.view(-1, 1, 1)
    pasted = found[:, 0] == labels.roll(1).view(-1, 1, 1)
    assert torch.equal(own, ~pasted)
    assert (found == found[:, :1]).all()
    torch.testing.assert_close(own_shares(targets), own.float().mean((1, 2)))
    bounding = pasted.any(2).sum(1) * pasted.any(1).sum(1)
    assert torch.equal(bounding, pasted.sum((1, 2)))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixups_shares_are_drawn_from_beta(alpha: float) -> None:
    _, targets = mixed(2000, mixup=alpha)
    assert stats.kstest(own_shares(targets).numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmixs_rectangles_are_those_of_the_paper() -> None:
    """Their sides from the square root of a uniform share, their centres uniform."""
    found, _ = mixed(4000, cutmix=1.0)
    pasted = found[:, 0] != torch.arange(4000.0).view(-1, 1, 1)
    area = pasted.float().mean((1, 2))
    share, y, x = torch.rand(3, 4000, 1, generator=torch.Generator().manual_seed(0))
    half = 0.5 * share.sqrt()
    rows = ((y * 12).int() - torch.arange(12) - 0.5).abs() < (half * 12).int()
    cols = ((x * 20).int() - torch.arange(20) - 0.5).abs() < (half * 20).int()
    expected = (rows[:, :, None] & cols[:, None]).float()
    assert stats.ks_2samp(area.numpy(), expected.mean((1, 2)).numpy()).pvalue > 0.01
    torch.testing.assert_close(pasted.float().mean(0), expected.mean(0), atol=0.04, rtol=0)


def test_with_both_each_image_takes_one_of_them_half_of_the_time() -> None:
    found, _ = mixed(2000, mixup=1.0, cutmix=1.0)
    labels = torch.arange(2000.0).view(-1, 1, 1)
    blended = ((found[:, 0] != labels) & (found[:, 0] != labels.roll(1, 0))).any(2).any(1)
    assert blended.float().mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("probability", [0.25, 0.9])
def test_a_share_of_the_images_is_mixed(probability: float) -> None:
    found, targets = mixed(4000, mixup=1.0, probability=probability)
    touched = own_shares(targets) < 1
    assert touched.float().mean() == pytest.approx(probability, abs=0.03)
    assert torch.equal(found[~touched], marked(4000)[~touched])


@pytest.mark.parametrize(
    "settings", [{}, {"mixup": 1.0, "probability": 0.0}, {"cutmix": 1.0, "probability": 0.0}]
)
def test_without_mixing_the_targets_are_the_classes(settings: dict[str, Any]) -> None:
    found, targets = mixed(**settings)
    assert torch.equal(found, marked())
    assert torch.equal(targets, torch.eye(8))


def test_targets_sum_to_one() -> None:
    _, targets = mixed(500, mixup=0.8, cutmix=1.0)
    torch.testing.assert_close(targets.sum(1), torch.ones(500))


def test_the_key_alone_decides() -> None:
    settings = {"mixup": 0.8, "cutmix": 1.0}
    first = mixed(**settings)
    torch.manual_seed(99)
    again, other = mixed(**settings), mixed(key=2, **settings)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_an_image_alone_is_mixed_with_itself() -> None:
    found, targets = mixed(1, mixup=1.0)
    assert torch.equal(found, marked(1))
    assert torch.equal(targets, torch.ones(1, 1))


def test_coefficients_of_different_images_are_independent() -> None:
    _, targets = mixed(4000, mixup=1.0)
    share = own_shares(targets)
    both = torch.stack([share[:-1], share[1:]])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.05


def test_half_precision_stays_half_precision() -> None:
    found, targets = mix(
        marked().bfloat16(), LABELS, 5, num_classes=8, mixup=1.0, cutmix=1.0, probability=1.0
    )
    assert found.dtype == targets.dtype == torch.bfloat16
