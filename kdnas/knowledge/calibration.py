"""How far a classifier's confidence can be trusted, and the one number that mends it."""

import torch
from torch import Tensor
from torch.nn import functional as F


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599, eq. 3).

    Args:
        probs: (N, classes), rows sum to 1.
        labels: (N,) int64.
        bins: Equal-width bins of confidence.

    Returns:
        The mean over images of |accuracy - confidence| of the bin that an image falls in; in [0, 1].
    """
    confidence, predicted = probs.max(1)
    # Bins are (k/bins, (k+1)/bins], as in the paper.
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (predicted == labels).to(torch.float64) - confidence.to(torch.float64)
    return float(torch.zeros(bins, dtype=torch.float64).index_add_(0, index, gap).abs().sum() / len(labels))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature in [0.1, 10] of least negative log-likelihood (arXiv 1706.04599, section 4.2).

    Args:
        logits: (N, classes), of images that the classifier did not learn from.
        labels: (N,) int64.
    """
    logits = logits.to(torch.float64)
    # -log p is convex in 1/T: golden-section search over it needs no gradient and cannot diverge.
    low, high = 0.1, 10.0
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if F.cross_entropy(logits * left, labels) < F.cross_entropy(logits * right, labels):
            high = right
        else:
            low = left
    return 2 / (low + high)
