"""Named losses, for search and distillation alike."""

from kdnas.loss.losses import KnowledgeLoss, cross_entropy, feature_error, soft_divergence

__all__ = ["KnowledgeLoss", "cross_entropy", "feature_error", "soft_divergence"]
