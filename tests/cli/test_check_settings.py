"""Settings that contradict each other, and what is said of those that a recipe did not foresee."""

from typing import Any

import pytest

from vitlit.cli.check_settings import (
    check_checkpoints,
    check_early_stopping,
    check_recipe,
    global_batch_line,
)
from vitlit.errors import InputError


@pytest.mark.parametrize(
    ("images", "processes", "accumulated", "made_for", "line"),
    [
        (512, 1, 1, 0, "global batch 512"),
        (512, 1, 1, 512, "global batch 512"),
        (64, 8, 1, 512, "global batch 512: 8 processes of 64 images"),
        (64, 1, 8, 512, "global batch 512: 8 accumulated batches of 64 images"),
        (32, 4, 2, 0, "global batch 256: 4 processes of 2 accumulated batches of 32 images"),
        (
            512,
            8,
            1,
            512,
            "global batch 4,096: 8 processes of 512 images; the recipe was made for 512: give "
            "--data.batch_size 64 for the same, or a --model.lr that suits this one",
        ),
        (
            512,
            3,
            1,
            512,
            "global batch 1,536: 3 processes of 512 images; the recipe was made for 512: give a "
            "--model.lr that suits this one",
        ),
        (
            128,
            1,
            1,
            1024,
            "global batch 128; the recipe was made for 1,024: give --data.batch_size 1024 for the "
            "same, or a --model.lr that suits this one",
        ),
    ],
)
def test_the_images_of_an_update_are_told(
    images: int, processes: int, accumulated: int, made_for: int, line: str
) -> None:
    assert global_batch_line(images, processes, accumulated, made_for) == line


def test_a_recipe_is_made_for_no_negative_batch() -> None:
    with pytest.raises(InputError, match=r"recipe\.global_batch -8 is not valid; give 0 or more"):
        check_recipe(-8)


@pytest.mark.parametrize("name", ["every_n_steps", "every_minutes"])
def test_a_negative_time_between_checkpoints_is_refused(name: str) -> None:
    usual: dict[str, Any] = {"every_n_steps": 0, "every_minutes": 0, "monitor": "val/acc"}
    check_checkpoints(**usual)
    with pytest.raises(InputError, match=rf"checkpoints\.{name} -1 is not valid"):
        check_checkpoints(**{**usual, name: -1})


@pytest.mark.parametrize("name", ["patience", "min_delta"])
def test_a_negative_patience_is_refused(name: str) -> None:
    usual = {"patience": 0, "min_delta": 0}
    check_early_stopping(**usual)
    with pytest.raises(InputError, match=rf"early_stopping\.{name} -1 is not valid"):
        check_early_stopping(**{**usual, name: -1})
