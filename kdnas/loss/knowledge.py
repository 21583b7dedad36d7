"""The weighted sum of named losses that students, links and supernets minimise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdnas import config
from kdnas.errors import InputError
from kdnas.loss.bottleneck import Bottleneck
from kdnas.loss.features import angle_error, cosine_error, distance_error, feature_error, standardised
from kdnas.loss.posteriors import cross_entropy, decoupled_divergence, soft_divergence, superclass_divergence

ON_FEATURES = ("feature", "cosine", "distance", "angle")
ON_POSTERIORS = ("logit", "decoupled", "superclass")


class KnowledgeLoss(nn.Module):
    """CE + λ_kd · (Σ weighted distillation terms) + β · rate + consistency, by named parts.

    Holds what is trained beside the student and thrown away after: the projector from the student's features to the
    teacher's, and the bottleneck. With ``kd`` = 0 nothing of the teacher is needed.

    Args:
        settings: The weights; a part of weight 0 is not computed.
        feature_dim: D, of the student.
        mean: (F,) of the teacher's features.
        std: (F,) likewise.
        superclasses: (classes,) int64, the superclass of each class; ``settings.superclass`` needs it.

    Raises:
        InputError: All weights are 0, or superclasses are wanted and not given.
    """

    def __init__(
        self, settings: config.Loss, feature_dim: int, mean: Tensor, std: Tensor, superclasses: Tensor | None = None
    ) -> None:
        super().__init__()
        self.projector = nn.Linear(feature_dim, len(mean))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.superclasses: Tensor | None
        self.register_buffer("superclasses", superclasses, persistent=False)
        s = settings
        self.weights = {"ce": s.ce, **{name: s.kd * getattr(s, name) for name in (*ON_FEATURES, *ON_POSTERIORS)}}
        self.weights |= {"bottleneck": s.bottleneck, "consistency": s.consistency}
        self.kd, self.temperature, self.beta = s.kd, s.temperature, s.decoupled_beta
        self.bottleneck = Bottleneck(feature_dim, s.prior) if s.bottleneck > 0 else None
        if not any(self.weights[name] for name in ("ce", *ON_FEATURES, *ON_POSTERIORS)):
            raise InputError("no loss has a weight: set loss.ce or loss.kd above 0")
        if self.weights["superclass"] > 0 and superclasses is None:
            raise InputError("loss.superclass needs superclasses, which `kdnas tailor` makes: set it to 0 elsewhere")

    @property
    def needs_teacher(self) -> bool:
        """Whether any distillation term has a weight."""
        return any(self.weights[name] > 0 for name in (*ON_FEATURES, *ON_POSTERIORS))

    @property
    def trains_classifier(self) -> bool:
        """Whether any term tells a classifier anything; else only features are learned."""
        return any(self.weights[name] > 0 for name in ("ce", *ON_POSTERIORS))

    @contextmanager
    def feature_at_most(self, most: float) -> Iterator[None]:
        """Within it, the squared error of features counts λ_kd times ``most`` at most."""
        whole = self.weights
        self.weights = {**whole, "feature": min(whole["feature"], self.kd * most)}
        try:
            yield
        finally:
            self.weights = whole

    def code(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """What the classifier sees of features (B, D) in training, and its rate: noisy where there is a bottleneck."""
        return (z, None) if self.bottleneck is None else self.bottleneck(z, generator)

    def forward(
        self,
        z: Tensor,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None,
        probabilities: Tensor | None,
        *,
        rate: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The parts of the loss and their weighted sum.

        Args:
            z: (B, D) student features.
            logits: (B, classes) student logits.
            labels: (B,), -1 where unknown.
            features: (B, F) of the teacher, or None where no term needs it.
            probabilities: (B, classes) of the teacher, or None where no term needs it.
            rate: Of ``code``, where the loss has a bottleneck and training goes through it.
            clean: (B, classes) logits without a channel; the noisy ones are to agree with them. None in training
                without a channel.

        Returns:
            Each part by name, not weighted, those with a weight only; and ``loss``.
        """
        w, parts = self.weights, {}
        if w["ce"] > 0:
            parts["ce"] = cross_entropy(logits, labels)
        if any(w[name] > 0 for name in ON_FEATURES):
            assert features is not None
            parts |= self._on_features(z, standardised(features, self.mean, self.std))
        if any(w[name] > 0 for name in ON_POSTERIORS):
            assert probabilities is not None
            parts |= self._on_posteriors(logits, labels, probabilities)
        if rate is not None:
            parts["bottleneck"] = rate
        if w["consistency"] > 0 and clean is not None:
            parts["consistency"] = soft_divergence(logits, clean.detach().softmax(1), self.temperature)
        parts["loss"] = torch.stack([w[name] * value for name, value in parts.items()]).sum()
        return parts

    def _on_features(self, z: Tensor, target: Tensor) -> dict[str, Tensor]:
        w, parts = self.weights, {}
        if w["feature"] > 0 or w["cosine"] > 0:
            projected = self.projector(z)
            if w["feature"] > 0:
                parts["feature"] = feature_error(projected, target)
            if w["cosine"] > 0:
                parts["cosine"] = cosine_error(projected, target)
        if w["distance"] > 0:
            parts["distance"] = distance_error(z, target)
        if w["angle"] > 0:
            parts["angle"] = angle_error(z, target)
        return parts

    def _on_posteriors(self, logits: Tensor, labels: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
        w, parts = self.weights, {}
        if w["logit"] > 0:
            parts["logit"] = soft_divergence(logits, probabilities, self.temperature)
        if w["decoupled"] > 0:
            parts["decoupled"] = decoupled_divergence(logits, probabilities, labels, self.temperature, self.beta)
        if w["superclass"] > 0:
            assert self.superclasses is not None
            parts["superclass"] = superclass_divergence(logits, probabilities, self.superclasses, self.temperature)
        return parts

    def gradient_norms(self, parts: dict[str, Tensor], at: Tensor) -> dict[str, Tensor]:
        """How hard each weighted part pulls: the norm of its gradient with respect to ``at``, usually the features.

        Args:
            parts: Of ``forward``.
            at: A tensor of the graph, (B, D).
        """
        norms: dict[str, Any] = {}
        for name, value in parts.items():
            if name != "loss" and value.requires_grad:
                (gradient,) = torch.autograd.grad(self.weights[name] * value, at, retain_graph=True, allow_unused=True)
                if gradient is not None:
                    norms[name] = gradient.norm()
        return norms
