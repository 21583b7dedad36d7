"""The ladder of granularity: what each rung matches, as weights of the loss, and what it costs in distilled units."""

from collections.abc import Mapping

from kdnas import config

RUNGS = ("superclass", "class", "relations", "features")
"""Coarse to fine; each rung matches what those before it match, too."""

# The terms of ``config.Loss`` that a rung adds.
TERMS: dict[str, tuple[str, ...]] = {
    "superclass": ("superclass",),
    "class": ("logit",),
    "relations": ("distance", "angle"),
    "features": ("feature",),
}

# Those that no rung has.
OTHERS = ("cosine", "decoupled", "bottleneck", "consistency")


def rung_loss(rung: int | None, weights: Mapping[str, float], temperature: float) -> config.Loss:
    """The loss at a rung: cross-entropy on labels, and the terms of this and all coarser rungs.

    Args:
        rung: Index into ``RUNGS``; None distils nothing.
        weights: Of every term in ``TERMS``.
        temperature: Of softened posteriors.
    """
    # Every other term is switched off by name, whatever the default of the settings is.
    parts = dict.fromkeys(OTHERS, 0.0) | {term: 0.0 for terms in TERMS.values() for term in terms}
    if rung is not None:
        parts |= {term: weights[term] for name in RUNGS[: rung + 1] for term in TERMS[name]}
    return config.Loss(**parts, ce=1.0, kd=float(rung is not None), temperature=temperature)  # type: ignore[arg-type]


def units_per_step(batch: int, superclasses: int, classes: int, features: int) -> tuple[int, ...]:
    """Distilled units of one step at each rung: stored numbers of the teacher that the step matches.

    Args:
        batch: B, images in a step.
        superclasses: G.
        classes: C.
        features: F, numbers in a stored feature.

    Returns:
        For each of ``RUNGS``, cumulative: B G, + B C, + B (B - 1)/2 distances, + B F.
    """
    added = (batch * superclasses, batch * classes, batch * (batch - 1) // 2, batch * features)
    return tuple(sum(added[: rung + 1]) for rung in range(len(RUNGS)))
