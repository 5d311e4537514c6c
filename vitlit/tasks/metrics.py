"""Metrics of training and evaluation, averaged over samples; rows that fill a batch do not count.

logits (B, num_classes), labels (B,), IGNORED for rows that do not count -> loss, top-1, top-5,
                                                                            balanced accuracy
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.tasks.task import Combine

IGNORED = -1  # label of rows that do not count
# training batches that are counted at once: a dozen small operations cost less once than each time
COUNTED_TOGETHER = 20


class TrainSums:
    """Loss, accuracy and agreement with a teacher in an epoch of training, summed on the device.

    :meth:`sums` gives float32 ``(5,)``: loss, top-1 hits, top-5 hits, samples, and those of which
    student and teacher say the same class.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(5, device=device)
        # loss, logits, targets, the teacher's logits
        self._waiting: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def add(
        self, loss: Tensor, logits: Tensor, targets: Tensor, teacher: Tensor | None = None
    ) -> None:
        """One batch: its mean loss, logits ``(B, K)``, targets ``(B,)`` or mixed ``(B, K)``.

        teacher: its logits ``(B, K)``, if there is one.
        """
        # detached: the graph of twenty batches would stay in memory
        self._waiting.append((loss.detach(), logits.detach(), targets, teacher))
        if len(self._waiting) == COUNTED_TOGETHER:
            self.sums()

    def sums(self) -> Tensor:
        """The sums, with the waiting batches, which must all be of one size, added."""
        if self._waiting:
            columns = (list(column) for column in zip(*self._waiting, strict=True))
            losses, logits, targets, teachers = columns
            self._waiting.clear()
            # of mixed targets the larger part is the label
            labels = torch.cat([y.argmax(dim=1) if y.ndim == 2 else y for y in targets])
            both = torch.cat(logits)
            # argmax, as in Scores: of equal logits topk takes any
            answers = both.argmax(dim=1)
            among = both.topk(min(5, both.shape[1])).indices == labels[:, None]  # (n, 5)
            loss = torch.stack(losses).float().mean()  # batches are of one size, so means average
            # filled on the device: copying a number there would wait for it
            count = torch.full_like(loss, len(labels))
            agreed = torch.zeros_like(loss)
            if teachers[0] is not None:
                agreed = (answers == torch.cat(teachers).argmax(dim=1)).sum()
            right = (answers == labels).sum()
            self._sums += torch.stack([loss * count, right, among.sum(), count, agreed])
        return self._sums

    def means(self, sum_up: Combine = lambda own: own) -> dict[str, Tensor]:
        """The averages so far: loss_epoch, acc, acc5, and agreement with a teacher."""
        loss, right, among, count, agreed = self.sums().unbind()
        return {
            "loss_epoch": loss / count,
            "acc": right / count,
            "acc5": among / count,
            "teacher_agreement": agreed / count,
        }

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""
        self._sums[: len(sums)] = sums.to(self._sums)  # earlier versions saved no agreement
        self._waiting.clear()


class Scores:
    """Loss, top-1, top-5 (of more than 5 classes) and balanced accuracy of a split, over samples.

    Sums on the device of the logits, which nothing waits for. Balanced accuracy is the mean recall
    of the classes that have images, as scikit-learn's balanced_accuracy_score.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.reset()

    def reset(self, device: torch.device | None = None) -> None:
        """Forget all images."""
        self.loss = torch.zeros((), device=device)  # of all images together
        self.right, self.among_five = (
            torch.zeros((), dtype=torch.long, device=device) for _ in range(2)
        )
        self.class_images, self.class_right = (
            torch.zeros(self.num_classes, device=device) for _ in range(2)
        )

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits ``(B, K)``; targets ``(B,)``, IGNORED for rows that do not count."""
        if self.loss.device != logits.device:  # the first batch
            self.reset(logits.device)
        # added as 0, not selected: a selection waits for the device to tell its size
        counts = (targets != IGNORED).to(self.class_images)
        # float32: log-softmax in bfloat16 keeps two to three digits
        total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
        self.loss += total
        right = logits.argmax(dim=1) == targets  # never where the target is IGNORED
        self.right += right.sum()
        if self.num_classes > 5:
            self.among_five += (logits.topk(5, dim=1).indices == targets[:, None]).sum()
        places = targets.clamp(min=0)  # IGNORED is no index
        self.class_images.index_add_(0, places, counts)
        self.class_right.index_add_(0, places, right.to(counts))

    def compute(
        self, sum_up: Combine = lambda own: own, gather: Combine = lambda own: own
    ) -> dict[str, Tensor]:
        """loss, count, acc, balanced_acc and, of more than 5 classes, acc5; 0 without images.

        With several processes each must call it, with their way to sum up; none is gathered.
        """
        loss, right, among_five, class_images, class_right = map(
            sum_up,
            (self.loss, self.right, self.among_five, self.class_images, self.class_right),
        )
        count = class_images.sum()
        images = count.clamp(min=1)
        recall = class_right / class_images.clamp(min=1)
        found = {
            "loss": loss / images,
            "count": count,
            "acc": right / images,
            "balanced_acc": recall.sum() / (class_images > 0).sum().clamp(min=1),
        }
        if self.num_classes > 5:  # of five classes or fewer it is always 1
            found["acc5"] = among_five / images
        return found
