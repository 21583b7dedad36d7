"""Random numbers that depend on a key alone: never on a global state, the batch, or what ran before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdnas.run.files import hash_of

if TYPE_CHECKING:
    import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that is a hash of ``key``."""
    return int(hash_of(*key), 16) >> 1


def generator(*key: int | str, device: "str | torch.device" = "cpu") -> "torch.Generator":
    """A fresh generator seeded from ``key``, for example ``generator(seed, "stage2", epoch, step)``."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_of(*key))


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed torch's global generator from ``key`` inside the block (first weights use it), and put it back after."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*key))
        yield
