"""Losses on features: what an image's vector is, and how the vectors of a batch lie to each other.

All are on normalised quantities, so that 1 is what a student that knows nothing gets, in order of magnitude, and one
default weight works for any teacher.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def standardised(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, F) features less their mean (F,), over their std (F,); dimensions that never vary are left as they are."""
    return (features - mean) / torch.where(std > 1e-6, std, 1)


def feature_error(projected: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (B, F) against standardised teacher features: 1 for a student that knows only their mean."""
    return F.mse_loss(projected, target)


def cosine_error(projected: Tensor, target: Tensor) -> Tensor:
    """1 - cosine between (B, F) and standardised teacher features, mean over the batch: 0 ... 2, 1 when unrelated."""
    return (1 - F.cosine_similarity(projected, target, dim=1)).mean()


def _distances(z: Tensor) -> Tensor:
    """(B, B) Euclidean distances over their mean between different images."""
    squared = z.square().sum(1)
    gram = (squared[:, None] + squared - 2 * z @ z.T).clamp(min=0)
    away = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    # The root has no gradient at 0, where an image meets itself.
    distances = torch.where(away, gram.clamp(min=1e-12), 1).sqrt() * away
    return distances / (distances.sum() / away.sum().clamp(min=1)).clamp(min=1e-12)


def distance_error(z: Tensor, target: Tensor) -> Tensor:
    """Relational distillation by distance (Park et al., arXiv 1904.05068, eq. 4 and 5): Huber loss of pair distances.

    Distances are relative to their mean within the batch, so neither the scale nor the dimension of either matters and
    no projector is needed; the loss is relative to that of a student for which all images are equally far apart (our
    normalisation). For training only: a prediction never depends on batch-mates.

    Args:
        z: (B, D) of the student, B at least 2.
        target: (B, F) of the teacher.
    """
    return _relative(_distances(z), _distances(target))


def _relative(own: Tensor, wanted: Tensor) -> Tensor:
    """The Huber loss over that of a student which knows the mean of what is wanted and no more."""
    nothing = F.smooth_l1_loss(wanted, wanted.mean().expand_as(wanted))
    return F.smooth_l1_loss(own, wanted) / nothing.clamp(min=1e-6)


ANGLES = 32  # images whose triplets are compared: 32³ cosines, not (batch)³


def _cosines(z: Tensor) -> Tensor:
    """(B, B, B): at image j, the cosine of the angle between the directions to images i and k."""
    directions = F.normalize(z[None] - z[:, None], dim=2)  # (B, B, D): row j, column i is from j to i
    return torch.bmm(directions, directions.transpose(1, 2))


def angle_error(z: Tensor, target: Tensor) -> Tensor:
    """Relational distillation by angle (Park et al., arXiv 1904.05068, eq. 6 and 7): Huber loss of triplet cosines.

    Over the triplets of up to 32 images that are spread evenly over the batch; relative like ``distance_error``.

    Args:
        z: (B, D) of the student, B at least 3.
        target: (B, F) of the teacher.
    """
    chosen = torch.linspace(0, len(z) - 1, min(len(z), ANGLES), device=z.device).long()
    return _relative(_cosines(z[chosen]), _cosines(target[chosen]))
