"""Optuna sets the penalty weights of each device class."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdnas.tune.study import Study as Study

__all__ = ["Study"]


def __getattr__(name: str) -> Any:
    if name == "Study":
        from kdnas.tune.study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
