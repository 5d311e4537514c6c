"""What an experienced colleague would remark on a training that has ended; at most two remarks.

rows of the history, facts about data and model -> sentences, the weightiest first

Each remark is a function that returns None unless it is true of this training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitlit.files import printable
from vitlit.messages import counted, shorten

MAX_HINTS = 2
FEW_STEPS = 100  # updates below which a transformer has hardly begun to learn
DEVIATIONS = 2  # standard deviations that chance explains
RISE, MIN_RISING = 1.1, 3  # of the validation loss over its minimum, and epochs since
RISING_SHARE = 0.1  # of all epochs; the minimum of a long training has to lie further back
FALL = 0.05  # share by which the loss fell between the last two tenths of the epochs
MIN_EPOCHS = 5  # with validation, from which on a course can be seen
UNBALANCED, GAP = 5, 0.05  # images of the most common class to one of the rarest; of accuracies
MANY_TOKENS = 1000  # of an image
NAME_LETTERS = 20

Row = dict[str, float]  # as training/history.py makes them


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a training was about.

    train_counts, val_counts: images by class; steps: updates that were done; warmup: updates of it;
    is_weighted: whether classes have weights; tokens: of an image; img_size: as the user gave it,
    None if not; is_folder: whether the images are the user's own; is_pretrained: whether it began
    with published weights.
    """

    class_names: Sequence[str]
    train_counts: Sequence[int]
    val_counts: Sequence[int]
    steps: int
    warmup: int
    is_weighted: bool
    tokens: int
    img_size: object
    is_folder: bool
    is_pretrained: bool


def hints(rows: Sequence[Row], facts: Facts) -> list[str]:
    """The weightiest remarks that are true, at most MAX_HINTS."""
    # What has hardly begun or guesses is explained by that; its course and classes say nothing.
    early = too_few_steps(rows, facts)
    blind, guesses = blind_validation(rows, facts), None
    if not (early or blind):
        guesses = predicts_one_class(rows, facts) or at_chance(rows, facts)
    if early or guesses or blind:
        found = [blind, early or guesses, many_tokens(facts)]
    else:
        found = [overfitting(rows), rare_classes(rows, facts), still_falling(rows)]
        found.append(many_tokens(facts))
    return [text for text in found if text][:MAX_HINTS]


