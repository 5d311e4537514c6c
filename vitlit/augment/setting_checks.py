"""Checks of the numbers that users give for augmentation; each names the setting and the rule."""

import math
from collections.abc import Collection, Mapping, Sequence

from vitlit.errors import InputError, check_is_number, say


def positive_range(
    name: str, given: list[float] | None, usual: tuple[float, float], *, maximum: float
) -> tuple[float, float]:
    """The (smallest, largest) value of a setting; raises InputError for anything else."""
    values = usual if given is None else tuple(given)
    for value in values:
        check_is_number(name, value)
    if len(values) != 2 or not 0 < values[0] <= values[1] <= maximum:
        raise InputError(
            f"{name} {list(values)} must be two numbers, 0 < smallest <= largest <= {maximum:g}",
            argument=name,
        )
    return values


def check_finite(**values: float) -> None:
    """Raise InputError for a setting that is negative, infinite or not a number."""
    for name, value in values.items():
        check_is_number(name, value)
        if not 0.0 <= value < math.inf:
            raise InputError(
                f"{name} {value} is negative or not finite; give 0 or more", argument=name
            )


def check_degrees(**angles: float) -> None:
    """Raise InputError for an angle that is not from 0 to 180 degrees either way."""
    for name, value in angles.items():
        check_is_number(name, value)
        if not 0.0 <= value <= 180.0:
            raise InputError(
                f"{name} {value} is not from 0 to 180 degrees; give such an angle", argument=name
            )


def check_shares(**shares: float) -> None:
    """Raise InputError for a setting that is not from 0 to 1."""
    for name, value in shares.items():
        check_is_number(name, value)
        if not 0.0 <= value <= 1.0:
            raise InputError(f"{name} {value} is not a share; give one from 0 to 1", argument=name)


def check_image(size: tuple[int, int], *, crop_padding: int, quarter_turns: bool) -> None:
    """Raise InputError for a setting that does not fit images of ``size`` (height, width)."""
    if crop_padding > min(size):
        raise InputError(
            f"crop_padding {crop_padding} is larger than the image, {size[0]}x{size[1]} pixels; "
            f"give less",
            argument="crop_padding",
        )
    if quarter_turns and size[0] != size[1]:
        raise InputError(
            f"quarter_turns needs square images, not {size[0]}x{size[1]} pixels; leave it out, or "
            f"give a square img_size",
            argument="quarter_turns",
        )


def check_off_last(off_last: Mapping[str, float], stages: Sequence[str]) -> None:
    """Raise InputError for an unknown stage, or for what is no share of the epochs."""
    for stage, share in off_last.items():
        if stage not in stages:
            raise InputError(
                f"unknown stage {stage!r} in off_last; known: {', '.join(stages)} "
                f"(mix is mixup and cutmix, crop is crop_padding)",
                argument="off_last",
            )
        if not 0.0 <= share <= 1.0:
            message = f"off_last {stage} {share} is not a share of the epochs, 0 to 1"
            raise InputError(message, argument="off_last")


def check_final_epoch(off_last: Mapping[str, float], epochs: int | None) -> None:
    """Raise InputError if ``off_last`` is set and the last epoch is unknown (None or -1)."""
    if off_last and (epochs is None or epochs < 0):
        raise InputError(
            f"off_last {dict(off_last)} needs to know the final epoch; give max_epochs",
            argument="max_epochs",
        )


def tell_unused(*, mix_prob: bool, resized_crop_ratio: bool, rand_augment: bool) -> None:
    """Tell of settings that were changed and that nothing reads.

    No error, unlike for a model: a recipe may have them for a stage that an option switches off.
    """
    if mix_prob:
        say("mix_prob has no effect without mixup or cutmix")
    if resized_crop_ratio:
        say("resized_crop_ratio has no effect without resized_crop")
    if rand_augment:
        say("rand_augment_ops and rand_augment_magnitude are for auto_augment randaugment alone")


def tell_idle(
    off_last: Mapping[str, float], on: Collection[str], epochs: int | None, steps: int
) -> None:
    """Tell what of ``off_last`` a training of so many epochs, or steps, does not follow.

    on: the stages that the other settings switch on.
    """
    if off_last and steps > 0:
        say(f"off_last counts from max_epochs {epochs}, also if max_steps {steps} comes first")
    for stage, share in off_last.items():
        if stage not in on:
            say(f"off_last {stage} {share} has no effect, since {stage} is off in all epochs")
        elif share == 1:
            say(f"off_last {stage} {share} switches {stage} off in all epochs")
