"""Batched policies against a slow loop, which replays the draws through torchvision's functions."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision_operations import by_torchvision, noise

from vitlit import seeding
from vitlit.augment import policies
from vitlit.augment.operations import OPERATION_NAMES
from vitlit.augment.policies import (
    AUTO_DRAWS,
    MAGNITUDE_BINS,
    RAND_DRAWS,
    TRIVIAL_DRAWS,
    auto_augment,
    rand_augment,
    trivial_augment,
)
from vitlit.errors import InputError

Policy = Callable[[Tensor, Tensor], Tensor]
Recorded = list[tuple[Tensor, Tensor]]  # of each layer: operations (B,), magnitudes (B,)

POLICIES = {
    "rand": (rand_augment, 2 * RAND_DRAWS),
    "trivial": (trivial_augment, TRIVIAL_DRAWS),
    "auto": (auto_augment, AUTO_DRAWS),
}
SUB_POLICIES = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
ALMOST_ONE = 1 - 2.0**-24  # the largest draw there is
SIGNED = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}
SIGNED |= {"brightness", "color", "contrast", "sharpness"}


def some_draws(count: int, columns: int) -> Tensor:
    return seeding.uniform(seeding.address(0), torch.arange(count), columns)


def plain(name: str) -> str:
    """Torchvision's name for an operation as one of NAMES: TranslateX is translate_x."""
    return re.sub(r"([XY])$", r"_\1", name).lower()


def strength(space: type, name: str, bins: int, index: int, image: Tensor, sign: float) -> float:
    """Torchvision's magnitude of an operation of NAMES, and its sign: to the left below 1/2."""
    spaces = {plain(key): value for key, value in space._AUGMENTATION_SPACE.items()}
    magnitudes, signed = spaces[name]
    values = magnitudes(bins, *image.shape[1:])
    if values is None:
        return 0.0
    return float(values[index]) * (-1 if signed and sign < 0.5 else 1)


def rand_slowly(image: Tensor, draw: list[float], num_ops: int = 2, magnitude: int = 9) -> Tensor:
    for which, sign in zip(draw[::2][:num_ops], draw[1::2], strict=False):
        name = OPERATION_NAMES[int(which * 14)]
        value = strength(v2.RandAugment, name, 31, magnitude, image, sign)
        image = by_torchvision(name, image, value)
    return image


def trivial_slowly(image: Tensor, draw: list[float]) -> Tensor:
    name, index = OPERATION_NAMES[int(draw[0] * 14)], int(draw[1] * 31)
    value = strength(v2.TrivialAugmentWide, name, 31, index, image, draw[2])
    return by_torchvision(name, image, value)


def auto_slowly(image: Tensor, draw: list[float]) -> Tensor:
    steps = SUB_POLICIES[int(draw[0] * 25)]
    for (name, chance, index), happens, sign in zip(steps, draw[1::2], draw[2::2], strict=True):
        if happens < chance:
            value = strength(v2.AutoAugment, plain(name), 10, index or 0, image, sign)
            image = by_torchvision(plain(name), image, value)
    return image


SLOWLY = {"rand": rand_slowly, "trivial": trivial_slowly, "auto": auto_slowly}


def share_that_differs(found: Tensor, expected: list[Tensor]) -> float:
    return (found != torch.stack(expected)).float().mean().item()


