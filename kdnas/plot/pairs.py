"""Differences between two ways that were tried with the same seeds: what a seed makes easy or hard falls out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdnas.errors import InputError


def paired_points(rows: Sequence[Mapping[str, Any]], system: str, base: str) -> list[float]:
    """Accuracy of ``system`` less that of ``base`` with the same seed.

    Args:
        rows: Of one point (data set, labels, SNR, ...), so that a system and a seed name one row.
        system: Compared.
        base: What it is compared to.

    Returns:
        Percentage points, by rising seed, of the seeds that both have.

    Raises:
        InputError: They have no seed in common.
    """
    accuracies = [{row["seed"]: row["accuracy"] for row in rows if row["system"] == name} for name in (system, base)]
    seeds = sorted(accuracies[0].keys() & accuracies[1].keys())
    if not seeds:
        where = ", ".join(str(rows[0][key]) for key in ("dataset", "labels", "channel", "snr_db") if key in rows[0])
        raise InputError(
            f"rows: {system} and {base} have no seed in common ({where}); add rows of {base} to compare to"
        )
    return [100 * (accuracies[0][seed] - accuracies[1][seed]) for seed in seeds]


def mean_of(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return math.fsum(values) / len(values)


def std_of(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    if len(values) < 2:
        return None
    mean = mean_of(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def two_errors(values: Sequence[float]) -> float | None:
    """Two standard errors of the mean; None for a single value."""
    std = std_of(values)
    return None if std is None else 2 * std / math.sqrt(len(values))
