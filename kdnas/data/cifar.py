"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their official binary distribution; no pickle is opened."""

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from kdnas.data.dataset import Dataset
from kdnas.data.download import fetch
from kdnas.errors import InputError

URL = "https://www.cs.toronto.edu/~kriz/"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """How one of the two distributions is laid out.

    Each record is ``label_bytes`` labels, of which the last is the one to learn, then 3,072 bytes (3, 32,
    32).
    """

    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int


LAYOUTS = {
    "cifar10": _Layout(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": _Layout(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,  # the coarse label first
    ),
}


def load_cifar(name: str, root: Path | None = None) -> Dataset:
    """50,000 training and 10,000 test images, (3, 32, 32), of 10 or 100 classes.

    Args:
        name: ``cifar10`` or ``cifar100``.
        root: The official ``cifar-…-binary.tar.gz``, a folder with it, or the folder with its extracted
            files. Without it, the archive is downloaded to the cache.

    Raises:
        InputError: A file is missing or damaged, or the download failed.
    """
    layout = LAYOUTS[name]
    path = root or fetch(URL + layout.archive, layout.md5)
    if (path / layout.archive).is_file():
        path = path / layout.archive
    wanted = (*layout.train, layout.test, layout.names)
    files = _read_folder(path, wanted) if path.is_dir() else _read_archive(path, wanted)
    if missing := [file for file in wanted if file not in files]:
        raise InputError(f"{path} lacks {missing[0]} of the {name} binary distribution: give {layout.archive} as root")

    classes = tuple(files[layout.names].decode(errors="replace").split())
    train = b"".join(files[part] for part in layout.train)
    try:
        train_images, train_labels = _parse(train, layout.label_bytes, len(classes))
        test_images, test_labels = _parse(files[layout.test], layout.label_bytes, len(classes))
    except ValueError:
        raise InputError(f"{path} is not the whole {name} binary distribution: get {layout.archive} again") from None
    return Dataset(
        name=name,
        classes=classes,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        source=f"CIFAR-{len(classes)}, A. Krizhevsky, 2009, {URL}cifar.html; no licence is stated there",
    )


def _parse(data: bytes, label_bytes: int, classes: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) of the records; ValueError where they are not whole."""
    records = np.frombuffer(data, np.uint8).reshape(-1, label_bytes + PIXELS)
    labels = torch.from_numpy(records[:, label_bytes - 1].astype(np.int64))
    if len(labels) == 0 or labels.max() >= classes:
        raise ValueError("no records, or a label out of range")
    return torch.from_numpy(records[:, label_bytes:].reshape(-1, 3, 32, 32).copy()), labels


def _read_folder(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    try:
        return {name: (path / name).read_bytes() for name in wanted if (path / name).exists()}
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def _read_archive(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """The wanted members by their last name; in memory, so that no path in the archive is ever written to."""
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted and (content := archive.extractfile(member)):
                    files[name] = content.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or "not a whole tar archive"
        raise InputError(f"cannot read {path}: {reason}; get it again") from None
    return files
