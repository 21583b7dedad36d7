"""Complex Gaussian numbers: from a generator (training), or from (seed, image, draw) alone (evaluation)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood 2014), its 64-bit constants as signed integers: torch's int64 wraps around.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)

STREAMS = {"noise": 0, "fading": 1, "csi": 2}


@dataclass(frozen=True)
class ImageNoise:
    """Evaluation randomness that is a pure function of (seed, image, draw).

    It may stand wherever a ``torch.Generator`` is taken. No result then depends on batch-mates, on the batch size,
    on the order of images, or on how many symbols are asked for: symbol i of an image and draw meets the same unit
    noise at every SNR and length, so that systems are compared under the same channel.

    Attributes:
        ids: (B,) int64, the images.
        draw: Which channel draw: an int, or (B,) int64 where a batch holds several draws.
        seed: Of the evaluation.
    """

    ids: Tensor
    draw: int | Tensor = 0
    seed: int = 0


Randomness = torch.Generator | ImageNoise


def complex_gaussian(source: Randomness, batch: int, count: int, stream: str = "noise") -> Tensor:
    """Unit circular complex Gaussian numbers: E|n|^2 = 1, variance 1/2 in I and in Q, all independent.

    Args:
        source: A generator, or the images of an evaluation (then ``batch`` must be their number).
        batch: B, the number of samples.
        count: n, how many for each sample.
        stream: ``noise``, ``fading`` or ``csi``; only ``ImageNoise`` tells them apart.

    Returns:
        (B, n) complex64 on the device of ``source``.
    """
    if isinstance(source, ImageNoise):
        if len(source.ids) != batch:
            raise ValueError(f"noise for {len(source.ids)} images was asked for {batch} samples")
        return noise_for(source.ids, source.draw, count, seed=source.seed, stream=stream)
    parts = torch.randn(batch, count, 2, generator=source, device=source.device)
    return torch.view_as_complex(parts * math.sqrt(0.5))


def uniform(source: Randomness, batch: int, count: int, stream: str = "noise") -> Tensor:
    """Independent numbers, uniform in [0, 1]: exp(-|n|^2) of complex Gaussian ones (to about 1e-7).

    Args:
        source: As in ``complex_gaussian``.
        batch: B.
        count: n, how many for each sample.
        stream: As in ``complex_gaussian``.

    Returns:
        (B, n) float64 on the device of ``source``.
    """
    gaussian = torch.view_as_real(complex_gaussian(source, batch, count, stream)).double()
    return (-gaussian.square().sum(-1)).exp()


def noise_for(ids: Tensor, draw: int | Tensor, count: int, *, seed: int = 0, stream: str = "noise") -> Tensor:
    """Unit complex Gaussian numbers that depend on (seed, stream, image, draw, place) alone.

    A counter-based generator: splitmix64 hashes the key and the place to 2 x 53 bits, Box-Muller turns them
    into one complex number of squared modulus Exp(1) and uniform phase.

    Args:
        ids: (B,) int64 image ids.
        draw: An int, or (B,) int64.
        count: n numbers for each sample; a smaller count gives a prefix of a larger one.
        seed: Any int.
        stream: ``noise``, ``fading`` or ``csi``.

    Returns:
        (B, n) complex64 on the device of ``ids``.
    """
    key = torch.full_like(ids, STREAMS[stream])
    for part in (seed, ids, draw):
        key = _mix(key + _GOLDEN) ^ part
    key = _mix(key + _GOLDEN)
    places = torch.arange(1, 2 * count + 1, device=ids.device)
    bits = _mix(key[:, None] + _GOLDEN * places)  # (B, 2n)
    uniform = ((_shift(bits, 11)).double() + 0.5) * 2.0**-53  # in (0, 1)
    first, second = uniform[:, 0::2], uniform[:, 1::2]  # (B, n) each
    radius = (-first.log()).sqrt()
    return torch.polar(radius, 2 * math.pi * second).to(torch.complex64)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)
