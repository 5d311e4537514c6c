"""The augmentation of a batch of training images, on the device of the model.

uint8 (B, C, h, w), labels (B,) -> float (B, C, H, W), labels (B,) or targets (B, num_classes)

Order: resized crop, crop, flips, quarter turns, rotation, policy, 3-Augment, colour jitter,
grayscale, blur; normalise; erasing; MixUp or CutMix. Each stage has its own stream of addresses, so
switching one on does not change the draws of the others.
"""

import copy
import math
from collections.abc import Callable

from torch import Tensor

from vitlit.augment.colour import colour_settings
from vitlit.augment.geometric import (
    CROP_DRAWS,
    ERASING_DRAWS,
    FLIP_DRAWS,
    RESIZED_CROP_DRAWS,
    ROTATION_DRAWS,
    crop_plan,
    erasing_plan,
    flip_plan,
    resized_crop_boxes,
    rotation_plan,
)
from vitlit.augment.layers import Shape
from vitlit.augment.mixing import mixing_plan
from vitlit.augment.policies import Policy, check_policy, policy_draws, policy_layers
from vitlit.augment.setting_checks import (
    check_degrees,
    check_final_epoch,
    check_finite,
    check_image,
    check_off_last,
    check_shares,
    positive_range,
    tell_idle,
    tell_unused,
)
from vitlit.augment.stages import STAGES, Plan, Stage, apply_stages, policy_plan, send_plan
from vitlit.augment.turns import (
    QUARTER_TURN_DRAWS,
    VERTICAL_FLIP_DRAWS,
    quarter_turn_plan,
    vertical_flip_plan,
)
from vitlit.errors import check_at_least
from vitlit.seeding import BatchAddress, Stream, address, uniform, uniform_of_keys

CROP_RATIO = (3 / 4, 4 / 3)  # width / height of resized crops, as in torchvision
RAND_AUGMENT = {"num_ops": 2, "magnitude": 9}