def _column(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
    """Epochs, counted from 1, and values of a column."""
    return [
        (round(row["epoch"]) + 1, row[name])
        for row in rows
        if math.isfinite(row.get(name, math.nan))
    ]


def predicts_one_class(rows: Sequence[Row], facts: Facts) -> str | None:
    """Every validation image got the same class, as the last two accuracies show."""
    scored = [row for row in rows if "val/acc" in row and "val/balanced_acc" in row]
    present = [count for count in facts.val_counts if count]
    if not scored or len(present) < 2:
        return None
    # One class is always right, which makes the mean recall 1/K; its share is the accuracy.
    last, total = scored[-1], sum(present)
    is_one = math.isclose(last["val/balanced_acc"], 1 / len(present), rel_tol=1e-4)
    shares = [count / total for count in present]
    if not is_one or not any(
        math.isclose(last["val/acc"], share, rel_tol=1e-4) for share in shares
    ):
        return None
    return (
        "the model predicts one class for every validation image; try a lower --model.lr or a "
        "longer --model.warmup_epochs, and check the labels"
    )


def blind_validation(rows: Sequence[Row], facts: Facts) -> str | None:
    """The validation images are too few, or too alike, to tell any accuracy from chance."""
    if (found := _chance(rows, facts)) is None:
        return None
    best, share, bound = found
    total = sum(facts.val_counts)
    if share == 1:
        return (
            f"all validation images ({total}) are of one class, so their accuracy tells nothing; "
            f"use more images, or a larger --data.val_fraction"
        )
    if bound >= 1:  # even a perfect score could be chance
        return (
            f"{total} validation images are too few to tell accuracy {best:.3f} from chance "
            f"({share:.3f} for always naming the most common class); use more images, or a larger "
            f"--data.val_fraction"
        )
    return None


def at_chance(rows: Sequence[Row], facts: Facts) -> str | None:
    """The best accuracy is not above that of always guessing the most common class."""
    if (found := _chance(rows, facts)) is None or found[0] > found[2]:
        return None
    best, share, _ = found
    return (
        f"validation accuracy {best:.3f} is no better than chance ({share:.3f} for always naming "
        f"the most common class); try another --model.lr, and check the labels"
    )


def _chance(rows: Sequence[Row], facts: Facts) -> tuple[float, float, float] | None:
    """The best accuracy, that of always guessing the most common class, and what chance reaches."""
    scores, total = _column(rows, "val/acc"), sum(facts.val_counts)
    if not scores or not total:
        return None
    share = max(facts.val_counts) / total
    bound = share + DEVIATIONS * math.sqrt(share * (1 - share) / total)
    return max(score for _, score in scores), share, bound


def too_few_steps(rows: Sequence[Row], facts: Facts) -> str | None:
    """The training ended within its warmup, or after hardly any updates."""
    if not rows:
        return None
    if facts.warmup and facts.steps <= facts.warmup:
        return (
            f"the training ended within its warmup ({facts.steps:,} of {facts.warmup:,} updates); "
            f"give more epochs, or a shorter warmup"
        )
    if facts.steps >= FEW_STEPS or facts.is_pretrained:
        return None
    return (
        f"in {counted(facts.steps, 'update')} a model learns little; give more "
        f"--trainer.max_epochs or a smaller --data.batch_size"
    )


def overfitting(rows: Sequence[Row]) -> str | None:
    """The validation loss rose for long while the training loss fell."""
    losses, trained = _column(rows, "val/loss"), dict(_column(rows, "train/loss_epoch"))
    if len(losses) < MIN_EPOCHS:
        return None
    epoch, lowest = min(losses, key=lambda pair: pair[1])
    last, since = losses[-1][0], len([one for one, _ in losses if one > epoch])
    # the mean of the last ones: a single validation may be off
    final = sum(loss for _, loss in losses[-MIN_RISING:]) / MIN_RISING
    is_long = since >= max(MIN_RISING, RISING_SHARE * len(losses))
    falls = trained.get(last, math.inf) < trained.get(epoch, -math.inf)
    if not (is_long and falls and final > RISE * lowest):
        return None
    return (
        f"overfitting since epoch {epoch}: the validation loss rose from {lowest:.3f} to "
        f"{final:.3f} while the training loss fell; more augmentation, --model.drop_path_rate 0.1 "
        f"or published weights help"
    )


def rare_classes(rows: Sequence[Row], facts: Facts) -> str | None:
    """Rare classes are recognised less often than others, and the loss does not weight them."""
    scored = [row for row in rows if "val/acc" in row and "val/balanced_acc" in row]
    present = {i: count for i, count in enumerate(facts.train_counts) if count}
    if facts.is_weighted or not scored or len(present) < 2:
        return None
    rare, common = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
    last = scored[-1]
    harms = last["val/acc"] - last["val/balanced_acc"] >= GAP
    if present[common] < UNBALANCED * present[rare] or not harms:
        return None
    name = shorten(printable(facts.class_names[rare]), NAME_LETTERS)
    return (
        f"rare classes are recognised badly: balanced accuracy is "
        f"{last['val/balanced_acc']:.3f}, accuracy {last['val/acc']:.3f} ({name} has "
        f"{present[rare]} of the training images); try --model.class_weights balanced"
    )


def still_falling(rows: Sequence[Row]) -> str | None:
    """The validation loss was falling when the training ended."""
    losses = [loss for _, loss in _column(rows, "val/loss")]
    if len(losses) < MIN_EPOCHS:
        return None
    # the last tenth of the epochs against the one before: a cosine schedule is flat there
    size = max(2, len(losses) // 10)
    before, last = (sum(part) / size for part in (losses[-2 * size : -size], losses[-size:]))
    # and within the last tenth too, or it has just become flat
    if last > (1 - FALL) * before or losses[-1] > (1 - FALL) * losses[-size - 1]:
        return None
    return (
        f"the validation loss was still falling at the end ({before:.3f} to {last:.3f} in the last "
        f"{2 * size} epochs); more --trainer.max_epochs would help"
    )


def many_tokens(facts: Facts) -> str | None:
    """Images of a folder were cut into many tokens at a size that the user did not choose."""
    if not facts.is_folder or facts.img_size is not None or facts.tokens < MANY_TOKENS:
        return None
    return (
        f"each image has {facts.tokens:,} tokens, because img_size was not given; a smaller "
        f"--data.img_size or a larger --model.patch_size is much faster"
    )
