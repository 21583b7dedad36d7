"""What the receiver knows of the gains: all, an estimate with an error of known power, or their law alone."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdnas.channel.noise import Randomness, complex_gaussian
from kdnas.errors import InputError

Knowledge = Literal["perfect", "noisy", "none"]


@dataclass(frozen=True)
class Csi:
    """Channel state information (CSI) at the receiver; the transmitter knows the average SNR, or what it is told.

    A noisy estimate is what a pilot gives, h + e with e ~ CN(0, error). The receiver knows the law of h, Gaussian of
    mean m and variance v, and takes the mean of h given the estimate (Kay, Estimation Theory, theorem 10.2):

        m + v / (v + error) (h + e - m),  which is off by an independent error of power v error / (v + error).

    Without CSI this is the limit of an infinite error: the gain is taken to be m, off by a power of v.

    Attributes:
        kind: ``perfect``, ``noisy`` or ``none``.
        error: E|e|^2 of a noisy estimate, where E|h|^2 = 1; None otherwise.

    Raises:
        InputError: An error that is not above 0, a noisy estimate without one, or an error with other CSI.
    """

    kind: Knowledge = "perfect"
    error: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "noisy" and self.error is None:
            raise InputError("csi=noisy needs the power of its error: give csi_error=0.1 or the like")
        if self.kind != "noisy" and self.error is not None:
            raise InputError(f"csi_error is of csi=noisy: leave it out with csi={self.kind}")
        if self.error is not None and not self.error > 0:
            raise InputError(f"csi_error is {self.error:g}: give more than 0, or csi=perfect")

    def estimate(self, h: Tensor, mean: float, variance: Tensor | float, generator: Randomness) -> Tensor | None:
        """What the receiver takes the gains to be; None where it knows them.

        Args:
            h: (B, n) complex64.
            mean: m.
            variance: v, a number or (n,).
            generator: Of the estimate's error.
        """
        if self.kind == "perfect":
            return None
        if self.error is None:
            return torch.full_like(h, mean)
        share = self._share(variance)
        e = complex_gaussian(generator, h.shape[0], h.shape[1], stream="csi") * share**0.5
        return mean + variance / (variance + share) * (h + e - mean)

    def error_power(self, variance: Tensor | float) -> float:
        """E|h - estimate|^2, summed over the gains where ``variance`` is (n,)."""
        if self.kind == "perfect":
            return 0.0
        power = torch.as_tensor(variance)
        if self.error is not None:
            power = power * self._share(variance) / (power + self._share(variance))
        return float(power.sum())

    def _share(self, variance: Tensor | float) -> float:
        """The error's power in each gain: taps share it, so that it is ``error`` at any frequency."""
        assert self.error is not None
        return self.error / len(variance) if isinstance(variance, Tensor) else self.error
