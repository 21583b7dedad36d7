"""KDL-DARTS: differentiable architecture search with distillation and budgets.

The engine needs NNI and Lightning (seconds to import), so it is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from kdnas.search.derive import cheapest_choices, derive

if TYPE_CHECKING:
    from kdnas.search.engine import Searcher as Searcher
    from kdnas.search.engine import SearchResult as SearchResult

__all__ = ["SearchResult", "Searcher", "cheapest_choices", "derive"]


def __getattr__(name: str) -> Any:
    if name in ("SearchResult", "Searcher"):
        from kdnas.search import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
