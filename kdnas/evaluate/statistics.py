"""The statistics behind every table: intervals clustered by image, spread over seeds, rank correlation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


def accuracy_ci95(correct: ArrayLike) -> tuple[float, float]:
    """Accuracy, and the half-width of its 95 % interval clustered by image.

    The draws of one image are not independent (an easy image is easy in all of them), so the unit is the
    image: the variance of the per-image means gives an effective number of trials ``p (1 - p) / Var(p)``,
        never fewer than the
    images nor more than images x draws, and Wilson's interval for that number (Wilson 1927, eq. 4; Korn and
    Graubard 1998 for the effective size) keeps its coverage near 0 and 1, where the normal interval would
    have width 0.

    Args:
        correct: (images, draws) or (images,): 1 where the answer was right, else 0.

    Returns:
        Accuracy in [0, 1], and the half-width of the symmetric interval around it that holds Wilson's.

    Raises:
        ValueError: No image.
    """
    table = np.asarray(correct, dtype=np.float64)
    if not table.size:
        raise ValueError("accuracy_ci95 needs at least one image")
    table = table.reshape(len(table), -1)  # (images, draws)
    n, draws = table.shape
    means = table.mean(axis=1)
    p = float(means.mean())
    variance = float(means.var(ddof=1)) / n if n > 1 else 0.0
    trials = p * (1 - p) / variance if variance > 0 else (n if p in (0.0, 1.0) else n * draws)
    trials = min(max(trials, n), n * draws)
    shrink = 1 + Z95**2 / trials
    centre = (p + Z95**2 / (2 * trials)) / shrink
    half = Z95 / shrink * math.sqrt(p * (1 - p) / trials + Z95**2 / (4 * trials**2))
    return p, abs(centre - p) + half


def summarise(
    rows: Iterable[Mapping[str, Any]],
    *,
    by: Sequence[str] = ("device", "dataset", "labels", "system", "channel", "snr_db", "symbols"),
    value: str = "accuracy",
) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of rows that agree in the columns ``by``.

    Args:
        rows: Rows of a published table (one for each seed), or any rows with the columns named.
        by: The columns that tell one line of the summary from another; a column that no row has is left out.
        value: The column to summarise; rows where it is null are skipped.

    Returns:
        One row for each group, in order of first appearance: the columns ``by``, ``mean``, ``std`` (sample
        standard deviation, null for a single seed) and ``seeds`` (how many rows).
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    rows = list(rows)
    columns = [column for column in by if any(column in row for row in rows)]
    for row in rows:
        if row[value] is not None:
            groups.setdefault(tuple(row.get(column) for column in columns), []).append(float(row[value]))
    return [
        {
            **dict(zip(columns, key, strict=True)),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "seeds": len(values),
        }
        for key, values in groups.items()
    ]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1], ties sharing their mean rank; null where it is not defined.

    Args:
        first: For example the accuracies of trials, (N,).
        second: For example the accuracies after full training, (N,), in the same order.

    Returns:
        The correlation, or None for fewer than two pairs or where all values of one side are equal.
    """
    a, b = _ranks(first), _ranks(second)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, group, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]
