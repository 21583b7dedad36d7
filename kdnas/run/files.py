"""Files that are whole or absent: written beside their place, synced, then moved onto it."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from kdnas.errors import InputError


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` so that ``path`` holds either the old or the new content, never a part.

    Args:
        path: Where to write; missing parent folders are made.
        data: Bytes, or text stored as UTF-8.

    Raises:
        InputError: No permission, or no space left; the old file stays as it was.
    """
    path = Path(path)
    if isinstance(data, str):
        data = data.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; give what an ordinary open() would give.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}; free some space or use another --out") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused: null says that a value does not apply."""
    atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file is missing, unreadable, or not JSON (with the line).
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); it may be damaged: make it again") from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_of(*parts: Any) -> str:
    """A 16-hex-digit hash of nested plain values, arrays and tensors; the order of dict keys does not matter."""
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        digest.update(b"{")
        for key in sorted(value, key=str):
            _feed(digest, str(key))
            _feed(digest, value[key])
        digest.update(b"}")
    elif isinstance(value, list | tuple):
        digest.update(b"[")
        for item in value:
            _feed(digest, item)
        digest.update(b"]")
    elif isinstance(value, bytes):
        digest.update(b"b" + len(value).to_bytes(8, "little") + value)
    elif hasattr(value, "detach"):  # a tensor, without importing torch here
        _feed(digest, value.detach().cpu().contiguous().numpy())
    elif hasattr(value, "tobytes"):
        digest.update(f"a{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    else:
        text = repr(value).encode()
        digest.update(b"v" + len(text).to_bytes(8, "little") + text)
