"""Search spaces and the architectures chosen from them.

``SearchSpace`` and ``Relaxed`` need NNI (seconds to import), so this package loads them on first use.
"""

from typing import TYPE_CHECKING, Any

from kdnas.space.architecture import Architecture

if TYPE_CHECKING:
    from kdnas.space.base import Relaxed as Relaxed
    from kdnas.space.base import SearchSpace as SearchSpace
    from kdnas.space.registry import list_spaces as list_spaces
    from kdnas.space.registry import make_space as make_space

__all__ = ["Architecture", "Relaxed", "SearchSpace", "list_spaces", "make_space"]


def __getattr__(name: str) -> Any:
    if name in ("Relaxed", "SearchSpace"):
        from kdnas.space import base

        return getattr(base, name)
    if name in ("list_spaces", "make_space"):
        from kdnas.space import registry

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
