"""What device classes pay for accuracy: rows of finished runs, and which of them no other one beats."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdnas.errors import InputError

NEAR_DB = 10.0


def pareto_row(results: Mapping[str, Any]) -> dict[str, Any]:
    """A run in one row: its accuracy on test data at full length and the SNR nearest to 10 dB, and its costs.

    Args:
        results: A valid ``results.json`` document; its first channel counts.

    Raises:
        InputError: It has no row of system ``kdnas``.
    """
    rows = [row for row in results["curves"] if row["system"] == "kdnas" and row["channel"] is not None]
    if not rows:
        raise InputError(f"results.json of {results['device']}: no row of system kdnas through a channel")
    rows = [row for row in rows if row["channel"] == rows[0]["channel"]]
    chosen = max(rows, key=lambda row: (row["symbols"], -abs(row["snr_db"] - NEAR_DB), row["snr_db"]))
    return {
        "device": results["device"],
        "dataset": results["dataset"],
        "labels": results["labels"],
        "seed": results["seed"],
        **{key: chosen[key] for key in ("channel", "snr_db", "symbols", "accuracy", "ci95")},
        **results["transmitter"],
        "teacher_accuracy": results["teacher"]["accuracy"],
    }


def pareto_front(costs: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Which points are on the front: no other one costs no more, is as accurate, and is better in one of both.

    Args:
        costs: (N,), the less the better.
        accuracies: (N,), the more the better.

    Returns:
        (N,); of equal points all are on it, or none.
    """
    points = list(zip(costs, accuracies, strict=True))
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]
