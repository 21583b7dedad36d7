"""Evaluation: accuracy x channel x SNR x length with intervals, and the form of the files that hold it."""

from typing import TYPE_CHECKING, Any

from kdnas.evaluate.results import results_document, validate_published, validate_results
from kdnas.evaluate.statistics import accuracy_ci95, draws_ci95, paired_difference, rank_correlation, summarise

if TYPE_CHECKING:
    from kdnas.evaluate.link import (
        Point,
        accuracy_row,
        evaluate_answers,
        evaluate_classifier,
        evaluate_link,
        evaluate_teacher,
    )

# Those who check or draw results need no torch.
_WITH_TORCH = (
    "Point",
    "accuracy_row",
    "evaluate_answers",
    "evaluate_classifier",
    "evaluate_link",
    "evaluate_teacher",
)

__all__ = [
    "Point",
    "accuracy_ci95",
    "accuracy_row",
    "draws_ci95",
    "evaluate_answers",
    "evaluate_classifier",
    "evaluate_link",
    "evaluate_teacher",
    "paired_difference",
    "rank_correlation",
    "results_document",
    "summarise",
    "validate_published",
    "validate_results",
]


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        from kdnas.evaluate import link

        return getattr(link, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
