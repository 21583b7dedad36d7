"""Rayleigh and Rician fading, constant over a code word or new for each symbol."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kdnas.channel.noise import Randomness, complex_gaussian
from kdnas.errors import InputError

Fading = Literal["block", "fast"]


@dataclass(frozen=True)
class Scatter:
    """A line of sight and many scattered paths: h = sqrt(K / (K + 1)) + sqrt(1 / (K + 1)) g, g ~ CN(0, 1).

    E|h|^2 = 1 for every K. The line of sight has phase 0: a receiver tracks it. Source: Tse and Viswanath,
    Fundamentals of Wireless Communication, eq. 2.54; K = 0 is Rayleigh fading.

    Attributes:
        k: K, power of the line of sight over that of the scattered paths.
        fading: ``block``: one gain for a code word; ``fast``: one for each symbol, all independent.
    """

    k: float = 0.0
    fading: Fading = "block"

    @property
    def mean(self) -> float:
        """E h."""
        return float((self.k / (self.k + 1)) ** 0.5)

    @property
    def variance(self) -> float:
        """E|h - E h|^2."""
        return 1 / (self.k + 1)

    def draw(self, batch: int, symbols: int, generator: Randomness) -> Tensor:
        """(B, 1) or (B, k) complex64 (see ``Law.draw``)."""
        g = complex_gaussian(generator, batch, symbols if self.fading == "fast" else 1, stream="fading")
        return g if self.k == 0 else self.mean + self.variance**0.5 * g


def rician_factor(k_db: float) -> float:
    """K of a Rician factor in dB, -50 ... 50.

    Raises:
        InputError: It is out of this range, where nothing differs from Rayleigh or from no fading.
    """
    if not -50 <= k_db <= 50:
        raise InputError(f"k_db is {k_db:g}: give a Rician factor of -50 to 50 dB (or take rayleigh, or awgn)")
    return float(10 ** (k_db / 10))
