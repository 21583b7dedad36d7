"""What the cache directory holds, and emptying it. Everything in it can be made or downloaded again."""

import shutil
from pathlib import Path
from typing import TypedDict

from kdnas.errors import InputError
from kdnas.run.paths import cache_dir

KINDS = ("data", "teachers", "knowledge", "codes")


class CacheEntry(TypedDict):
    """One thing in the cache: its name, kind (a member of ``KINDS``), size in bytes, and path."""

    name: str
    kind: str
    bytes: int
    path: str


def list_cache() -> list[CacheEntry]:
    """Everything in the cache, by kind and name; an empty list where there is no cache."""
    return [
        CacheEntry(name=path.name, kind=kind, bytes=_size(path), path=str(path))
        for kind in KINDS
        for path in _entries(kind)
    ]


def empty_cache(kind: str | None = None) -> int:
    """Remove everything of one kind, or of all kinds; nothing else in the cache directory is touched.

    Args:
        kind: ``data`` (downloads and decoded folders), ``teachers``, ``knowledge``, ``codes`` (measured block error
            rates), or None for all.

    Returns:
        How many bytes were freed.

    Raises:
        InputError: An unknown kind, or no permission to remove an entry.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown kind of cache {kind!r}: choose among {', '.join(KINDS)}")
    freed = 0
    for path in [path for one in ([kind] if kind else KINDS) for path in _entries(one)]:
        size = _size(path)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}; change its permissions and try again") from None
        freed += size
    return freed


def _entries(kind: str) -> list[Path]:
    folder = cache_dir() / kind
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a folder; links count nothing, for what they name stays."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
