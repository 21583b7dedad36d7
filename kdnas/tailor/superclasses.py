"""Superclasses: classes that the teacher confuses with each other, found by clustering."""

import math

import torch
from torch import Tensor


def confusion(probabilities: Tensor) -> Tensor:
    """Mean posterior of the images that the teacher takes for each class.

    Args:
        probabilities: (N, C), rows that sum to 1. No label is needed: an image counts for the class of its largest
            posterior.

    Returns:
        (C, C) float64: entry (a, b) is how likely the teacher holds b where it says a; rows of 0 where it never says a.
    """
    classes = probabilities.shape[1]
    said = probabilities.argmax(1)
    total = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, said, probabilities.double())
    return total / torch.bincount(said, minlength=classes).clamp(min=1)[:, None]


def cluster(confused: Tensor, count: int) -> Tensor:
    """Agglomerative clustering with average linkage (UPGMA, Sokal and Michener 1958) on the symmetrised confusion.

    The two clusters whose members confuse each other most on average are joined until ``count`` are left; of equal
    pairs the one that comes first by class number is.

    Args:
        confused: (C, C), any scale; the diagonal is not looked at.
        count: Clusters that shall be left, 1 … C.

    Returns:
        (C,) int64, class to superclass; superclasses are numbered in the order of their first class.
    """
    similar = ((confused + confused.T) / 2).double()
    groups = [[number] for number in range(len(confused))]
    while len(groups) > count:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a + 1, len(groups))]
        a, b = max(pairs, key=lambda pair: (float(similar[groups[pair[0]]][:, groups[pair[1]]].mean()), _first(pair)))
        groups[a] += groups.pop(b)
    found = torch.empty(len(confused), dtype=torch.int64)
    for number, group in enumerate(sorted(groups, key=min)):
        found[group] = number
    return found


def _first(pair: tuple[int, int]) -> tuple[int, int]:
    """Of two pairs, the earlier one is the larger."""
    return -pair[0], -pair[1]


def default_count(classes: int) -> int:
    """The square root of the number of classes, rounded: as many superclasses as classes in each."""
    return max(1, round(math.sqrt(classes)))
