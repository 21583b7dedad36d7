"""Losses on class posteriors. Every divergence is in nats, averaged over the batch, and 0 for a perfect student."""

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-8  # a stored probability of 0 is one that was too small to keep


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled images of a batch; 0 where none is labelled.

    Args:
        logits: (B, classes).
        labels: (B,) class indices; -1 where an image has no label.
    """
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def spread(top: Tensor, index: Tensor, classes: int) -> Tensor:
    """Rebuild probabilities (B, classes) from the top-K (B, K) and their classes (B, K).

    The mass that is missing from the top-K goes to the other classes in equal parts (TinyViT, arXiv 2207.10666,
    section 3.1); with K = classes the rows are scaled to sum to 1 (they are off by rounding alone).
    """
    others = classes - top.shape[1]
    total = top.sum(1, keepdim=True)
    if others == 0:
        top, rest = top / total, torch.zeros_like(total)
    else:
        top = top / total.clamp_min(1)
        rest = (1 - total).clamp_min(0) / others
    return rest.expand(-1, classes).clone().scatter_(1, index, top)


def softened(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities (B, classes) raised to 1/T and normalised: what softening the logits behind them gives."""
    return torch.softmax(probabilities.clamp(min=_TINY).log() / temperature, 1)


def soft_divergence(logits: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """Softened Kullback-Leibler divergence teacher || student, times T² (Hinton et al., arXiv 1503.02531).

    Args:
        logits: (B, classes) of the student.
        probabilities: (B, classes) of the teacher at temperature 1.
        temperature: T > 0.

    Returns:
        The mean over the batch, in nats.
    """
    target = softened(probabilities, temperature)
    return F.kl_div(F.log_softmax(logits / temperature, 1), target, reduction="batchmean") * temperature**2


def top_k_divergence(logits: Tensor, top: Tensor, index: Tensor, temperature: float) -> Tensor:
    """``soft_divergence`` from a posterior of which only the top-K probabilities (B, K) of classes (B, K) are known."""
    return soft_divergence(logits, spread(top, index, logits.shape[1]), temperature)


def superclass_divergence(logits: Tensor, probabilities: Tensor, superclasses: Tensor, temperature: float) -> Tensor:
    """``soft_divergence`` between the posteriors of superclasses, whose probability is the sum over their classes.

    Args:
        logits: (B, classes) of the student.
        probabilities: (B, classes) of the teacher.
        superclasses: (classes,) int64, the superclass of each class, in 0 ... G - 1, each with a class.
        temperature: T > 0.
    """
    groups = F.one_hot(superclasses).to(logits.dtype)  # (classes, G)
    own = (logits.softmax(1) @ groups).clamp(min=_TINY).log()  # (B, G)
    return soft_divergence(own, probabilities @ groups, temperature)


def decoupled_divergence(
    logits: Tensor, probabilities: Tensor, labels: Tensor, temperature: float, beta: float = 2.0
) -> Tensor:
    """Decoupled distillation: target against the rest, plus beta times the rest among itself, times T².

    Source: Zhao et al., arXiv 2203.08679, eq. 7, with alpha = 1. The plain divergence weights the second part by the
    teacher's mass outside the target, which silences it where the teacher is sure. Where an image has no label, the
    teacher's most likely class is the target (our definition).

    Args:
        logits: (B, classes) of the student.
        probabilities: (B, classes) of the teacher.
        labels: (B,), -1 where unknown.
        temperature: T > 0.
        beta: Weight of the second part.
    """
    target = torch.where(labels >= 0, labels, probabilities.argmax(1))[:, None]  # (B, 1)
    teacher = probabilities.clamp(min=_TINY).log() / temperature
    student = logits / temperature
    binary = [
        torch.cat([p.gather(1, target), 1 - p.gather(1, target)], 1) for p in (teacher.softmax(1), student.softmax(1))
    ]
    first = F.kl_div(binary[1].clamp(min=_TINY).log(), binary[0], reduction="batchmean")
    hide = torch.zeros_like(logits).scatter_(1, target, -torch.inf)
    rest = (teacher + hide).softmax(1)
    # What is hidden is 0 on both sides; its log is never looked at.
    own = F.log_softmax(student + hide, 1).masked_fill(hide.isinf(), 0.0)
    second = F.kl_div(own, rest, reduction="batchmean")
    return (first + beta * second) * temperature**2
