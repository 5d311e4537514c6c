"""MixUp and CutMix: shares, rectangles and targets, from the pixels that come out."""

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from vitlit.augment.mixing import mix
from vitlit.seeding import address

LABELS = torch.arange(8)


def marked(count: int = 8, height: int = 12, width: int = 20) -> Tensor:
    """Images that tell which they are: all pixels of image i are i."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, height, width)


def noise(count: int) -> Tensor:
    return torch.rand(count, 3, 12, 20, generator=torch.Generator().manual_seed(0))


def mixed(count: int = 8, key: int = 1, **settings: Any) -> tuple[Tensor, Tensor]:
    options = {"num_classes": count, "mixup": 0.0, "cutmix": 0.0, **settings}
    return mix(marked(count), torch.arange(count), address(key), **options)


def blended(found: Tensor) -> Tensor:
    """Which of the marked images hold a pixel that is of neither image: ``(B,)``."""
    labels = torch.arange(float(len(found))).view(-1, 1, 1)
    return ((found[:, 0] != labels) & (found[:, 0] != labels.roll(1, 0))).any(2).any(1)


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
    assert blended(found).float().mean() == pytest.approx(0.5, abs=0.04)


def test_whether_an_image_is_mixed_does_not_decide_how() -> None:
    found, targets = mixed(2000, mixup=1.0, cutmix=10.0, probability=0.5)
    is_mixed = own_shares(targets) < 1
    assert blended(found)[is_mixed].float().mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("way", [{"mixup": 1.0}, {"cutmix": 10.0}], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("probability", [0.25, 0.9])
def test_a_share_of_the_images_is_mixed(probability: float, way: dict[str, Any]) -> None:
    found, targets = mixed(4000, probability=probability, **way)
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


@pytest.mark.parametrize("way", [{"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_an_image_alone_is_mixed_with_itself(way: dict[str, float]) -> None:
    image = noise(1)
    found, targets = mix(image, torch.tensor([2]), 5, num_classes=3, **way)
    assert torch.equal(found, image)
    assert torch.equal(targets, torch.tensor([[0.0, 0.0, 1.0]]))


def test_images_of_one_class_keep_their_class() -> None:
    labels = torch.full((64,), 2)
    _, targets = mix(noise(64), labels, 5, num_classes=3, mixup=0.8, cutmix=1.0)
    torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]).expand(64, -1))


def test_pasted_pixels_keep_their_place() -> None:
    images = noise(64)
    found, _ = mix(images, torch.arange(64), 5, num_classes=64, mixup=0.0, cutmix=1.0)
    assert ((found == images) | (found == images.roll(1, 0))).all()


def test_a_tiny_alpha_leaves_each_image_or_takes_its_neighbour() -> None:
    _, targets = mixed(500, mixup=1e-6)
    assert own_shares(targets).unique().tolist() == [0.0, 1.0]


def test_a_huge_alpha_blends_evenly() -> None:
    _, targets = mixed(500, mixup=1e6)
    torch.testing.assert_close(own_shares(targets), torch.full((500,), 0.5), atol=0.005, rtol=0)


def test_the_batch_given_stays_as_it_is() -> None:
    images, labels = noise(16), torch.arange(16)
    kept = images.clone()
    mix(images, labels, 5, num_classes=16, mixup=0.8, cutmix=1.0)
    assert torch.equal(images, kept)
    assert torch.equal(labels, torch.arange(16))


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
