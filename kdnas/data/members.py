"""The files below a folder or inside an archive, one at a time; nothing is ever unpacked to disk."""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from kdnas.errors import InputError

Member = tuple[str, Callable[[], bytes]]  # a file's name below the root, and how to read it


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or closed file raises into one line that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): get it or pack it again") from None
    except (RuntimeError, NotImplementedError) as error:  # zipfile: a password, or an unknown compression
        raise InputError(f"cannot read {path} ({error}): pack it again without") from None


def members(path: Path) -> Iterator[Member]:
    """Walk through the files of a folder, a .zip, or a (compressed) .tar, in the order of storage.

    Raises:
        InputError: Neither a folder nor an archive, a damaged archive, or one that holds an absolute path, a
            path with "..", or links in place of files.
    """
    with named_errors(path):
        if path.is_dir():
            yield from _in_folder(path)
        elif tarfile.is_tarfile(path):
            yield from _in_tar(path)
        elif zipfile.is_zipfile(path):
            yield from _in_zip(path)
        else:
            raise InputError(f"{path} is neither a folder nor a whole .zip, .tar, .tar.gz or .tar.xz archive")


def _in_folder(path: Path) -> Iterator[Member]:
    seen = set()
    for folder, below, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above would be walked for ever
            below.clear()
            continue
        seen.add(real)
        below.sort()
        for file in sorted(files):
            full = Path(folder, file)
            yield full.relative_to(path).as_posix(), full.read_bytes


def _in_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield _safe(info.filename, path), partial(archive.read, info)


def _in_tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.issym() or member.islnk():
                raise InputError(f"{member.name} in {path} is a link: pack the file itself (tar --dereference)")
            if member.isreg():
                yield _safe(member.name, path), partial(_content, archive, member)
        # tarfile takes a cut or a damaged header for the end; a whole archive ends in two blocks of zeros.
        file, block = archive.fileobj, tarfile.BLOCKSIZE
        if file is None or file.tell() != archive.offset + block or file.read(block) != bytes(block):
            raise tarfile.ReadError("it ends early")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _safe(name: str, path: Path) -> str:
    """The name, unless it points outside: nothing is unpacked, yet such an archive is not to be trusted."""
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts:
        raise InputError(f"{path} holds an unsafe path, {name!r}: pack it again with relative paths")
    return name