def chi_square(numbers: Tensor, count: int) -> float:
    """Distance of the frequencies of ``count`` numbers from the uniform ones."""
    expected = len(numbers) / count
    return ((numbers.bincount(minlength=count) - expected) ** 2 / expected).sum().item()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What the policies decide, in place of doing it."""
    found: Recorded = []

    def record(images: Tensor, operations: Tensor, magnitude: Tensor) -> Tensor:
        found.append((operations, magnitude))
        return images

    monkeypatch.setattr(policies, "apply_operations", record)
    return found


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 19, 30)])
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_equals_torchvisions_with_the_same_choices(
    name: str, shape: tuple[int, int, int]
) -> None:
    policy, columns = POLICIES[name]
    images, draws = noise(300, *shape), some_draws(300, columns)
    expected = [SLOWLY[name](*row) for row in zip(images, draws.tolist(), strict=True)]
    # pixels halfway between two sources may differ, as in test_operations: 1.2 in 10,000 with AMX
    assert share_that_differs(policy(images, draws), expected) <= 2e-4


@pytest.mark.parametrize(("num_ops", "magnitude"), [(1, 0), (1, 30), (3, 15)])
def test_rand_augment_takes_any_number_and_strength(num_ops: int, magnitude: int) -> None:
    images, draws = noise(200, 3, 16, 16), some_draws(200, RAND_DRAWS * num_ops)
    rows = zip(images, draws.tolist(), strict=True)
    expected = [rand_slowly(*row, num_ops=num_ops, magnitude=magnitude) for row in rows]
    found = rand_augment(images, draws, num_ops=num_ops, magnitude=magnitude)
    assert share_that_differs(found, expected) <= 1e-4


def test_rand_augment_without_operations_changes_nothing() -> None:
    images = noise(4)
    assert torch.equal(rand_augment(images, torch.zeros(4, 0), num_ops=0), images)


@pytest.mark.parametrize("name", POLICIES)
def test_each_image_depends_on_its_own_draws_alone(name: str) -> None:
    policy, columns = POLICIES[name]
    images, draws = noise(60), some_draws(60, columns)
    alone = [policy(*row) for row in zip(images.split(1), draws.split(1), strict=True)]
    assert torch.equal(policy(images, draws), torch.cat(alone))


@pytest.mark.parametrize("name", POLICIES)
def test_permuting_the_batch_permutes_the_result(name: str) -> None:
    policy, columns = POLICIES[name]
    images, draws = noise(60), some_draws(60, columns)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert torch.equal(policy(images[order], draws[order]), policy(images, draws)[order])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_leaves_its_input_alone(name: str) -> None:
    policy, columns = POLICIES[name]
    images, draws = noise(60), some_draws(60, columns)
    before = images.clone(), draws.clone()
    policy(images, draws)
    assert torch.equal(images, before[0])
    assert torch.equal(draws, before[1])


@pytest.mark.parametrize("name", POLICIES)
def test_no_images_give_none(name: str) -> None:
    policy, columns = POLICIES[name]
    assert policy(noise(0), torch.zeros(0, columns)).shape == (0, 3, 9, 12)


@pytest.mark.parametrize("draw", [0.0, ALMOST_ONE])
@pytest.mark.parametrize("name", POLICIES)
def test_the_smallest_and_largest_draws_are_valid(name: str, draw: float) -> None:
    policy, columns = POLICIES[name]
    images, draws = noise(1, 3, 32, 32), torch.full((1, columns), draw)
    assert torch.equal(policy(images, draws)[0], SLOWLY[name](images[0], draws[0].tolist()))


@pytest.mark.parametrize("name", ["rand", "trivial"])
def test_operations_are_equally_likely(name: str, recorded: Recorded) -> None:
    policy, columns = POLICIES[name]
    policy(noise(5000), some_draws(5000, columns))
    assert max(chi_square(layer, 14) for layer, _ in recorded) < 34.5  # 13 degrees: p = 0.001


def test_the_operations_of_one_image_are_independent(recorded: Recorded) -> None:
    rand_augment(noise(20000, 1, 1, 1), some_draws(20000, 2 * RAND_DRAWS))
    (first, _), (second, _) = recorded
    assert chi_square(14 * first + second, 14 * 14) < 261  # 195 degrees: p = 0.001


def test_the_operations_of_neighbours_are_independent(recorded: Recorded) -> None:
    rand_augment(noise(20000, 1, 1, 1), some_draws(20000, RAND_DRAWS), num_ops=1)
    operations = recorded[0][0]
    assert chi_square(14 * operations[::2] + operations[1::2], 14 * 14) < 261


@pytest.mark.parametrize("name", POLICIES)
def test_half_of_the_signs_are_negative(name: str, recorded: Recorded) -> None:
    policy, columns = POLICIES[name]
    policy(noise(20000, 1, 9, 9), some_draws(20000, columns))
    operations, magnitudes = (torch.cat(parts) for parts in zip(*recorded, strict=True))
    signed = torch.tensor([each in SIGNED for each in OPERATION_NAMES])[operations] & (
        magnitudes != 0
    )
    negative = (magnitudes[signed] < 0).float().mean().item()
    assert negative == pytest.approx(0.5, abs=0.015)  # over 3 standard deviations


@pytest.mark.parametrize("name", POLICIES)
def test_operations_of_one_direction_are_never_negative(name: str, recorded: Recorded) -> None:
    policy, columns = POLICIES[name]
    policy(noise(2000, 1, 9, 9), some_draws(2000, columns))
    operations, magnitudes = (torch.cat(parts) for parts in zip(*recorded, strict=True))
    unsigned = torch.tensor([each not in SIGNED for each in OPERATION_NAMES])[operations]
    assert magnitudes[unsigned].min() >= 0


def test_trivial_augments_strengths_are_equally_likely(recorded: Recorded) -> None:
    trivial_augment(noise(40000, 1, 1, 1), some_draws(40000, TRIVIAL_DRAWS))
    operations, magnitudes = recorded[0]
    angles = magnitudes[operations == OPERATION_NAMES.index("rotate")].abs()
    assert chi_square((angles / 4.5).round().long(), MAGNITUDE_BINS) < 59.7  # 30 degrees: p = 0.001


def test_auto_augments_operations_happen_as_often_as_planned(recorded: Recorded) -> None:
    auto_augment(noise(20000, 1, 1, 1), some_draws(20000, AUTO_DRAWS))
    for step, (operations, _) in enumerate(recorded):
        happened = (operations != OPERATION_NAMES.index("identity")).float().mean().item()
        planned = sum(pair[step][1] for pair in SUB_POLICIES) / len(SUB_POLICIES)
        assert happened == pytest.approx(planned, abs=0.012)  # over 3 standard deviations


def test_a_negative_number_of_operations_is_refused() -> None:
    with pytest.raises(InputError, match="rand_augment_ops -1 is negative"):
        rand_augment(noise(1), torch.zeros(1, 4), num_ops=-1)


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_a_magnitude_outside_the_bins_is_refused(magnitude: int) -> None:
    with pytest.raises(InputError, match=rf"magnitude {magnitude} is not in 0\.\.30"):
        rand_augment(noise(1), torch.zeros(1, 4), magnitude=magnitude)


@pytest.mark.parametrize("name", POLICIES)
def test_no_choice_depends_on_a_value_on_the_images_device(name: str) -> None:
    policy, columns = POLICIES[name]
    images = noise(200).to("meta")  # has no values: reading one, which makes a GPU wait, fails
    assert policy(images, some_draws(200, columns)).shape == images.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("draws_on", ["cpu", "cuda"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_gpu_gives_what_the_cpu_gives(name: str, draws_on: str) -> None:
    policy, columns = POLICIES[name]
    images, draws = noise(512, 3, 32, 32), some_draws(512, columns)
    found = policy(images.cuda(), draws.to(draws_on)).cpu()
    assert share_that_differs(found, [*policy(images, draws)]) <= 1e-4
