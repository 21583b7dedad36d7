"""Symbols that are lost, alone or in bursts, as by an interferer or a receiver that is busy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdnas.channel.noise import Randomness, uniform
from kdnas.errors import InputError


@dataclass(frozen=True)
class Erasure:
    """A symbol arrives (h = 1) or is lost (h = 0, noise alone): the two-state Markov chain of Gilbert (1960).

    A symbol is lost with probability ``p``, and a burst of lost symbols has the mean length ``burst``. The chain
    starts in its stationary law. SNR is that of a symbol that arrives, so E|h|^2 = 1 - p.

    Attributes:
        p: Probability that a symbol is lost, 0 < p < 1.
        burst: Mean number of symbols lost in a row; None: 1 / (1 - p), that of independent losses.

    Raises:
        InputError: A probability that is not between 0 and 1, or a burst so short that ``p`` cannot be reached.
    """

    p: float
    burst: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise InputError(f"p is {self.p:g}: give a probability above 0 and below 1")
        # The chain must not enter a burst with probability above 1, nor may one be shorter than a symbol.
        least = max(1.0, self.p / (1 - self.p))
        if self.burst is not None and self.burst < least * (1 - 1e-9):
            raise InputError(f"burst is {self.burst:g}: with p={self.p:g} a burst is {least:g} symbols or more")

    @property
    def mean(self) -> float:
        """E h."""
        return 1 - self.p

    @property
    def variance(self) -> float:
        """E|h - E h|^2."""
        return self.p * (1 - self.p)

    def draw(self, batch: int, symbols: int, generator: Randomness) -> Tensor:
        """(B, k) complex64 of 0 and 1 (see ``Law.draw``)."""
        level = uniform(generator, batch, symbols, stream="fading")
        burst = self.burst or 1 / (1 - self.p)
        enter, stay = self.p / (burst * (1 - self.p)), 1 - 1 / burst
        lost = level[:, 0] < self.p
        states = [lost]
        for place in range(1, symbols):
            lost = level[:, place] < torch.where(lost, stay, enter)
            states.append(lost)
        return (~torch.stack(states, 1)).to(torch.complex64)
