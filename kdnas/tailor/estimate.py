"""An accuracy and its lower bound from few labels, with the teacher's posteriors of unlabelled images as a help."""

from statistics import NormalDist

from torch import Tensor

from kdnas.tailor.algorithm import Estimate


def estimate(correct: Tensor, hint: Tensor, more: Tensor, confidence: float) -> Estimate:
    """Accuracy over a population of which a few images have labels.

    The hint of an image is what its teacher's posterior gives to the student's answer. Labels correct the hints'
    bias, and the many hints lessen the variance of the few labels: prediction-powered inference with the best weight
    (Angelopoulos, Duchi, Zrnic, arXiv 2311.01453, section 3). The estimate is as unbiased with a bad teacher as with a
    good one, which only narrows it. The unit is the image: draws of one image are averaged before.

    Args:
        correct: (n,) share of the draws in which the student is right, n >= 2 labelled images.
        hint: (n,) of the same images, mean over draws.
        more: (m,) hints of images without a label; may be empty.
        confidence: Of the one-sided bound, in (0, 1); 0.5 makes it the estimate itself.
    """
    n, m, weight = len(correct), len(more), 0.0
    correct, hint, more = correct.double(), hint.double(), more.double()
    if m > 1 and float(hint.var()) > 0:
        together = float(((correct - correct.mean()) * (hint - hint.mean())).sum() / (n - 1))
        weight = min(1.0, max(0.0, together / (float(hint.var()) * (1 + n / m))))
    accuracy = float(correct.mean())
    if weight > 0:
        accuracy += weight * float(more.mean() - hint.mean())
    variance = float((correct - weight * hint).var()) / n
    if weight > 0:
        variance += weight**2 * float(more.var()) / m
    # No error among n images is no proof of none: never below the variance of half an error.
    variance = max(variance, 0.5 / n * (1 - 0.5 / n) / n)
    lower = accuracy - NormalDist().inv_cdf(confidence) * variance**0.5
    return Estimate(min(1.0, max(0.0, accuracy)), min(1.0, max(0.0, lower)))
