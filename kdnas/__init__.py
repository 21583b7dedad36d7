"""kdnas: searched, distilled, channel-robust semantic encoders for each class of devices."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdnas.pipeline import api as api
    from kdnas.zoo import list_architectures as list_architectures
    from kdnas.zoo import load as load
    from kdnas.zoo import load_encoder as load_encoder

__version__ = "0.1.0"

# Loaded on first use, so that `import kdnas` is fast. The verbs of the command line are functions of `kdnas.api`
# (`kdnas.search` and its like are the rooms of the library, and `import kdnas.search` gives those).
_LAZY = {
    "list_architectures": "kdnas.zoo",
    "load": "kdnas.zoo",
    "load_encoder": "kdnas.zoo",
}

__all__ = ["__version__", "api", "list_architectures", "load", "load_encoder"]


def __getattr__(name: str) -> Any:
    if name == "api":
        return import_module("kdnas.pipeline.api")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
