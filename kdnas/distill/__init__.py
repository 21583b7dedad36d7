"""Robust knowledge distillation in two stages: clean, then through the channel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdnas.distill.distiller import Distiller as Distiller

__all__ = ["Distiller"]


def __getattr__(name: str) -> Any:
    if name == "Distiller":
        from kdnas.distill.distiller import Distiller

        return Distiller
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
