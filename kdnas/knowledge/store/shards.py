"""Shards: the rows of one view in files of a fixed number of images, each whole or absent, made by many at once.

``view-V/FIRST-STOP.npy`` holds rows FIRST … STOP - 1 as one structured array, so that what is said of an image lies in
one piece; ``….json`` beside it, written before, holds its checksum. A name that tells the span means that a shard
never changes: more images make another shard, and nobody who reads is disturbed.
"""

import io
import json
import os
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdnas.errors import InputError
from kdnas.run.files import atomic_write, read_json, sha256_file, write_json

Task = TypeVar("Task")
# atomic_write looks up the process's umask, which two threads must not do at once.
_WRITING = threading.Lock()


class Span(NamedTuple):
    """Rows ``first`` … ``stop`` - 1 of view ``view``."""

    view: int
    first: int
    stop: int

    def path(self, directory: Path) -> Path:
        """Where the shard lies."""
        return directory / f"view-{self.view}" / f"{self.first:09d}-{self.stop:09d}.npy"


def spans(view: int, images: int, size: int) -> list[Span]:
    """The shards of a view: ``size`` images each, the last one perhaps fewer."""
    return [Span(view, first, min(first + size, images)) for first in range(0, images, size)]


def write_shard(directory: Path, span: Span, rows: np.ndarray, form: str) -> None:
    """Write the side file, then the shard.

    Args:
        directory: Of the store.
        span: Which rows.
        rows: (stop - first,) structured.
        form: Hash of the fitted form that encoded them; empty where there is none.

    Raises:
        InputError: No permission or no space; neither file is left half written.
    """
    path = span.path(directory)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, rows, allow_pickle=False)
    content = buffer.getvalue()
    try:
        with _WRITING:
            path.parent.mkdir(parents=True, exist_ok=True)
            told = {"images": len(rows), "sha256": sha256(content).hexdigest(), "form": form}
            write_json(path.with_suffix(".json"), told)
            atomic_write(path, content)
    except (InputError, OSError) as error:
        raise cannot_write(directory, error) from None


def cannot_write(directory: Path, error: InputError | OSError) -> InputError:
    """The one line for a store that cannot be written."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        reason = str(error).partition(": ")[2].partition("; ")[0]
    return InputError(f"cannot write {directory}: {reason}; free some space or set KDNAS_CACHE to another folder")


def open_shard(directory: Path, span: Span, row: np.dtype, form: str, *, verify: bool = True) -> NDArray[np.uint8]:
    """Map a shard into memory: (rows, bytes of a row).

    Args:
        directory: Of the store.
        span: Which rows.
        row: The type of a row.
        form: Hash of the fitted form.
        verify: Check it against its side file first.

    Raises:
        InputError: It is missing, damaged, or encoded by another fit of the form.
    """
    path = span.path(directory)
    remedy = f"remove {path} and run again"
    if not path.exists():
        raise InputError(f"the stored knowledge in {directory} lacks {path.parent.name}/{path.name}: build it again")
    told = read_json(path.with_suffix(".json")) if verify else None
    try:
        whole = told is None or told["sha256"] == sha256_file(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False) if whole else None
        own = told is None or told["form"] == form
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"the stored knowledge {path} is damaged ({error}): {remedy}") from None
    if array is None or array.dtype != row or array.shape != (span.stop - span.first,):
        raise InputError(f"the stored knowledge {path} is damaged (its checksum or shape is wrong): {remedy}")
    if not own:
        raise InputError(f"the stored knowledge {path} was encoded with another fit of its form: {remedy}")
    return np.asarray(array).view(np.uint8).reshape(len(array), row.itemsize)


def remove_outgrown(directory: Path, current: Iterable[Span]) -> None:
    """Remove shards that a longer one of the same first row has replaced."""
    for span in current:
        path = span.path(directory)
        for other in path.parent.glob(f"{span.first:09d}-*.npy"):
            if other < path:  # names of equal length: fewer rows
                other.unlink(missing_ok=True)
                other.with_suffix(".json").unlink(missing_ok=True)


def share(tasks: Sequence[Task], done: Callable[[Task], bool], work: Callable[[Task], None], workers: int = 1) -> int:
    """Do what is not done yet, together with any other processes that do the same; returns how many were done here.

    Each worker looks for what is missing, takes one of it at random, and looks again: without locks, two processes
    seldom take the same, and doing a task twice must be harmless.

    Args:
        tasks: Distinct.
        done: Whether a task is done, by whomever.
        work: Does one.
        workers: Threads of this process.
    """
    taken: set[Task] = set()
    lock = threading.Lock()
    draw = random.Random(int.from_bytes(os.urandom(8), "little"))
    stopped = threading.Event()

    def worker() -> None:
        while not stopped.is_set():
            with lock:
                missing = [task for task in tasks if task not in taken and not done(task)]
                if not missing:
                    return
                task = draw.choice(missing)
                taken.add(task)
            try:
                work(task)
            except BaseException:
                stopped.set()
                raise

    if workers == 1:
        worker()
    else:
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(worker) for _ in range(workers)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stopped.set()
                raise
    return len(taken)
