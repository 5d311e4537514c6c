"""What an epoch of training adds up, against the scores of a split."""

import torch

from vitlit.tasks.metrics import Scores, TrainSums


def test_of_equal_logits_training_counts_the_class_that_scores_count() -> None:
    drawn = torch.randint(0, 3, (400, 100), generator=torch.Generator().manual_seed(0))
    logits, labels = drawn.bfloat16(), drawn.argmax(dim=1)
    sums, scores = TrainSums(torch.device("cpu")), Scores(100)
    sums.add(torch.zeros(()), logits, labels)
    scores.update(logits, labels)
    assert float(sums.means()["acc"]) == float(scores.right / len(labels)) == 1
