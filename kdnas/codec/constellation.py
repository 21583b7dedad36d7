"""Square constellations for radios that send nothing but their points: QPSK ... 256-QAM, straight-through."""

import math

import torch
from torch import Tensor

from kdnas.errors import InputError

# Amplitudes on each of I and Q.
LEVELS = {"qpsk": 2, "16qam": 4, "64qam": 8, "256qam": 16}
CONSTELLATIONS = ("none", *LEVELS)
# The scale is sought in 0 ... 8 by halving, to 1/2000: weak symbols grow where strong ones are clipped.
_MOST, _HALVINGS = 8.0, 14


def check_constellation(name: str) -> str:
    """``name``, where there is such a constellation.

    Raises:
        InputError: There is none.
    """
    if name not in CONSTELLATIONS:
        raise InputError(f"no constellation {name!r}: choose one of {', '.join(CONSTELLATIONS)}")
    return name


def points(name: str) -> Tensor:
    """The M points of a constellation, (M,) complex64, of mean power 1 over them."""
    axis = (2 * torch.arange(LEVELS[name]) - LEVELS[name] + 1) * _spacing(name)
    return torch.complex(*torch.meshgrid(axis, axis, indexing="ij")).flatten()


def to_constellation(x: Tensor, mask: Tensor, name: str) -> Tensor:
    """Move each symbol to a point of the constellation, its gradient going straight through.

    Every sample is scaled before by the largest factor with which its points have a mean power of at most 1: a code
    could otherwise win power by rounding upwards (16-QAM: up to 2.55 dB), or lose it by clipping. What is sent are the
    points themselves, without a scale, so that the power of a sample is at most 1 and not exactly 1.

    Args:
        x: (B, k) complex, of mean power 1 over the symbols sent.
        mask: (B, k) bool, the symbols sent; the others stay 0.
        name: Of ``LEVELS``.

    Returns:
        (B, k) complex: the derivative by ``x`` is taken for 1 (Bengio et al., arXiv 1308.3432).
    """
    pairs = torch.view_as_real(x)
    fixed, sent = pairs.detach(), mask[..., None]
    low, high = torch.zeros_like(fixed[:, :1, :1]), torch.full_like(fixed[:, :1, :1], _MOST)
    for _ in range(_HALVINGS):  # the power never falls with the scale
        middle = (low + high) / 2
        power = (_nearest(middle * fixed, name).square() * sent).sum((1, 2), keepdim=True) / mask.sum(1)[:, None, None]
        fits = power <= 1 + 1e-5  # rounding: the points of QPSK have power 1, whatever the scale
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    moved = _nearest(low * fixed, name) * sent
    return torch.view_as_complex(moved + (pairs - fixed))


def _spacing(name: str) -> float:
    """Half the distance of neighbours: mean power 2 (L² - 1) / 3 times its square is 1."""
    return math.sqrt(1.5 / (LEVELS[name] ** 2 - 1))


def _nearest(reals: Tensor, name: str) -> Tensor:
    """The nearest amplitude, elementwise: an odd multiple of the spacing."""
    spacing, top = _spacing(name), LEVELS[name] // 2 - 1
    return (2 * torch.floor(reals / (2 * spacing)).clamp(-top - 1, top) + 1) * spacing
