"""Each loss is a small function on normalised quantities; ``KnowledgeLoss`` is their weighted, named sum."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.errors import InputError


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled images of a batch; 0 where none is labelled.

    Args:
        logits: (B, classes).
        labels: (B,) class indices; -1 where an image has no label.
    """
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def soft_divergence(logits: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """Softened Kullback-Leibler divergence teacher || student, times T² (Hinton et al., arXiv 1503.02531).

    Args:
        logits: (B, classes) of the student.
        probabilities: (B, classes) of the teacher at temperature 1; raised to 1/T and normalised, which is what
            softening its logits gives.
        temperature: T > 0.

    Returns:
        The mean over the batch, in nats.
    """
    target = torch.softmax(probabilities.clamp(min=1e-8).log() / temperature, 1)
    return F.kl_div(F.log_softmax(logits / temperature, 1), target, reduction="batchmean") * temperature**2


def feature_error(projected: Tensor, features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Mean squared error against the standardised teacher features: 1 for a student that knows only their mean.

    Args:
        projected: (B, F) from the student's projector.
        features: (B, F) of the teacher.
        mean: (F,) of the teacher's features over the data.
        std: (F,) likewise; dimensions that never vary are left as they are.
    """
    return F.mse_loss(projected, (features - mean) / torch.where(std > 1e-6, std, 1))


class KnowledgeLoss(nn.Module):
    """CE + λ_kd · (w_f · feature error + w_l · softened divergence), by named parts.

    Holds the projector from the student's features to the teacher's, which is trained beside the student and thrown
    away after. With ``kd`` = 0 it is cross-entropy alone and needs no teacher.

    Args:
        feature_dim: D, of the student.
        teacher_dim: F, of the teacher.
        mean: (F,) of the teacher's features.
        std: (F,) of the teacher's features.
        ce: Weight of the cross-entropy.
        kd: λ_kd.
        feature: w_f inside the distillation term.
        logit: w_l inside the distillation term.
        temperature: T of the softened divergence.

    Raises:
        InputError: All weights are 0.
    """

    def __init__(
        self,
        feature_dim: int,
        teacher_dim: int,
        mean: Tensor,
        std: Tensor,
        *,
        ce: float = 1.0,
        kd: float = 1.0,
        feature: float = 0.1,
        logit: float = 1.0,
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        self.projector = nn.Linear(feature_dim, teacher_dim)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.weights = {"ce": ce, "feature": kd * feature, "logit": kd * logit}
        if not any(self.weights.values()):
            raise InputError("no loss has a weight: set loss.ce or loss.kd above 0")
        self.temperature = temperature

    @property
    def needs_teacher(self) -> bool:
        """Whether any distillation term has a weight."""
        return self.weights["feature"] > 0 or self.weights["logit"] > 0

    def forward(
        self, z: Tensor, logits: Tensor, labels: Tensor, features: Tensor | None, probabilities: Tensor | None
    ) -> dict[str, Tensor]:
        """The parts of the loss and their weighted sum.

        Args:
            z: (B, D) student features.
            logits: (B, classes) student logits.
            labels: (B,), -1 where unknown.
            features: (B, F) of the teacher, or None where no term needs it.
            probabilities: (B, classes) of the teacher, or None where no term needs it.

        Returns:
            ``ce``, ``feature``, ``logit`` (unweighted; only those with a weight) and ``loss``.
        """
        parts = {}
        if self.weights["ce"] > 0:
            parts["ce"] = cross_entropy(logits, labels)
        if self.weights["feature"] > 0:
            assert features is not None
            parts["feature"] = feature_error(self.projector(z), features, self.mean, self.std)
        if self.weights["logit"] > 0:
            assert probabilities is not None
            parts["logit"] = soft_divergence(logits, probabilities, self.temperature)
        parts["loss"] = torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()
        return parts
