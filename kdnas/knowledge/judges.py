"""What answers on the images of the architecture split are worth: they judge what no training may see."""

import torch
from torch import Tensor

from kdnas.data import Batch, Splits
from kdnas.knowledge.lessons import Lessons
from kdnas.run.seeds import generator

IMAGES = 4000
"""At most so many unlabelled images judge: beyond that a trial waits for its judge, and learns nothing more."""


def judges(lessons: Lessons, splits: Splits, seed: int, unlabelled: bool = True) -> tuple[Tensor, Tensor]:
    """The images that judge, and what each answer is worth.

    Args:
        lessons: Labels, and the stored knowledge that ``unlabelled`` needs.
        splits: Its architecture split judges.
        seed: Which of many unlabelled images.
        unlabelled: Images without a label judge too, an answer there being worth the teacher's probability of it.

    Returns:
        Ids (N,) int64, and the worth (N, classes) float64: 1 for a label and 0 for all else, or the posterior.
    """
    ids = splits.architecture_labelled
    worth = torch.nn.functional.one_hot(lessons.dataset.train_labels[ids], len(lessons.dataset.classes)).double()
    others = splits.architecture_unlabelled
    if not unlabelled or not len(others):
        return ids, worth
    others = others[torch.randperm(len(others), generator=generator(seed, "judges"))[:IMAGES]]
    parts = [worth]
    for part in others.split(500):  # a live teacher looks at no more at once
        batch = Batch(part, torch.full_like(part, -1), 0, (0, 0, 0))
        told = lessons(batch, torch.device("cpu"), pixels=False).probabilities
        assert told is not None
        parts.append(told.double())
    return torch.cat([ids, others]), torch.cat(parts)
