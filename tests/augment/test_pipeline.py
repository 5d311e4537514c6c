"""The stages of training: which are on, in which order, and from which draws."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fake_device import DEVICE, FakeDevice, fake_device
from torch import Tensor

from vitlit.augment import colour, geometric, mixing, policies, turns
from vitlit.augment.layers import apply_operations
from vitlit.augment.pipeline import STAGES, Augmentation
from vitlit.augment.stages import apply_stages
from vitlit.data.batch import Batch
from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess, _scale_and_shift
from vitlit.seeding import Stream, address, uniform

PREPROCESS = Preprocess(
    in_chans=3, source_size=(16, 16), img_size=(16, 16), mean=(0.5,) * 3, std=(0.2,) * 3
)
SAMPLE = torch.tensor([5, 0, 9, 2, 7, 1])
STRONG: dict[str, dict[str, Any]] = {
    "resized_crop": {"resized_crop": [0.2, 0.6]},
    "crop": {"crop_padding": 4},
    "flip": {"flip": True},
    "rotation": {"rotation": 45.0},
    "auto_augment": {"auto_augment": "randaugment", "rand_augment_magnitude": 20},
    "erasing": {"erasing": 1.0},
    "mix": {"mixup": 1.0},
    "vertical_flip": {"vertical_flip": True},
    "quarter_turns": {"quarter_turns": True},
    "three_augment": {"three_augment": True},
    "color_jitter": {"color_jitter": [0.4, 0.5, 0.6]},
    "grayscale": {"grayscale": 0.5},
    "blur": {"blur": 0.7},
}


def batch(epoch: int = 0, key: int = 3, size: int = 16) -> Batch:
    x = torch.randint(0, 256, (6, 3, size, size), generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    return Batch(x.byte(), y, SAMPLE, torch.ones(6, dtype=torch.bool), epoch, key)


def ready(*, epochs: int | None = 10, **settings: Any) -> Augmentation:
    augmentation = Augmentation(**{"seed": 1, "num_classes": 4, **settings})
    return augmentation.of_run(epochs)


def augmented(augmentation: Augmentation, batch: Batch, **more: bool) -> Batch:
    size = PREPROCESS.img_size
    x, y = augmentation(batch.x, batch.y, batch.address, size=size, normalise=PREPROCESS, **more)
    return batch._replace(x=x, y=y)


def draws(stage: str, columns: int, epoch: int = 0) -> Tensor:
    return uniform(address(1, Stream.AUGMENT, epoch, STAGES.index(stage)), SAMPLE, columns)


def test_without_settings_images_are_only_normalised() -> None:
    found = augmented(ready(), batch())
    assert torch.equal(found.x, PREPROCESS(batch().x))
    assert torch.equal(found.y, batch().y)


STAGE_ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "resized_crop": lambda x: geometric.random_resized_crop(
        x, draws("resized_crop", 22), size=(16, 16), scale=(0.2, 0.6), ratio=(3 / 4, 4 / 3)
    ),
    "crop": lambda x: geometric.random_crop(x, draws("crop", 2), padding=4),
    "flip": lambda x: geometric.random_flip(x, draws("flip", 1)),
    "vertical_flip": lambda x: turns.flip_vertically(
        x, turns.vertical_flip_plan(draws("vertical_flip", 1))
    ),
    "quarter_turns": lambda x: turns.turn_quarters(
        x, turns.quarter_turn_plan(draws("quarter_turns", 1))
    ),
    "rotation": lambda x: geometric.random_rotation(x, draws("rotation", 1), degrees=45.0),
    "auto_augment": lambda x: policies.rand_augment(x, draws("auto_augment", 4), magnitude=20),
    "three_augment": lambda x: three_augmented(x, draws("three_augment", 6)),
    "color_jitter": lambda x: in_layers(
        x, colour.jitter_layers(draws("color_jitter", 4), (0.4, 0.5, 0.6))
    ),
    "grayscale": lambda x: in_layers(x, colour.grayscale_layers(draws("grayscale", 1), 0.5)),
    "blur": lambda x: colour.gaussian_blur(x, colour.blur_sigmas(draws("blur", 2), 0.7)),
}


def in_layers(x: Tensor, layers: list[policies.Layer]) -> Tensor:
    for operations, magnitude in layers:
        x = apply_operations(x, operations, magnitude)
    return x


def three_augmented(x: Tensor, draws: Tensor, strengths: tuple[float, ...] = (0.3,) * 3) -> Tensor:
    x = in_layers(x, colour.three_layers(draws))
    x = colour.gaussian_blur(x, colour.three_sigmas(draws))
    return in_layers(x, colour.jitter_layers(draws[:, 2:], strengths))


@pytest.mark.parametrize("stage", STAGE_ALONE)
def test_a_stage_acts_on_pixels_with_the_draws_of_its_samples(stage: str) -> None:
    found = augmented(ready(**STRONG[stage]), batch())
    assert torch.equal(found.x, PREPROCESS(STAGE_ALONE[stage](batch().x)))


def test_the_stages_act_in_the_documented_order() -> None:
    settings = {name: value for stage in STAGES for name, value in STRONG[stage].items()}
    settings["color_jitter"] = None  # 3-Augment has the jitter in it
    x = batch().x
    for stage in STAGE_ALONE:
        x = x if stage == "color_jitter" else STAGE_ALONE[stage](x)
    columns = geometric.ERASING_DRAWS
    erased = geometric.random_erasing(PREPROCESS(x), draws("erasing", columns), probability=1.0)
    key = address(1, Stream.AUGMENT, 0, STAGES.index("mix"), 3)
    options = {"num_classes": 4, "mixup": 1.0, "cutmix": 0.0, "probability": 1.0}
    mixed, targets = mixing.mix(erased, batch().y, key, **options)
    found = augmented(ready(**settings), batch())
    assert torch.equal(found.x, mixed)
    assert torch.equal(found.y, targets)


@pytest.mark.parametrize(
    ("name", "policy"),
    [("autoaugment", policies.auto_augment), ("trivialaugment", policies.trivial_augment)],
)
def test_the_policy_is_the_one_that_is_named(
    name: str, policy: Callable[[Tensor, Tensor], Tensor]
) -> None:
    columns = {"autoaugment": policies.AUTO_DRAWS, "trivialaugment": policies.TRIVIAL_DRAWS}[name]
    expected = PREPROCESS(policy(batch().x, draws("auto_augment", columns)))
    assert torch.equal(augmented(ready(auto_augment=name), batch()).x, expected)


def test_a_resized_crop_ends_at_the_size_of_the_model() -> None:
    assert augmented(ready(resized_crop=[0.5, 1.0]), batch(size=24)).x.shape == (6, 3, 16, 16)


def test_images_that_the_loader_cut_are_not_cut_again() -> None:
    found = augmented(ready(resized_crop=[0.2, 0.6]), batch(), cropped=True)
    assert torch.equal(found.x, PREPROCESS(batch().x))


@pytest.mark.parametrize(
    ("share", "epochs", "off"),
    [(0.1, 5, 1), (0.1, 50, 5), (0.07, 100, 7), (0.0, 9, 0), (1.0, 9, 9)],
)
def test_a_share_is_rounded_up_to_whole_epochs(share: float, epochs: int, off: int) -> None:
    augmentation = ready(off_last={"flip": share}, epochs=epochs)
    assert [augmentation.is_on("flip", epoch) for epoch in range(epochs)].count(False) == off


def test_all_stages_are_on_where_no_run_is_known() -> None:
    assert Augmentation(off_last={"flip": 0.5}).is_on("flip", 0)


def test_a_shape_thinner_than_a_pixel_leaves_a_pixel() -> None:
    thin = {"resized_crop": [0.08, 1.0], "resized_crop_ratio": [0.001, 0.002]}
    found = augmented(ready(**thin), batch()).x
    assert found.isfinite().all()
    assert found.std() > 0.1


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_goes_off_for_its_share_of_the_last_epochs(stage: str) -> None:
    augmentation = ready(**STRONG[stage], off_last={stage: 0.4}, epochs=10)
    plain = PREPROCESS(batch().x)
    changed = [
        not torch.equal(augmented(augmentation, batch(epoch)).x, plain) for epoch in range(10)
    ]
    assert changed == [True] * 6 + [False] * 4


def test_a_stage_that_goes_off_leaves_the_others_on() -> None:
    augmentation = ready(crop_padding=4, flip=True, off_last={"flip": 1.0})
    expected = augmented(ready(crop_padding=4), batch()).x
    assert torch.equal(augmented(augmentation, batch()).x, expected)


def test_targets_stay_soft_where_mixing_went_off() -> None:
    found = augmented(ready(mixup=1.0, off_last={"mix": 1.0}), batch())
    assert torch.equal(found.y, torch.eye(4)[batch().y])


@pytest.mark.parametrize("changed", [{"key": 4}, {"epoch": 1}])
def test_mixing_follows_the_address_of_the_batch(changed: dict[str, int]) -> None:
    augmentation = ready(mixup=1.0)
    first, again = (augmented(augmentation, batch()).y for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augmented(augmentation, batch(**changed)).y)


@pytest.mark.parametrize("epochs", [None, -1])
def test_the_share_of_a_run_without_an_end_is_refused(epochs: int | None) -> None:
    with pytest.raises(InputError, match=r"off_last \{'mix': 0\.4\}.*give max_epochs") as caught:
        ready(off_last={"mix": 0.4}, epochs=epochs)
    assert caught.value.arguments == ("max_epochs",)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"crop_padding": -1}, "crop_padding -1 is too small"),
        ({"mixup": -1.0}, r"mixup -1\.0 is negative or not finite; give 0 or more"),
        ({"rotation": -1.0}, r"rotation -1\.0 is not from 0 to 180 degrees"),
        ({"rotation": 400.0}, r"rotation 400\.0 is not from 0 to 180 degrees"),
        ({"rotation": float("inf")}, "rotation inf is not from 0 to 180 degrees"),
        ({"mixup": -0.1}, r"mixup -0\.1 is negative or not finite"),
        ({"cutmix": float("nan")}, "cutmix nan is negative or not finite"),
        ({"resized_crop": []}, r"resized_crop \[\] must be two numbers"),
        ({"resized_crop_ratio": [1.0, float("inf")]}, r"resized_crop_ratio \[1\.0, inf\]"),
        ({"erasing": 1.5}, r"erasing 1\.5 is not a share; give one from 0 to 1"),
        ({"mix_prob": -1.0}, r"mix_prob -1\.0 is not a share"),
        ({"resized_crop": [0.5]}, r"resized_crop \[0\.5\] must be two numbers"),
        ({"resized_crop": [0.0, 1.0]}, r"resized_crop \[0\.0, 1\.0\] must be two numbers, 0 < "),
        ({"resized_crop": [0.8, 0.5]}, r"resized_crop \[0\.8, 0\.5\].*smallest <= largest"),
        ({"resized_crop": [0.5, 1.5]}, r"resized_crop \[0\.5, 1\.5\].*largest <= 1"),
        ({"resized_crop_ratio": [2.0, 1.0]}, r"resized_crop_ratio \[2\.0, 1\.0\]"),
        ({"auto_augment": "rand"}, "'rand'; known: none, autoaugment, randaugment"),
        ({"rand_augment_ops": -1}, "rand_augment_ops -1 is negative"),
        ({"rand_augment_magnitude": 31}, r"rand_augment_magnitude 31 is not in 0\.\.30"),
        ({"off_last": {"mixup": 0.4}}, "unknown stage 'mixup'.*known: resized_crop, crop"),
        ({"off_last": {"mix": 40}}, "off_last mix 40 is not a share"),
        ({"mixup": "0.2"}, "mixup '0.2' is not a number; give one"),
        ({"erasing": None}, "erasing None is not a number"),
        ({"rotation": "10"}, "rotation '10' is not a number"),
        ({"resized_crop": [0.5, None]}, "resized_crop None is not a number"),
    ],
)
def test_a_bad_setting_names_its_value_and_the_rule(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        Augmentation(**settings)
    assert set(caught.value.arguments) == set(settings)


def test_padding_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="crop_padding 9 is larger than the image, 8x12"):
        Augmentation(crop_padding=9).check_size((8, 12))


def test_nothing_is_decided_by_a_value_on_the_images_device() -> None:
    settings = {name: value for stage in STAGES for name, value in STRONG[stage].items()}
    given = batch()
    hollow = given._replace(x=given.x.to("meta"), y=given.y.to("meta"))  # without values to read
    found = augmented(ready(**{**settings, "cutmix": 1.0}), hollow)
    assert (found.x.shape, found.y.shape) == ((6, 3, 16, 16), (6, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_the_stages_run_on_a_gpu_without_waiting_for_it() -> None:
    settings = {name: value for stage in STAGES for name, value in STRONG[stage].items()}
    augmentation = ready(**settings)
    expected = augmented(augmentation, batch())
    given = batch()
    moved = given._replace(x=given.x.cuda(), y=given.y.cuda())
    augmented(augmentation, moved)  # the first time makes tensors that are kept
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = augmented(augmentation, moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.x.cpu(), expected.x, rtol=1e-4, atol=0.06)
    torch.testing.assert_close(found.y.cpu(), expected.y)


ALL = {name: value for stage in STAGES for name, value in STRONG[stage].items()}
# of cifar10.yaml: 189 with torch 2.15; with those of the model, in test_cast_weights.py, below 800
MAX_LAUNCHES = 200


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_the_plan_of_a_device_gives_the_batch_of_the_cpu(policy: Any) -> None:
    jitter = [0.4, 0.5, 0.6, 0.2]  # with the hue, which has its steps among the layers
    settings = {**ALL, "auto_augment": policy, "cutmix": 1.0, "color_jitter": jitter}
    augmentation, given = ready(**settings), batch(size=24)
    size = PREPROCESS.img_size
    expected = augmentation(given.x, given.y, given.address, size=size, normalise=PREPROCESS)
    plan = augmentation.plan(given.address, (3, 24, 24), size, "cuda")
    found = apply_stages(
        given.x, given.y, plan, size=size, padding=4, num_classes=4, normalise=PREPROCESS
    )
    assert all(map(torch.equal, found, expected))


def augment_on_device(settings: dict[str, Any]) -> FakeDevice:
    """The batch of ``settings`` augmented on the fake device, and what that asked of it."""
    given = batch()
    with fake_device() as gpu:
        x, y = given.x.to(DEVICE), given.y.to(DEVICE)
        for _ in range(2):  # the first time makes tensors that are kept
            gpu.forget()
            normalise = PREPROCESS.on(DEVICE)
            ready(**settings)(x, y, given.address, size=(16, 16), normalise=normalise)
    return gpu


@pytest.fixture(autouse=True)
def forget_the_numbers_of_the_fake_device() -> Iterator[None]:
    yield
    _scale_and_shift.cache_clear()


def test_a_device_gets_all_plans_in_one_copy_and_few_launches() -> None:
    recipe = {"crop_padding": 4, "flip": True, "auto_augment": "randaugment", "erasing": 0.25}
    gpu = augment_on_device({**recipe, "mixup": 0.8, "cutmix": 1.0})  # those of cifar10.yaml
    assert gpu.copies == 1
    assert gpu.waits == []
    assert gpu.launches.total() <= MAX_LAUNCHES


def test_the_hue_is_jittered_in_its_turn_without_a_wait() -> None:
    strengths = (0.4, 0.5, 0.6, 0.2)
    x = batch().x
    for step in colour.jitter_steps("", draws("color_jitter", 5), strengths).values():
        x = colour.shift_hue(x, step) if isinstance(step, Tensor) else in_layers(x, step)
    settings = {"color_jitter": list(strengths)}
    assert torch.equal(augmented(ready(**settings), batch()).x, PREPROCESS(x))
    gpu = augment_on_device(settings)
    assert (gpu.copies, gpu.waits) == (1, [])


@pytest.mark.slow
def test_a_compiler_takes_the_whole_augmentation_as_one_graph() -> None:
    torch.compiler.reset()
    settings = {**ALL, "cutmix": 1.0, "color_jitter": [0.4, 0.5, 0.6, 0.2]}
    augmentation, given = ready(**settings), batch()
    plan = augmentation.plan(given.address, (3, 16, 16), (16, 16), "cuda")
    options = {"size": (16, 16), "padding": 4, "num_classes": 4}
    normalise = PREPROCESS.on(torch.device("cpu"))
    compiled = torch.compile(apply_stages, fullgraph=True, dynamic=False, backend="aot_eager")
    found = compiled(given.x, given.y, plan, normalise=normalise, **options)
    expected = apply_stages(given.x, given.y, plan, normalise=normalise, **options)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"off_last": {"blur": 0.5}}, "off_last blur 0.5 has no effect, since blur is off"),
        ({"off_last": {"mix": 0.5}, "cutmix": 1.0, "mix_prob": 0.0}, "off_last mix 0.5 has no"),
        ({"off_last": {"mix": 1.0}, "cutmix": 1.0}, "off_last mix 1.0 switches mix off in all"),
        ({"off_last": {"mix": 0.5}, "cutmix": 1.0}, None),
        ({"off_last": {"resized_crop": 0.5}, "resized_crop": [0.5, 1.0]}, None),
        ({"mix_prob": 0.5}, "mix_prob has no effect without mixup or cutmix"),
        ({"mix_prob": 0.5, "mixup": 0.2}, None),
        ({"resized_crop_ratio": [1.0, 1.0]}, "resized_crop_ratio has no effect without"),
        ({"resized_crop_ratio": [0.75, 4 / 3]}, None),  # the usual one
        ({"resized_crop_ratio": [1.0, 1.0], "resized_crop": [0.5, 1.0]}, None),
        ({"rand_augment_ops": 3, "auto_augment": "trivialaugment"}, "are for auto_augment rand"),
        ({"rand_augment_magnitude": 5, "auto_augment": "randaugment"}, None),
    ],
    ids=str,
)
def test_what_changes_nothing_is_told(
    settings: dict[str, Any], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    Augmentation(**settings).of_run(4)
    if words is None:
        assert not caplog.text
    else:
        assert words in caplog.text
