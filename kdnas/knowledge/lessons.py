"""A batch of images together with what the teacher said about them."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kdnas.data import Batch, Dataset, Views

if TYPE_CHECKING:
    from kdnas.knowledge.live import LiveTeacher
    from kdnas.knowledge.store import Store


class Lesson(NamedTuple):
    """What one training step sees.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1]; empty where not asked for.
        labels: (B,) int64; -1 where an image has no label.
        features: (B, target_dim) of the teacher on the same view, as the store's form gives them; None where not asked
            for.
        probabilities: (B, classes) of the teacher; None where not asked for.
    """

    images: Tensor
    labels: Tensor
    features: Tensor | None
    probabilities: Tensor | None

    def repeat(self, times: int) -> "Lesson":
        """The lesson ``times`` over, its images left out: (times B, ...), whole batches one after another."""
        features, probabilities = (
            None if part is None else part.repeat(times, 1) for part in (self.features, self.probabilities)
        )
        return Lesson(self.images[:0], self.labels.repeat(times), features, probabilities)


class Lessons:
    """Turns batches of ids into pixels and stored knowledge; only a ``LiveTeacher`` is ever run.

    Args:
        dataset: Its training images are read.
        views: The augmentation that the store was made with.
        store: What the teacher said, or the teacher itself, run in every step; None where there is no teacher.
        n_views: Views that training uses, 0 to n_views - 1.
        posterior: ``view`` pairs an image with the posterior of the same view, ``mean`` with the mean over all stored
            views of the image (a better estimate of its class). Features are always of the same view.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: Views,
        store: "Store | LiveTeacher | None",
        n_views: int = 1,
        posterior: str = "mean",
    ) -> None:
        self.dataset, self.views, self.store, self.n_views = dataset, views, store, n_views
        self.posterior = posterior

    def __call__(self, batch: Batch, device: torch.device, teacher: bool = True, pixels: bool = True) -> Lesson:
        """The lesson of ``batch`` on ``device``.

        Args:
            batch: Ids, labels, and the view.
            device: Where the tensors go.
            teacher: Read features and probabilities from the store.
            pixels: Compute the images.
        """
        ids = batch.ids if pixels else batch.ids[:0]
        images = self.views.apply(self.dataset.train_images[ids], ids, batch.view)
        images = images.to(device, memory_format=torch.channels_last)
        labels = batch.labels.to(device)
        if not teacher:
            return Lesson(images, labels, None, None)
        if self.store is None:
            raise ValueError("a distillation term has a weight, but there is no stored knowledge")
        features, probabilities = self.store.read(batch.ids, batch.view)
        if self.posterior == "mean":
            probabilities = self.store.mean_probs(batch.ids)
        return Lesson(images, labels, features.to(device), probabilities.to(device))
