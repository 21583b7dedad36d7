"""What a data set is: two sets of images with their labels, held in memory."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from kdnas.run.files import hash_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels for classification.

    Attributes:
        name: As given to ``load_dataset``.
        classes: Names of the classes; a label is an index into it.
        train_images: uint8, (N, C, H, W), C = 1 (grey) or 3 (RGB), H = W. An image's id is its index here.
        train_labels: int64, (N,), in [0, len(classes)).
        test_images: uint8, (M, C, H, W). Read by evaluation only.
        test_labels: int64, (M,).
        source: What the data are, where they come from, and their licence.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: str

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the content: class names, images and labels; neither the name nor the source."""
        return hash_of(
            "dataset",
            self.classes,
            self.train_images,
            self.train_labels,
            self.test_images,
            self.test_labels,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width
