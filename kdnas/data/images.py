"""From a picture of any mode and size to a uint8 array, by one path for every data set."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


def to_array(image: "Image.Image", image_size: int | None, channels: int | None) -> np.ndarray:
    """One picture as a uint8 array (C, H, W).

    Grey pictures stay grey (C = 1) and all others become RGB (C = 3) unless ``channels`` says otherwise. Grey
    from colour is the ITU-R 601 luma. Transparency is dropped; 16-bit grey is scaled to 8 bits. The whole
    picture is resized to the square, whatever its aspect (bilinear over the area that a pixel covers).

    Args:
        image: An open Pillow image.
        image_size: Side of the square in pixels; None keeps the size.
        channels: 1, 3, or None.

    Raises:
        ValueError: Floating-point pixels, whose range is unknown.
        OSError: The file behind the picture is damaged.
    """
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # Pillow would clip these at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    mode = "L" if channels == 1 or (channels is None and image.mode in GREY_MODES) else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def decode(data: bytes, image_size: int | None, channels: int | None) -> np.ndarray | str:
    """The pixels of an image file, upright by its EXIF, as ``to_array`` gives them; or why there are none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as image:
            if image_size is not None:  # a JPEG may be decoded at 1/2, 1/4 or 1/8; other formats take no notice
                image.draft(image.mode, (2 * image_size, 2 * image_size))
            return to_array(ImageOps.exif_transpose(image), image_size, channels)
    except UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # Pillow's readers raise nearly anything on damaged data
        return str(error) or type(error).__name__


def convert(images: Tensor, image_size: int | None, channels: int | None) -> Tensor:
    """Resize and recolour a uint8 batch (N, C, H, W) as ``to_array`` does."""
    from PIL import Image

    count, had, height, width = images.shape
    size = image_size or height
    wanted = channels or had
    if (wanted, size, size) == (had, height, width):
        return images
    out = np.empty((count, wanted, size, size), np.uint8)
    for i, pixels in enumerate(images.numpy()):
        image = Image.fromarray(pixels[0] if had == 1 else pixels.transpose(1, 2, 0))
        out[i] = to_array(image, image_size, wanted)
    return torch.from_numpy(out)
