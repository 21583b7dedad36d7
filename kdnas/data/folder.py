"""Own images: class folders, or an archive of them."""

import hashlib
import json
import os
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from kdnas.data.dataset import Dataset
from kdnas.data.images import decode
from kdnas.data.members import members, named_errors
from kdnas.errors import InputError
from kdnas.run.files import atomic_write, hash_of
from kdnas.run.paths import cache_dir

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
SHOWN = 5  # how many unreadable files an error names

Labelled = list[tuple[str, int]]  # names of files, each with its label


def load_folder(path: Path, image_size: int | None = None, channels: int | None = None) -> Dataset:
    """Load images from class folders, or from a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of them.

    Two layouts are understood, below any number of wrapping folders:

    - ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``, with the same classes in both;
    - ``CLASS/IMAGE``: a fifth of each class (rounded down, at least one image) becomes the test set, namely
      the images whose "CLASS/IMAGE" has the smallest SHA-256. So the test set is the same on every machine
      and for every seed, and an image that is added or removed hardly moves the others.

    Classes are sorted by name, images by class and name. Grey pictures and colour ones may be mixed: all
    become RGB then. Photographs are turned as their EXIF orientation says. Hidden files, and files that by
    their suffix are no images, are ignored. The decoded images are kept in the cache until the files change
    (size or time).

    Args:
        path: The folder or archive.
        image_size: Resize every image to a square of this side, in pixels, whatever its aspect. May be None
            where all images are squares of one size.
        channels: 1 (grey), 3 (RGB), or None: grey where all images are grey.

    Raises:
        InputError: No such path, a damaged archive or one with unsafe names, another layout, fewer than two
            classes, images of different sizes without ``image_size``, or images that cannot be read, with
            their names.
    """
    if not path.exists():
        raise InputError(f"there is no folder or archive {path}: check the path")
    cached = _cache_path(path, image_size, channels)
    dataset = _recall(cached)
    if dataset is None:
        classes, train, test = _arrange([name for name, _ in members(path)], path)
        images = _decode_all(path, [name for name, _ in train + test], image_size, channels)
        labels = torch.tensor([label for _, label in train + test])
        cut = len(train)
        dataset = Dataset("", classes, images[:cut], labels[:cut], images[cut:], labels[cut:], "")
        with suppress(InputError):  # a cache that cannot be written costs time, not results
            _remember(cached, dataset)
    return replace(dataset, name=f"folder:{path}", source=f"own images from {path}; their licence is their owner's")


