"""The whole way, resumable: from a device class to an encoder and its link, stage by stage."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdnas.pipeline.api import (
        cost as cost,
    )
    from kdnas.pipeline.api import (
        distill as distill,
    )
    from kdnas.pipeline.api import (
        evaluate as evaluate,
    )
    from kdnas.pipeline.api import (
        run as run,
    )
    from kdnas.pipeline.api import (
        search as search,
    )
    from kdnas.pipeline.api import (
        teach as teach,
    )
    from kdnas.pipeline.api import (
        tune as tune,
    )

VERBS = ("cost", "distill", "evaluate", "run", "search", "teach", "tune")
__all__ = ["VERBS", "cost", "distill", "evaluate", "run", "search", "teach", "tune"]


def __getattr__(name: str) -> Any:
    if name in VERBS:
        from kdnas.pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
