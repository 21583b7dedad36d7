#!/usr/bin/env python3
"""Make the data set fashion-mini: a balanced, lossless subset of the real Fashion-MNIST, as two PNG mosaics.

The first 1,000 training and the first 200 test images of each class, dealt in turns: element i has label
i mod 10.
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from kdnas.data.fashion import DEBIAN, FILES, balanced_subset, load_fashion_mnist, to_mosaic
from kdnas.run.files import atomic_write


def main() -> None:
    """Read Fashion-MNIST, write the two pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=DEBIAN, help="folder of the idx .gz files")
    parser.add_argument("--out", type=Path, default=FILES, help="folder to write to (default: %(default)s)")
    arguments = parser.parse_args()
    full = load_fashion_mnist(arguments.source)
    parts = (
        ("train", full.train_images, full.train_labels, 10_000),
        ("test", full.test_images, full.test_labels, 2_000),
    )
    for part, images, labels, count in parts:
        mosaic = to_mosaic(balanced_subset(images[:, 0], labels, count))
        picture = io.BytesIO()
        Image.fromarray(mosaic).save(picture, "PNG", optimize=True)
        path = arguments.out / f"fashion-mini-{part}.png"
        atomic_write(path, picture.getvalue())
        print(f"{path}: {count} images, {len(picture.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
