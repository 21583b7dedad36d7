"""The channels by name. Each generates a state, applies it to code words, and equalises what arrives."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdnas.channel.noise import Randomness, complex_gaussian
from kdnas.channel.power import noise_power
from kdnas.errors import InputError


class State(NamedTuple):
    """One realisation of the channel for each sample.

    Attributes:
        h: (B, 1) complex64, the gain; E|h|^2 = 1.
        noise: (B, k) complex64, of power N_0 at the SNR it was sampled for, N_0/2 in I and in Q.
    """

    h: Tensor
    noise: Tensor


class Channel(Protocol):
    """What a channel must do. Everything acts per sample and is differentiable in the symbols."""

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> State:
        """Generate the gains and the noise of ``batch`` samples.

        Args:
            batch: B.
            symbols: k, complex symbols per sample.
            snr_db: (B,) average SNR E_s/N_0 in dB.
            generator: A ``torch.Generator``, or ``ImageNoise`` in evaluation.
        """
        ...

    def apply(self, x: Tensor, state: State) -> Tensor:
        """What arrives, (B, k) complex64, when ``x`` (B, k) is sent through ``state``."""
        ...

    def equalise(self, y: Tensor, state: State, snr_db: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the gain.

        Returns:
            The symbols (B, k), unbiased: x plus noise; and (B,) their effective SNR in dB (E|x|^2 = 1 over
            the power of that noise).
        """
        ...


class Awgn:
    """Additive white Gaussian noise: y = x + n, n ~ CN(0, N_0)."""

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> State:
        """Generate noise; the gain is 1 (see ``Channel.sample``)."""
        noise = complex_gaussian(generator, batch, symbols)
        return State(torch.ones_like(noise[:, :1]), noise * noise_power(snr_db).sqrt()[:, None])

    def apply(self, x: Tensor, state: State) -> Tensor:
        """Return y = x + n."""
        return x + state.noise

    def equalise(self, y: Tensor, state: State, snr_db: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing to undo: the symbols and the SNR as they are."""
        return y, snr_db


class Rayleigh:
    """Block fading with perfect CSI at the receiver: y = h x + n, one h ~ CN(0, 1) per sample.

    The transmitter knows the average SNR only. The equaliser y / h is zero forcing, which for one scalar
    gain is
    also the unbiased MMSE equaliser: both differ by a factor that the effective SNR tells. Given h, the
    result is exactly an AWGN channel at the effective SNR |h|^2 E_s/N_0, in dB ``snr_db + 10 log10 |h|^2``.
    """

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> State:
        """Generate one gain per sample, and noise (see ``Channel.sample``)."""
        h = complex_gaussian(generator, batch, 1, stream="fading")
        noise = complex_gaussian(generator, batch, symbols)
        return State(h, noise * noise_power(snr_db).sqrt()[:, None])

    def apply(self, x: Tensor, state: State) -> Tensor:
        """Return y = h x + n."""
        return state.h * x + state.noise

    def equalise(self, y: Tensor, state: State, snr_db: Tensor) -> tuple[Tensor, Tensor]:
        """Return y / h, and the effective SNR of each sample (see ``Channel.equalise``)."""
        # A gain of exactly 0 (-120 dB and below here) must give a useless symbol, not a NaN.
        gain = torch.view_as_real(state.h).square().sum(-1).clamp_min(1e-12)  # (B, 1)
        return y * state.h.conj() / gain, snr_db + 10.0 * gain[:, 0].log10()


CHANNELS: dict[str, Callable[[], Channel]] = {"awgn": Awgn, "rayleigh": Rayleigh}


def list_channels() -> list[str]:
    """The names that ``get_channel`` knows."""
    return sorted(CHANNELS)


def get_channel(name: str) -> Channel:
    """The channel called ``name``.

    Raises:
        InputError: There is none of that name.
    """
    if name not in CHANNELS:
        raise InputError(f"unknown channel {name!r}: choose one of {', '.join(list_channels())}")
    return CHANNELS[name]()
