"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), whole or as the subset inside this package."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdnas.data.dataset import Dataset
from kdnas.data.download import fetch
from kdnas.errors import InputError

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SOURCE = "Fashion-MNIST, © 2017 Zalando SE, MIT licence, https://github.com/zalandoresearch/fashion-mnist"
FILES = Path(__file__).parent / "files"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
SIDE = 28
TILES_PER_ROW = 100


def read_idx(path: Path) -> Tensor:
    """The uint8 tensor in a gzipped idx file (the format of MNIST), of the shape its header states.

    Raises:
        InputError: The file is missing, damaged, or of another format.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "damaged gzip data"
        raise InputError(f"cannot read {path}: {reason}; get the file again") from None
    # Two zero bytes, 8 for "unsigned byte", the number of dimensions, each dimension as big-endian uint32.
    dimensions = data[3] if len(data) > 3 else 0
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if data[:3] != b"\0\0\x08" or len(data) != start + math.prod(shape):
        raise InputError(f"{path} is not a whole idx file of unsigned bytes: get the file again")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def load_fashion_mnist(root: Path | None = None) -> Dataset:
    """All 60,000 training and 10,000 test images, (1, 28, 28).

    Args:
        root: A folder with the four ``*-ubyte.gz`` files. Without it: Debian's folder where it exists, else a
            download.

    Raises:
        InputError: A file is missing or damaged, or the download failed.
    """
    if root is None and DEBIAN.is_dir():
        root = DEBIAN
    train_images, train_labels, test_images, test_labels = (
        read_idx(root / name if root else fetch(URL + name, md5, "fashion-mnist")) for name, md5 in MD5.items()
    )
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if labels.ndim != 1 or images.shape != (len(labels), SIDE, SIDE) or labels.max() >= len(CLASSES):
            raise InputError(f"the files in {root} are not those of Fashion-MNIST: give the folder that holds them")
    return Dataset(
        name="fashion-mnist",
        classes=CLASSES,
        train_images=train_images[:, None],
        train_labels=train_labels.long(),
        test_images=test_images[:, None],
        test_labels=test_labels.long(),
        source=SOURCE,
    )


def balanced_subset(images: Tensor, labels: Tensor, count: int) -> Tensor:
    """The first ``count / 10`` images of each class, dealt in turns: element i has label i mod 10.

    Args:
        images: uint8, (N, 28, 28).
        labels: (N,), each of the 10 classes at least ``count / 10`` times.
        count: A multiple of 10.

    Returns:
        uint8, (count, 28, 28).
    """
    ids = torch.stack([(labels == c).nonzero()[: count // 10, 0] for c in range(10)], 1)  # (count / 10, 10)
    return images[ids.flatten()]


def to_mosaic(images: Tensor) -> np.ndarray:
    """Lay (N, 28, 28) images out as one grey picture, 100 in a row; N is a multiple of 100."""
    rows = len(images) // TILES_PER_ROW
    tiles = images.numpy().reshape(rows, TILES_PER_ROW, SIDE, SIDE)
    return tiles.transpose(0, 2, 1, 3).reshape(rows * SIDE, TILES_PER_ROW * SIDE)


def from_mosaic(picture: np.ndarray) -> Tensor:
    """The inverse of ``to_mosaic``, with a channel axis: uint8, (N, 1, 28, 28)."""
    rows = picture.shape[0] // SIDE
    tiles = picture.reshape(rows, SIDE, TILES_PER_ROW, SIDE).transpose(0, 2, 1, 3)
    return torch.from_numpy(tiles.reshape(-1, 1, SIDE, SIDE).copy())


def load_fashion_mini() -> Dataset:
    """10,000 training and 2,000 test images of Fashion-MNIST, (1, 28, 28), balanced; in this package.

    Stored as two PNG mosaics (lossless, and to be looked at), made by ``scripts/make_fashion_mini.py`` with
    ``balanced_subset``; the label of element i is i mod 10.
    """
    from PIL import Image

    train, test = (
        from_mosaic(np.asarray(Image.open(FILES / f"fashion-mini-{part}.png"))) for part in ("train", "test")
    )
    return Dataset(
        name="fashion-mini",
        classes=CLASSES,
        train_images=train,
        train_labels=torch.arange(len(train)) % 10,
        test_images=test,
        test_labels=torch.arange(len(test)) % 10,
        source=f"10,000 + 2,000 balanced images of {SOURCE}",
    )
