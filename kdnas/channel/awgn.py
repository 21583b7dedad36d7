"""Additive white Gaussian noise alone."""

import torch
from torch import Tensor

from kdnas.channel.base import State
from kdnas.channel.noise import Randomness, complex_gaussian
from kdnas.channel.power import noise_power


class Awgn:
    """Additive white Gaussian noise: y = x + n, n ~ CN(0, N_0)."""

    mean_gain = 1.0
    coherent = True

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> State:
        """Generate noise; the gain is 1 (see ``Channel.sample``)."""
        noise = complex_gaussian(generator, batch, symbols)
        return State(torch.ones_like(noise[:, :1]), noise * noise_power(snr_db).sqrt()[:, None])

    def apply(self, x: Tensor, state: State) -> Tensor:
        """Return y = x + n."""
        return x + state.noise

    def equalise(self, y: Tensor, state: State, snr_db: Tensor, sent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Nothing to undo: the symbols and the SNR as they are."""
        return y, snr_db
