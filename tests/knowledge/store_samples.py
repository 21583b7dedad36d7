"""A teacher, a data set and a way to build a store of them, small enough for every test and for other processes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnas.data import Dataset, Views
from kdnas.knowledge import InputSpec, Store

CLASSES, FEATURES, IMAGES = 5, 7, 23


class FakeTeacher:
    """Features are a fixed random projection of the pixels; it counts the images that it was shown."""

    name = "fake"
    feature_dim = FEATURES
    classes = CLASSES
    input = InputSpec(1, 8, (0.0,), (1.0,))
    parameter_count = 64 * FEATURES

    def __init__(self, seed: int = 0, features: int = FEATURES) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.feature_dim = features
        self.weight = torch.randn(64, features, generator=draws)
        self.head = torch.randn(features, CLASSES, generator=draws)
        self.hash = f"fake-{seed}"
        self.seen = 0

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1) @ self.weight

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.head


def make_dataset(seed: int = 0, n: int = IMAGES) -> Dataset:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=draws)
    labels = torch.arange(n) % CLASSES
    return Dataset("fake", tuple("abcde"), images, labels, images[:5], labels[:5], "made here")


DATA, VIEWS = make_dataset(), Views(shift=1)
WEIGHTS = torch.arange(0, IMAGES, 2)


def build(
    directory: Path | None, teacher: Any = None, dataset: Dataset = DATA, views: Views = VIEWS, n_views: int = 3,
    **kwargs: Any,
) -> Store:  # fmt: skip
    kwargs = {"weights_ids": WEIGHTS, "top_k": CLASSES, "directory": directory, "progress": False, **kwargs}
    return Store.build(teacher or FakeTeacher(), dataset, views, n_views, **kwargs)


def truth(view: int, ids: Tensor, teacher: Any = None) -> tuple[Tensor, Tensor]:
    teacher = teacher or FakeTeacher()
    features = teacher.features(VIEWS.apply(DATA.train_images[ids], ids, view))
    return features, teacher.logits(features).softmax(1)
