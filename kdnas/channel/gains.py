"""Channels without memory: each symbol meets one gain, y_i = h_i x_i + n_i."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kdnas.channel.base import State
from kdnas.channel.csi import Csi
from kdnas.channel.equaliser import Equaliser, equalise_gains
from kdnas.channel.noise import Randomness, complex_gaussian
from kdnas.channel.power import noise_power


class Law(Protocol):
    """How gains are drawn.

    Attributes:
        mean: E h, real.
        variance: E|h - E h|^2.
    """

    @property
    def mean(self) -> float:
        """As above."""
        ...

    @property
    def variance(self) -> float:
        """As above."""
        ...

    def draw(self, batch: int, symbols: int, generator: Randomness) -> Tensor:
        """Gains (B, 1) for whole code words, or (B, k) for each symbol, complex64."""
        ...


@dataclass(frozen=True)
class Gains:
    """A channel of gains: y = h x + n (a ``Channel``).

    Attributes:
        law: Of h.
        csi: What the receiver knows of h beside its law.
        equaliser: Undoes what it knows.
    """

    law: Law
    csi: Csi
    equaliser: Equaliser = "mmse"

    @property
    def mean_gain(self) -> float:
        """E|h|^2."""
        return self.law.mean**2 + self.law.variance

    @property
    def coherent(self) -> bool:
        """False where the receiver knows nothing of h, nor has h a mean."""
        return self.csi.kind != "none" or self.law.mean != 0

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> State:
        """Generate gains, noise, and the receiver's estimate of the gains (see ``Channel.sample``)."""
        h = self.law.draw(batch, symbols, generator)
        noise = complex_gaussian(generator, batch, symbols) * noise_power(snr_db).sqrt()[:, None]
        return State(h, noise, self.csi.estimate(h, self.law.mean, self.law.variance, generator))

    def apply(self, x: Tensor, state: State) -> Tensor:
        """Return y = h x + n."""
        return state.h * x + state.noise

    def equalise(self, y: Tensor, state: State, snr_db: Tensor, sent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Divide by the gain as far as it is known (see ``Channel.equalise`` and ``equalise_gains``).

        The error of a gain that is known in part acts as noise of its power.
        """
        if not self.coherent:
            return y, snr_db
        error = self.csi.error_power(self.law.variance)
        return equalise_gains(y, state.known, snr_db, sent, error_power=error, kind=self.equaliser)
