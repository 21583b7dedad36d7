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
    # Over all pairs of members of two clusters; each cluster stands where its first class does.
    total = (confused + confused.T).double() / 2
    size = torch.ones(len(total), dtype=torch.float64)
    first = torch.arange(len(total))  # of the cluster of each class
    for _ in range(len(total) - count):
        mean = torch.where(_pairs(size), total / (size[:, None] * size), -math.inf)
        a, b = divmod(int(mean.argmax()), len(mean))  # of equal ones the first, row by row
        total[a] += total[b]
        total[:, a] += total[:, b]
        size[a], size[b] = size[a] + size[b], 0.0
        first[first == b] = a
    return first.unique(return_inverse=True)[1]


def _pairs(size: Tensor) -> Tensor:
    """(C, C) bool: pairs of clusters that are left, each pair once, the earlier one first."""
    left = size > 0
    return (left[:, None] & left).triu(1)


def default_count(classes: int) -> int:
    """The square root of the number of classes, rounded: as many superclasses as classes in each; two at least."""
    return max(2, round(math.sqrt(classes)))
