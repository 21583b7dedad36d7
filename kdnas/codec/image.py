"""Images to few bits by JPEG and WebP, headers left out, and the best that fits a number of bits.

What is counted of a file is what a receiver that knows the format cannot know: of JPEG (standard Huffman tables) the
entropy-coded scan between the scan header and the end marker, of WebP (lossy) the VP8 chunk without its 10 bytes of
frame tag, start code and size. One byte more names codec, scale and quality. The image may be sent at half and a
quarter of its size: at few bits that is better than any quality of the whole.
"""

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SCALES = (1, 2, 4)  # by which the side is divided
QUALITIES = (1, 5, 10, 20, 30, 50, 70, 90)
MODE_BITS = 8
NEVER = 1 << 40  # bits of a rung that there is not


class Rung(NamedTuple):
    """One way to code an image."""

    codec: str
    scale: int
    quality: int


RUNGS = tuple(Rung(codec, scale, quality) for codec in ("JPEG", "WEBP") for scale in SCALES for quality in QUALITIES)


def encode(image: np.ndarray, rung: Rung) -> bytes:
    """A file of an image (H, W, C) uint8, C being 1 or 3."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if rung.scale > 1:
        size = (max(1, picture.width // rung.scale), max(1, picture.height // rung.scale))
        picture = picture.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    if rung.codec == "JPEG":
        picture.save(file, "JPEG", quality=rung.quality, optimize=False)
    else:
        picture.convert("RGB").save(file, "WEBP", quality=rung.quality)
    return file.getvalue()


def decode(file: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The image (H, W, C) uint8 of a file, at its full size again."""
    height, width, channels = shape
    picture = Image.open(io.BytesIO(file)).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(shape)


def payload_bytes(file: bytes) -> int:
    """How many bytes of a JPEG or WebP file of ``encode`` must be sent."""
    if file[:2] == b"\xff\xd8":
        scan = file.index(b"\xff\xda")  # start of scan: the header behind it tells its own length
        return len(file) - 2 - (scan + 2 + int.from_bytes(file[scan + 2 : scan + 4], "big"))
    chunk = file.index(b"VP8 ")
    return int.from_bytes(file[chunk + 4 : chunk + 8], "little") - 10


class Ladder(NamedTuple):
    """For each image the rungs that no other beats in both bits and squared error, from fewest bits up.

    Attributes:
        bits: (N, F) int64, rising; ``NEVER`` where an image has fewer than F rungs.
        rungs: (N, F) int64, indices into ``RUNGS``; -1 where an image has fewer.
    """

    bits: Tensor
    rungs: Tensor


def make_ladder(images: Tensor) -> tuple[Ladder, dict[int, Tensor]]:
    """Code images (N, C, H, W) uint8 in every way.

    Returns:
        The ladder, and by rung's index the decoded images (N, C, H, W) uint8 of the rungs that stand on a ladder.
    """
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
    costs = np.empty((len(arrays), len(RUNGS)), np.int64)
    errors = np.empty((len(arrays), len(RUNGS)))
    seen = np.empty((len(RUNGS), *arrays.shape), np.uint8)
    for number, array in enumerate(arrays):
        for index, rung in enumerate(RUNGS):
            file = encode(array, rung)
            seen[index, number] = decode(file, array.shape)
            costs[number, index] = 8 * payload_bytes(file) + MODE_BITS
            errors[number, index] = np.square(seen[index, number].astype(float) - array).mean()
    ladders = [_frontier(cost, error) for cost, error in zip(costs, errors, strict=True)]
    longest = max(map(len, ladders))
    rungs = np.full((len(arrays), longest), -1, np.int64)
    bits = np.full((len(arrays), longest), NEVER, np.int64)
    for number, own in enumerate(ladders):
        rungs[number, : len(own)], bits[number, : len(own)] = own, costs[number, own]
    used = np.unique(rungs[rungs >= 0]).tolist()
    decoded = {index: torch.from_numpy(seen[index]).permute(0, 3, 1, 2) for index in used}
    return Ladder(torch.from_numpy(bits), torch.from_numpy(rungs)), decoded


def _frontier(costs: np.ndarray, errors: np.ndarray) -> list[int]:
    kept: list[int] = []
    for index in np.lexsort((errors, costs)).tolist():
        if not kept or errors[index] < errors[kept[-1]]:
            kept.append(index)
    return kept
