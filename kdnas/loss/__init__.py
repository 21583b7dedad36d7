"""Named losses, for search and distillation alike; each returns 0 for a student that has learned all of it."""

from kdnas.loss.bottleneck import Bottleneck, gaussian_rate, log_uniform_rate
from kdnas.loss.features import angle_error, cosine_error, distance_error, feature_error, standardised
from kdnas.loss.knowledge import KnowledgeLoss
from kdnas.loss.posteriors import (
    cross_entropy,
    decoupled_divergence,
    soft_divergence,
    spread,
    superclass_divergence,
    top_k_divergence,
)

__all__ = [
    "Bottleneck",
    "KnowledgeLoss",
    "angle_error",
    "cosine_error",
    "cross_entropy",
    "decoupled_divergence",
    "distance_error",
    "feature_error",
    "gaussian_rate",
    "log_uniform_rate",
    "soft_divergence",
    "spread",
    "standardised",
    "superclass_divergence",
    "top_k_divergence",
]