def _arrange(names: list[str], path: Path) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """The classes, and the training and test images in the order of their ids."""
    # A tar may hold a name twice (its last content counts): one key each.
    visible = {name: parts for name in names if not _is_hidden(parts := PurePosixPath(name).parts)}
    images = {name: parts for name, parts in visible.items() if name.lower().endswith(SUFFIXES)}
    if not images:
        raise InputError(f"{path} holds no images ({' '.join(SUFFIXES)})")
    wrapped, shortest = 0, min(len(parts) for parts in images.values())
    while wrapped < shortest - 2 and len({parts[wrapped] for parts in images.values()}) == 1:
        wrapped += 1
    divided = any(len(parts) > wrapped + 2 for parts in images.values())
    depth = wrapped + (3 if divided else 2)
    for name, parts in images.items():
        if len(parts) != depth or (divided and parts[wrapped] not in ("train", "test")):
            raise InputError(
                f"{name} in {path} is out of place: images lie in CLASS/, or in train/CLASS/ and "
                "test/CLASS/; move or remove it"
            )
    classes = tuple(sorted({parts[-2] for parts in images.values()}))
    for parts in visible.values():
        if len(parts) == depth and parts[-2] not in classes:
            raise InputError(f"{path} has no image of a known kind in {parts[-2]}/ ({' '.join(SUFFIXES)})")
    if len(classes) < 2:
        raise InputError(f"{path} has one class only ({classes[0]}): give each class a folder of its own")

    train: Labelled = []
    test: Labelled = []
    for label, name_of_class in enumerate(classes):
        own = sorted(name for name, parts in images.items() if parts[-2] == name_of_class)
        if divided:
            tested = {name for name in own if images[name][wrapped] == "test"}
        else:
            tested = set(sorted(own, key=lambda name: _rank(images[name]))[: max(1, len(own) // 5)])
        if not 0 < len(tested) < len(own):
            raise InputError(
                f"class {name_of_class} in {path} lacks a training or a test image: "
                + ("add one to train/ and test/ each" if divided else "give it at least 2 images")
            )
        train += [(name, label) for name in own if name not in tested]
        test += [(name, label) for name in own if name in tested]
    return classes, train, test


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _rank(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("/".join(parts[-2:]).encode()).hexdigest()


def _decode_all(path: Path, wanted: list[str], image_size: int | None, channels: int | None) -> Tensor:
    """Decode the wanted files, in that order: uint8, (N, C, H, W)."""
    place = {name: i for i, name in enumerate(wanted)}
    out = np.empty((0, 0, 0, 0), np.uint8)
    broken: dict[str, str] = {}
    for name, pixels in _decoded(path, place, image_size, channels):
        if isinstance(pixels, str):
            broken[name] = pixels
            continue
        depth, height, width = pixels.shape
        if not out.size:
            out = np.empty((len(wanted), depth, height, width), np.uint8)
        if height != width or out.shape[2:] != (height, width):
            raise InputError(
                f"images in {path} are not squares of one size ({name} is {width} x {height}): set data.image_size"
            )
        if depth > out.shape[1]:  # the first colour picture after grey ones
            out = out.repeat(depth, axis=1)
        out[place[name]] = pixels
    if broken:
        shown = ", ".join(f"{name} ({reason})" for name, reason in sorted(broken.items())[:SHOWN])
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise InputError(f"{path} has unreadable images: {shown}{more}; remove or replace them")
    return torch.from_numpy(out)


def _decoded(
    path: Path, wanted: Container[str], image_size: int | None, channels: int | None
) -> Iterator[tuple[str, np.ndarray | str]]:
    """The name and the pixels (or the reason for having none) of each wanted file, as they come."""
    workers = min(8, os.cpu_count() or 1)  # Pillow decodes outside the interpreter's lock
    chosen = ((name, read()) for name, read in members(path) if name in wanted)
    with named_errors(path), ThreadPoolExecutor(workers) as pool:
        # Few files are in memory at a time, yet several for each thread, for a small image costs little.
        while block := list(islice(chosen, 16 * workers)):
            shares = [block[i::workers] for i in range(workers)]
            for done in pool.map(lambda share: [(n, decode(d, image_size, channels)) for n, d in share], shares):
                yield from done


def _cache_path(path: Path, image_size: int | None, channels: int | None) -> Path:
    """Where the decoded images of these files, as they are now, are kept."""
    from PIL import __version__

    with named_errors(path):
        files = [path / name for name, _ in members(path)] if path.is_dir() else [path]
        stamps = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    stem = "".join(c if c.isalnum() else "-" for c in path.resolve().name)
    key = hash_of("folder", 1, __version__, str(path.resolve()), stamps, image_size, channels)
    return cache_dir() / "data" / f"folder-{stem}-{key}.safetensors"


def _remember(cached: Path, dataset: Dataset) -> None:
    from safetensors.torch import save

    tensors = {name: getattr(dataset, name) for name in TENSORS}
    atomic_write(cached, save(tensors, metadata={"classes": json.dumps(dataset.classes)}))


def _recall(cached: Path) -> Dataset | None:
    """The data set kept there, without name and source; None where there is none, or a damaged file."""
    from safetensors import SafetensorError, safe_open

    if not cached.exists():
        return None
    try:
        with safe_open(cached, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in TENSORS}
            return Dataset("", tuple(json.loads(file.metadata()["classes"])), source="", **tensors)
    except (OSError, SafetensorError):
        return None
