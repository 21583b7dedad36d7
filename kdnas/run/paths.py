"""Where things are kept: the cache of data sets, adapted teachers and stored knowledge."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache directory: ``$KDNAS_CACHE``, else ``$XDG_CACHE_HOME/kdnas``, else ``~/.cache/kdnas``. Not created."""
    if explicit := os.environ.get("KDNAS_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kdnas"