class Augmentation:
    """The settings of all random stages, and the stages themselves.

    Args:
        seed: Decides the draws, together with the epoch and the sample.
        num_classes: Columns of the targets when images are mixed.
        crop_padding: Pixels of black around a training image before a random crop of its size.
        flip: Mirror training images horizontally with probability one half.
        resized_crop: Smallest and largest share of a training image's area that is cropped and
            resized to img_size, such as [0.08, 1.0]. Data sets larger than memory_gb are cropped
            at the full resolution of their files, others at the size held in memory.
        resized_crop_ratio: Smallest and largest width / height of that crop; 3/4 and 4/3 by
            default.
        rotation: Rotate training images by up to this many degrees either way.
        auto_augment: Policy: autoaugment (that of CIFAR-10), randaugment, trivialaugment or none.
        rand_augment_ops: Number of operations that randaugment applies in turn.
        rand_augment_magnitude: Strength of randaugment's operations, 0 to 30.
        vertical_flip: Turn training images upside down with probability one half.
        quarter_turns: Turn square training images by 0, 90, 180 or 270 degrees, equally likely.
        three_augment: 3-Augment (DeiT III): makes each image grey, solarised or blurred, and then
            jitters its colours, by 0.3 if color_jitter gives no other strengths.
        color_jitter: Strengths of changes of brightness, contrast and saturation, from 0 to 1, such
            as [0.4, 0.4, 0.4], in a random order; a fourth number, up to 0.5, turns the hue.
        grayscale: Probability that a training image loses its colours.
        blur: Probability of a Gaussian blur, of 0.1 to 2 pixels.
        repeated_augment: How often each image is in its batch, augmented differently each time; an
            epoch keeps its number of batches, with fewer different images. It must divide
            batch_size.
        erasing: Probability that a rectangle of a training image is erased, after normalisation.
        mixup: MixUp's alpha: the larger, the more even the mixture; 0 is off. With mixup or
            cutmix the targets are soft, and train/acc counts the class with the larger share.
        cutmix: CutMix's alpha; 0 is off. With both, each image takes one of them.
        mix_prob: Share of the images that are mixed.
        off_last: Share of the epochs at the end in which a stage is off, such as {mix: 0.4},
            rounded up to whole epochs. Stages are resized_crop, crop (crop_padding), flip,
            rotation, auto_augment, erasing, mix (mixup and cutmix), vertical_flip, quarter_turns,
            three_augment, color_jitter, grayscale and blur.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        num_classes: int = 10,
        crop_padding: int = 0,
        flip: bool = False,
        resized_crop: list[float] | None = None,
        resized_crop_ratio: list[float] | None = None,
        rotation: float = 0.0,
        auto_augment: Policy = "none",
        rand_augment_ops: int = 2,
        rand_augment_magnitude: int = 9,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_prob: float = 1.0,
        off_last: dict[str, float] | None = None,
        vertical_flip: bool = False,
        quarter_turns: bool = False,
        three_augment: bool = False,
        color_jitter: list[float] | None = None,
        grayscale: float = 0.0,
        blur: float = 0.0,
        repeated_augment: int = 1,
    ) -> None:
        check_at_least(0, crop_padding=crop_padding)
        check_at_least(1, repeated_augment=repeated_augment)
        check_degrees(rotation=rotation)
        check_finite(mixup=mixup, cutmix=cutmix)
        check_shares(erasing=erasing, mix_prob=mix_prob)
        check_off_last(off_last or {}, STAGES)
        check_policy(auto_augment, rand_augment_ops, rand_augment_magnitude)
        self.seed, self.num_classes = seed, num_classes
        self.crop_padding, self.flip, self.rotation = crop_padding, flip, rotation
        self.resized_crop = resized_crop is not None
        self.scale = positive_range("resized_crop", resized_crop, (1.0, 1.0), maximum=1.0)
        # an arbitrary limit, which refuses infinity
        self.ratio = positive_range(
            "resized_crop_ratio", resized_crop_ratio, CROP_RATIO, maximum=1e4
        )
        self.vertical_flip, self.quarter_turns = vertical_flip, quarter_turns
        self.colour = colour_settings(color_jitter, grayscale, blur, three_augment)
        self.repeats = repeated_augment
        self.auto_augment = auto_augment
        self.rand_augment = {"num_ops": rand_augment_ops, "magnitude": rand_augment_magnitude}
        self.erasing = erasing
        self.mixup, self.cutmix, self.mix_prob = mixup, cutmix, mix_prob
        self.off_last = dict(off_last or {})
        self.epochs: int | None = None  # of the whole run; only of_run knows them

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise InputError if a setting does not fit images of ``size`` (height, width)."""
        check_image(size, crop_padding=self.crop_padding, quarter_turns=self.quarter_turns)

    def check_epochs(self, epochs: int | None) -> None:
        """Raise InputError if ``off_last`` is set and the last epoch is unknown (None or -1)."""
        check_final_epoch(self.off_last, epochs)

    def of_run(self, epochs: int | None, steps: int = -1) -> "Augmentation":
        """A copy that knows the number of epochs, which ``off_last`` counts from the end.

        steps: max_steps, which may end the run earlier: ``off_last`` does not count from it.
        """
        self.check_epochs(epochs)
        tell_unused(
            mix_prob=self.mix_prob != 1 and not self.mixes,
            resized_crop_ratio=self.ratio != CROP_RATIO and not self.resized_crop,
            rand_augment=self.rand_augment != RAND_AUGMENT and self.auto_augment != "randaugment",
        )
        tell_idle(self.off_last, self._stages(), epochs, steps)
        # a copy: the settings may serve another run of another length
        found = copy.copy(self)
        found.epochs = epochs
        return found

    @property
    def mixes(self) -> bool:
        """Whether targets are soft, ``(B, num_classes)``, which is the same in all epochs."""
        return self.mixup > 0 or self.cutmix > 0

    def is_on(self, stage: Stage, epoch: int) -> bool:
        """Whether the stage is still on in this epoch, according to ``off_last``."""
        if stage not in self.off_last or self.epochs is None:
            return True
        # rounded first: 0.07 * 100 is slightly above 7 in floating point, and would become 8
        off = math.ceil(round(self.off_last[stage] * self.epochs, 6))
        return epoch < self.epochs - off

    def _key(self, stage: Stage, epoch: int) -> int:
        """The key of a stage's draws; each sample has its own row of them."""
        return address(self.seed, Stream.AUGMENT, epoch, STAGES.index(stage))

    def crop_draws(self, sample: Tensor, epoch: int) -> Tensor | None:
        """Draws ``(B, 22)`` of the resized crop for samples ``(B,)``; None if it is off."""
        if not self.resized_crop or not self.is_on("resized_crop", epoch):
            return None
        return uniform(self._key("resized_crop", epoch), sample, RESIZED_CROP_DRAWS)

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        at: BatchAddress,
        *,
        size: tuple[int, int],
        normalise: Callable[[Tensor], Tensor],
        cropped: bool = False,
        apply: Callable[..., tuple[Tensor, Tensor]] = apply_stages,
    ) -> tuple[Tensor, Tensor]:
        """Augment and normalise images uint8 ``(B, C, h, w)`` with labels ``(B,)``.

        at: the address that the draws follow from; size: (H, W) in pixels; normalise: uint8
        ``(B, C, h, w)`` -> float ``(B, C, H, W)``; cropped: whether the loader has done the resized
        crop; apply: apply_stages, perhaps compiled. Returns images, and labels ``(B,)`` or soft
        targets ``(B, num_classes)``.
        """
        channels, height, width = x.shape[1:]
        shape, device = (channels, height, width), x.device
        plan = send_plan(self.plan(at, shape, size, device.type, cropped=cropped), device)
        return apply(
            x,
            y,
            plan,
            size=size,
            padding=self.crop_padding,
            num_classes=self.num_classes if self.mixes else None,
            normalise=normalise,
        )

    def plan(
        self,
        at: BatchAddress,
        shape: Shape,
        size: tuple[int, int],
        device: str,
        *,
        cropped: bool = False,
    ) -> Plan:
        """What happens to each image of shape (C, h, w), on the CPU, stage by stage.

        device: type of the device that the images are on; for size and cropped see ``__call__``.
        """
        height, width = shape[1:]
        drawn = self._draws_of_all(at, cropped=cropped)
        found: dict[str, Tensor] = {}
        if (draws := drawn.get("resized_crop")) is not None:
            shapes = {"scale": self.scale, "ratio": self.ratio}
            boxes = resized_crop_boxes(draws, height=height, width=width, **shapes)
            found["resized_crop"] = boxes.float()
            height, width = size
        if (draws := drawn.get("crop")) is not None:
            found["crop"] = crop_plan(draws, self.crop_padding)
        if (draws := drawn.get("flip")) is not None:
            found["flip"] = flip_plan(draws)
        if (draws := drawn.get("vertical_flip")) is not None:
            found["vertical_flip"] = vertical_flip_plan(draws)
        if (draws := drawn.get("quarter_turns")) is not None:
            found["quarter_turns"] = quarter_turn_plan(draws)
        if (draws := drawn.get("rotation")) is not None:
            found["rotation"] = rotation_plan(draws, self.rotation)
        if (draws := drawn.get("auto_augment")) is not None:
            layers = policy_layers(self.auto_augment, draws, (height, width), **self.rand_augment)
            found.update(policy_plan("auto_augment", layers, (shape[0], height, width), device))
        for name, what in self.colour.layers(drawn).items():
            if isinstance(what, Tensor):
                found[name] = what
            else:
                found.update(policy_plan(name, what, (shape[0], height, width), device))
        if (draws := drawn.get("erasing")) is not None:
            found["erasing"] = erasing_plan(draws, size, probability=self.erasing)
        # where off_last has ended mixing, targets stay soft, so the loss stays the same function
        if self.mixes and self.mix_prob and self.is_on("mix", at.epoch):
            key = address(self.seed, Stream.AUGMENT, at.epoch, STAGES.index("mix"), at.key)
            alphas = (self.mixup, self.cutmix)
            found["mix"] = mixing_plan(key, len(at.sample), size, alphas, self.mix_prob)
        return found

    def _draws_of_all(self, at: BatchAddress, *, cropped: bool) -> dict[Stage, Tensor]:
        """The draws ``(B, k)`` of each stage that is on and has draws of its own."""
        columns = self._columns()
        if cropped:
            columns["resized_crop"] = 0
        on = [stage for stage, k in columns.items() if k and self.is_on(stage, at.epoch)]
        keys = {self._key(stage, at.epoch): columns[stage] for stage in on}
        return dict(zip(on, uniform_of_keys(keys, at.sample), strict=True)) if on else {}

    def _stages(self) -> set[str]:
        """The stages that these settings switch on."""
        mix = {"mix"} if self.mixes and self.mix_prob else set[str]()
        return mix | {stage for stage, k in self._columns().items() if k}

    def _columns(self) -> dict[Stage, int]:
        """How many draws each stage takes for a sample; 0 if it is off."""
        return {
            "resized_crop": RESIZED_CROP_DRAWS * self.resized_crop,
            "crop": CROP_DRAWS * (self.crop_padding > 0),
            "flip": FLIP_DRAWS * self.flip,
            "rotation": ROTATION_DRAWS * (self.rotation > 0),
            "auto_augment": policy_draws(self.auto_augment, **self.rand_augment),
            "erasing": ERASING_DRAWS * (self.erasing > 0),
            "vertical_flip": VERTICAL_FLIP_DRAWS * self.vertical_flip,
            "quarter_turns": QUARTER_TURN_DRAWS * self.quarter_turns,
            **self.colour.columns(),
        }
