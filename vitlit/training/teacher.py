"""A teacher: a frozen model whose answers to the same augmented images are learned too.

batch of a student: patches (B, N, C*P*P) or images (B, C, H, W) -> pixels -> the teacher's input
-> its logits (B, K), in the student's order of classes
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError, first_few, inform
from vitlit.files import expanded
from vitlit.images.preprocess import LUMA, Preprocess
from vitlit.patches import unpatchify
from vitlit.training.exported_program import load_program
from vitlit.weights.load import load

Answer = Callable[[Tensor], Tensor]  # normalised images (B, C, H, W) -> logits (B, K)
PROGRAM_ENDING = ".pt2"
MAX_DIFFERENCE = 1e-3  # of the largest logit, between two batches with the same image


class Teacher:
    """Answers the batches of a student; not a module, so that it is trained and saved by nobody.

    answer_on: gives the function of the model for a device; takes: how its images are prepared;
    columns: the teacher's class for each of the student's; data: how those of the student are.
    """

    def __init__(
        self,
        answer_on: Callable[[torch.device], Answer],
        takes: Preprocess,
        columns: list[int],
        data: PlainImageData,
    ) -> None:
        self._answer_on, self._takes, self._data = answer_on, takes, data
        self._columns = torch.tensor(columns)
        self.to(torch.device("cpu"))

    def to(self, device: torch.device) -> None:
        """Move the model, and the numbers that undo the student's normalisation."""
        self._answer = self._answer_on(device)
        self._columns = self._columns.to(device)
        gives = self._data.preprocess
        # here, once: copying them in a step would wait for the device
        self._mean, self._std, self._luma = (
            torch.tensor(row).view(1, -1, 1, 1).to(device) for row in (gives.mean, gives.std, LUMA)
        )

    @torch.no_grad()  # no inference mode: the backward pass of the loss could not use its tensors
    def __call__(self, x: Tensor) -> Tensor:
        """Logits float32 ``(B, K)`` for the inputs of a student's step."""
        return self._answer(self.images(x))[:, self._columns].float()

    def images(self, x: Tensor) -> Tensor:
        """The teacher's input for the inputs of a student's step: the same images."""
        gives, takes = self._data.preprocess, self._takes
        if self._data.patchify:
            x = unpatchify(x, self._data.patch_size, gives.img_size)
        pixels = x.float() * self._std + self._mean
        pixels = 255 * (1 - pixels if gives.invert else pixels)
        if takes.in_chans < gives.in_chans:  # as match_channels, whose weights come from the CPU
            pixels = (pixels * self._luma).sum(dim=1, keepdim=True).round()
        # contiguous: grey that is repeated is a view, and it is normalised in place
        return takes.on(x.device)(pixels.expand(-1, takes.in_chans, -1, -1).contiguous())


def load_teacher(source: str, data: PlainImageData, class_names: list[str]) -> Teacher:
    """The teacher that ``source`` names, for a student of these classes, on these data.

    source: what :func:`vitlit.load` takes except best and last, which would name another run when
    the training is resumed; or a program, model.pt2. Raises InputError if it cannot be read, has
    other classes, or does not take batches of the data's size.
    """
    if source in ("best", "last"):
        raise InputError(
            f"teacher {source} would be another run after a resume; give the folder of the run",
            argument="teacher",
        )
    path = expanded(source)
    if path.suffix == PROGRAM_ENDING and path.is_file():
        program = load_program(path)
        answer_on, takes, names = program.on, program.preprocess, program.class_names
        _check_program(answer_on(torch.device("cpu")), takes, len(names), data.batch_size, source)
    else:
        try:
            model, takes, names = load(source)
        except InputError as error:
            raise InputError(f"teacher: {error}", argument="teacher") from error
        model.requires_grad_(False)

        def answer_on(device: torch.device) -> Answer:
            return model.to(device).eval()

    if sorted(names) != sorted(class_names):
        raise InputError(
            f"the classes of teacher {source} ({first_few(names) if names else 'no head'}) are not "
            f"those of the data ({first_few(class_names)}); give a teacher that was trained on the "
            f"same classes, such as these weights fine-tuned on the data",
            argument="teacher",
        )
    size = "x".join(map(str, (takes.in_chans, *takes.img_size)))
    inform(f"teacher {source}: images of {size}, {len(names)} classes matched by name")
    return Teacher(answer_on, takes, [names.index(name) for name in class_names], data)


def _check_program(
    answer: Answer, takes: Preprocess, classes: int, count: int, source: str
) -> None:
    """Refuse a program that does not take batches of ``count``, or answers them not one by one."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, takes.in_chans, *takes.img_size)
    first, second = (torch.randn(shape, generator=generator) for _ in range(2))
    second[0] = first[0]
    try:
        with torch.no_grad():
            one, other = answer(first), answer(second)
    except Exception as error:  # programs check their input with many kinds of errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"teacher {source} cannot take a batch of {shape}: {reason}; export it with a dynamic "
            f"batch size, dynamic_shapes=({{0: torch.export.Dim('batch')}},)",
            argument="teacher",
        ) from error
    if not isinstance(one, Tensor) or one.shape != (count, classes):
        raise InputError(
            f"teacher {source} does not answer {count} images with logits ({count}, {classes}), "
            f"one for each of its class names; export a classifier",
            argument="teacher",
        )
    if count > 1 and not (one[0] - other[0]).abs().max() <= MAX_DIFFERENCE * one[0].abs().max():
        raise InputError(
            f"teacher {source} answers an image differently beside other images, as a model "
            f"does in training; call eval() on it and export it again",
            argument="teacher",
        )
