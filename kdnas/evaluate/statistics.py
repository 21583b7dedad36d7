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
    never fewer than the images nor more than images x draws, and Wilson's interval for that number (Wilson
    1927, eq. 4; Korn and Graubard 1998 for the effective size) keeps its coverage near 0 and 1, where the
    normal interval would have width 0.

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


def draws_ci95(correct: ArrayLike) -> float:
    """Half-width of the 95 % interval of the accuracy over channel draws, these images being given.

    What channel draws leave unknown of the accuracy *on these images*: the draws of one image are independent given
    the image, so its mean over D draws has the variance s_i^2 / D, and the mean of N images sum(s_i^2) / (D N^2). It
    falls to 0 with the draws, whereas ``accuracy_ci95``, for all images that there could be, falls to the
    images' own spread.

    Args:
        correct: (images, draws), at least two draws: 1 where the answer was right, else 0.

    Raises:
        ValueError: No image, or fewer than two draws.
    """
    table = np.asarray(correct, dtype=np.float64)
    if table.ndim != 2 or not len(table) or table.shape[1] < 2:
        raise ValueError("draws_ci95 needs at least one image and two draws")
    n, draws = table.shape
    return Z95 * math.sqrt(float(table.var(axis=1, ddof=1).sum()) / draws) / n


def paired_difference(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[float, float]:
    """Accuracy of a less that of b on the same images, and the half-width of its 95 % interval, clustered by image.

    Both met the same images, and by ``ImageNoise`` the same noise: what is common to both cancels in the
    difference of each image, and the spread of these differences is the error. Half an image of every outcome (both
    right, a alone, b alone, neither) is added, as Agresti and Min (2005) do for matched proportions, so that systems
    which nowhere differ have an interval that is not 0.

    Args:
        correct_a: (images, draws) or (images,): 1 where system a was right, else 0; or per-image means.
        correct_b: Of system b, the same images in the same order; its number of draws may be another.

    Returns:
        The difference in [-1, 1], positive where a is better, and the half-width of the symmetric interval around it.

    Raises:
        ValueError: No image, or not as many images on both sides.
    """
    a, b = (np.asarray(table, dtype=np.float64) for table in (correct_a, correct_b))
    if not a.size or not b.size or len(a) != len(b):
        raise ValueError(f"paired_difference needs the same images on both sides (got {len(a)} and {len(b)})")
    differences = a.reshape(len(a), -1).mean(1) - b.reshape(len(b), -1).mean(1)  # (images,)
    difference, n = float(differences.mean()), len(differences) + 2
    centre = float(differences.sum()) / n
    variance = (float(np.square(differences).sum()) + 1) / n - centre**2
    return difference, abs(centre - difference) + Z95 * math.sqrt(variance / n)


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
