"""Data sets, splits, views and batches.

A data set is a handful of tensors: images as uint8, labels as int64. Splits and batches carry ids into them;
views turn a batch of uint8 images into floats in [0, 1], the same pixels every time for the same (image,
view).
"""

from kdnas.data.cache import empty_cache, list_cache
from kdnas.data.dataset import Dataset
from kdnas.data.load import list_datasets, load_dataset
from kdnas.data.loader import Batch, batches
from kdnas.data.splits import Splits, make_splits
from kdnas.data.views import Views

__all__ = [
    "Batch",
    "Dataset",
    "Splits",
    "Views",
    "batches",
    "empty_cache",
    "list_cache",
    "list_datasets",
    "load_dataset",
    "make_splits",
]
