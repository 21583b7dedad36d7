"""Views: seeded augmentations that are a function of (seed, image id, view number) and of nothing else."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdnas.run.files import hash_of


@dataclass(frozen=True)
class Views:
    """A numbered family of augmentations: shift by whole pixels, and horizontal flip.

    View 0 is the image itself. In view v > 0 each image is flipped with probability 1/2 (where ``flip`` is
    set) and then shifted by (dy, dx), each uniform in {-shift, …, shift}; what comes in from outside is 0.
    Pixels are only moved, never mixed, so every value is a whole number divided by 255. The draws come from a
    counter-based hash (the finaliser of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", 2014), so an image's pixels do not depend on its batch-mates, the batch size, or the
    order of the calls.

    Attributes:
        flip: Whether a view may mirror left and right; unset it where direction has meaning (digits, signs).
        shift: The largest shift in pixels, at least 0.
        seed: Of the family.
    """

    flip: bool = True
    shift: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift must not be negative, got {self.shift}")

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change with any setting."""
        return hash_of("views", 1, self.flip, self.shift, self.seed)

    def apply(self, images: Tensor, ids: Tensor, view: int) -> Tensor:
        """Compute one view of a batch.

        Args:
            images: uint8, (B, C, H, W): the images that ``ids`` name.
            ids: int64, (B,).
            view: The number of the view, at least 0; 0 is the identity.

        Returns:
            float32, (B, C, H, W), in [0, 1], on the device of ``images``.

        Raises:
            ValueError: Not uint8 images, another number of ids than images, or a negative view.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or ids.shape != images.shape[:1] or view < 0:
            raise ValueError(
                f"views need uint8 images (B, C, H, W), ids (B,) and view >= 0; got {images.dtype} "
                f"{tuple(images.shape)}, ids {tuple(ids.shape)}, view {view}"
            )
        if view > 0 and (self.flip or self.shift):
            images = self._move(images, ids.to(images.device), view)
        return images.to(torch.float32).div_(255)

    def _move(self, images: Tensor, ids: Tensor, view: int) -> Tensor:
        height, width = images.shape[-2:]
        words = self._words(ids, view)  # (3, B)
        dy, dx = words[:2] % (2 * self.shift + 1) - self.shift
        mirrored = (words[2] & 1).bool() if self.flip else torch.zeros_like(ids, dtype=torch.bool)
        rows = torch.arange(height, device=ids.device) - dy[:, None]  # (B, H): the source row of each row
        columns = torch.arange(width, device=ids.device) - dx[:, None]  # (B, W)
        inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = inside_y[:, :, None] & inside_x[:, None, :]  # (B, H, W)
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        source = rows[:, :, None] * width + columns[:, None, :]  # (B, H, W)
        flat = images.flatten(2)  # (B, C, H·W)
        moved = flat.gather(2, source.flatten(1)[:, None].expand(-1, flat.shape[1], -1)).view_as(images)
        return moved * inside[:, None]

    def _words(self, ids: Tensor, view: int) -> Tensor:
        """(3, B) hash words in [0, 2^63) of (seed, view, which of the three, id)."""
        starts = [int(hash_of("views", self.seed, view, which), 16) for which in ("dy", "dx", "flip")]
        signed = [start - (1 << 64) if start >> 63 else start for start in starts]
        state = torch.tensor(signed, device=ids.device)[:, None]  # (3, 1)
        # int64 multiplication wraps; the shifts are made logical by masking the sign bits that come in.
        mixed = state + ids.to(torch.int64) * -7046029254386353131  # 0x9E3779B97F4A7C15
        mixed = (mixed ^ ((mixed >> 30) & ((1 << 34) - 1))) * -4658895280553007687  # 0xBF58476D1CE4E5B9
        mixed = (mixed ^ ((mixed >> 27) & ((1 << 37) - 1))) * -7723592293110705685  # 0x94D049BB133111EB
        return (mixed ^ ((mixed >> 31) & ((1 << 33) - 1))) & ((1 << 63) - 1)
