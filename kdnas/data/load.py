"""Data sets by name."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kdnas.data.cifar import LAYOUTS, load_cifar
from kdnas.data.dataset import Dataset
from kdnas.data.fashion import load_fashion_mini, load_fashion_mnist
from kdnas.data.folder import load_folder
from kdnas.data.images import convert
from kdnas.data.splits import apportion, stratified
from kdnas.errors import InputError
from kdnas.run.seeds import generator


def list_datasets() -> list[str]:
    """The names that ``load_dataset`` takes; ``folder:PATH`` stands for any path."""
    return ["cifar10", "cifar100", "fashion-mini", "fashion-mnist", "folder:PATH"]


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set.

    Args:
        name: ``fashion-mini`` (in the package), ``fashion-mnist``, ``cifar10``, ``cifar100``, or
            ``folder:PATH`` (see ``load_folder``).
        root: Where the files are, for a data set that is not in the package: see ``load_fashion_mnist`` and
            ``load_cifar``. A relative PATH of ``folder:PATH`` starts here.
        image_size: Resize to a square of this side, in pixels, at least 8.
        channels: 1 (grey) or 3 (RGB): convert to it. None keeps what there is.
        limit: Keep at most this many training and a fifth as many test images, stratified; at least 5 per
            class.
        seed: Which images a ``limit`` keeps; nothing else depends on it.

    Returns:
        The data set, in memory.

    Raises:
        InputError: An unknown name, a setting out of its range, or data that are missing or damaged.
    """
    if image_size is not None and image_size < 8:
        raise InputError(f"image_size = {image_size} is too small: use at least 8")
    if channels not in (None, 1, 3):
        raise InputError(f"channels = {channels} is neither 1 (grey) nor 3 (RGB)")
    if name == "fashion-mini":
        dataset = load_fashion_mini()
    elif name == "fashion-mnist":
        dataset = load_fashion_mnist(root)
    elif name in LAYOUTS:
        dataset = load_cifar(name, root)
    elif name.startswith("folder:") and name != "folder:":
        path = Path(name.removeprefix("folder:")).expanduser()
        dataset = replace(load_folder(root / path if root else path, image_size, channels), name=name)
    else:
        raise InputError(f"unknown data set {name!r}: choose among {', '.join(list_datasets())}")
    if limit is not None:
        dataset = _limited(dataset, limit, seed)
    return replace(
        dataset,
        train_images=convert(dataset.train_images, image_size, channels),
        test_images=convert(dataset.test_images, image_size, channels),
    )


def _limited(dataset: Dataset, limit: int, seed: int) -> Dataset:
    least = 5 * len(dataset.classes)
    if limit < least:
        raise InputError(f"data.limit = {limit} is too small for {len(dataset.classes)} classes: use at least {least}")
    # Two of each class to train with: one for the weights split, one for the architecture split.
    train = _choose(dataset.train_labels, limit, 2, generator("limit", "train", seed))
    test = _choose(dataset.test_labels, limit // 5, 1, generator("limit", "test", seed))
    return replace(
        dataset,
        train_images=dataset.train_images[train],
        train_labels=dataset.train_labels[train],
        test_images=dataset.test_images[test],
        test_labels=dataset.test_labels[test],
    )


def _choose(labels: Tensor, count: int, minimum: int, draw: torch.Generator) -> Tensor:
    """Sorted ids of ``count`` stratified images, at least ``minimum`` a class; all where there are fewer."""
    counts = torch.bincount(labels).tolist()
    order = torch.randperm(len(labels), generator=draw)
    shares = apportion(min(count, len(labels)), counts, minimum, counts)
    return torch.cat(stratified(labels, order, shares)).sort().values
