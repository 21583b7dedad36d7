"""A tapped delay line, over which OFDM sends: the symbols ride on carriers, a cyclic prefix guards them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnas.channel.base import State
from kdnas.channel.csi import Csi
from kdnas.channel.equaliser import Equaliser, equalise_gains
from kdnas.channel.noise import Randomness, complex_gaussian
from kdnas.channel.power import noise_power
from kdnas.errors import InputError


class Multipath:
    """Multipath Rayleigh fading, constant over a code word, with OFDM (a ``Channel``).

    The taps h_l ~ CN(0, p_l), l = 0 ... ``taps`` - 1, are one sample apart; p_l falls as exp(-l / spread), and their
    sum is 1. Code symbols fill the carriers of one OFDM symbol after the other: inverse DFT (unitary), cyclic
    prefix, convolution with the taps, prefix off, DFT. A carrier then meets the gain H_c = sum_l h_l
    exp(-2 pi i c l / carriers), E|H_c|^2 = 1 (Tse and Viswanath, section 3.4.4). Where the prefix is shorter than
    the taps' tail, carriers and OFDM symbols interfere, which the effective SNR counts.

    **What the prefix costs.** It is paid from the same energy: at a given SNR an image has the energy that its code
    symbols have without a prefix, so that each of them arrives with carriers / (carriers + cp) of it
    (``mean_gain``). Its time is not in the number of symbols: that grows by (carriers + cp) / carriers.

    The noise is added to the carriers; the DFT being unitary, that is white noise before it.

    Args:
        taps: Paths, 1 ... ``carriers``.
        spread: Samples in which the power of the paths falls by e.
        cp: Samples of the cyclic prefix, 0 ... ``carriers``.
        carriers: Of an OFDM symbol, all of which carry code symbols.
        csi: What the receiver knows of the taps; the error of an estimate is per carrier.
        equaliser: For each carrier.

    Raises:
        InputError: A number is out of its range.
    """

    def __init__(
        self,
        taps: int = 4,
        spread: float = 1.5,
        cp: int = 4,
        carriers: int = 16,
        csi: Csi | None = None,
        equaliser: Equaliser = "mmse",
    ) -> None:
        if carriers < 1 or not 1 <= taps <= carriers:
            raise InputError(f"taps is {taps}: give 1 to {max(carriers, 1)}, the number of carriers")
        if not 0 <= cp <= carriers:
            raise InputError(f"cp is {cp}: give 0 to {carriers}, the number of carriers")
        if not spread > 0:
            raise InputError(f"spread is {spread:g}: give more than 0 samples")
        self.taps, self.cp, self.carriers = taps, cp, carriers
        self.csi, self.equaliser = csi or Csi(), equaliser
        self.profile = torch.softmax(-torch.arange(taps, dtype=torch.float32) / spread, 0)  # (taps,), sum 1
        self.mean_gain = carriers / (carriers + cp)
        self.coherent = self.csi.kind != "none"

    def sample(self, batch: int, symbols: int, snr_db: Tensor, generator: Randomness) -> State:
        """Generate taps, noise, and the receiver's estimate of the taps (see ``Channel.sample``)."""
        g = complex_gaussian(generator, batch, self.taps, stream="fading")
        profile = self.profile.to(g.device)
        h = g * profile.sqrt()
        noise = complex_gaussian(generator, batch, symbols) * noise_power(snr_db).sqrt()[:, None]
        return State(h, noise, self.csi.estimate(h, 0.0, profile, generator))

    def apply(self, x: Tensor, state: State) -> Tensor:
        """What the carriers hold after the channel, plus noise."""
        return self.mean_gain**0.5 * self._through(x, state.h) + state.noise

    def equalise(self, y: Tensor, state: State, snr_db: Tensor, sent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Divide each carrier by its gain (see ``Channel.equalise`` and ``equalise_gains``)."""
        if not self.coherent:
            return y, snr_db
        gain, interference = self._carriers(state.known, y.shape[1])
        return equalise_gains(
            y, self.mean_gain**0.5 * gain, snr_db, sent,
            error_power=self.mean_gain * (interference + self.csi.error_power(self.profile)), kind=self.equaliser,
        )  # fmt: skip

    def _through(self, x: Tensor, h: Tensor) -> Tensor:
        """Code words (B, k) through taps (B, taps) by OFDM, without noise: (B, k)."""
        batch, symbols = x.shape
        blocks = F.pad(x, (0, -symbols % self.carriers)).view(batch, -1, self.carriers)  # (B, S, N)
        wave = torch.fft.ifft(blocks, norm="ortho")
        wave = torch.cat([wave[..., self.carriers - self.cp :], wave], -1)  # (B, S, cp + N)
        stream = wave.flatten(1)
        arrived = sum(
            h[:, lag, None] * F.pad(stream, (lag, 0))[:, : stream.shape[1]] for lag in range(self.taps)
        )  # (B, S (cp + N))
        assert isinstance(arrived, Tensor)
        carriers = torch.fft.fft(arrived.view_as(wave)[..., self.cp :], norm="ortho")  # (B, S, N)
        return carriers.flatten(1)[:, :symbols]

    def _carriers(self, h: Tensor, symbols: int) -> tuple[Tensor, Any]:
        """The gain of each carrier (B, k), and the power of what others leak into it, all being in use."""
        batch, n = len(h), self.carriers
        blocks = -(-symbols // n)
        if self.cp >= self.taps - 1:
            return torch.fft.fft(h, n).repeat(1, blocks)[:, :symbols], 0.0
        # Send every carrier alone, and an empty OFDM symbol after it: what arrives where.
        probe = F.pad(torch.eye(n, dtype=h.dtype, device=h.device), (0, n)).repeat(batch, 1)  # (B N, 2N)
        arrived = self._through(probe, h.repeat_interleave(n, 0)).view(batch, n, 2, n)
        gain = arrived[:, :, 0].diagonal(dim1=1, dim2=2)  # (B, N)
        power = torch.view_as_real(arrived.resolve_conj()).square().sum(-1).sum(1)  # (B, 2, N)
        own = power[:, 0] - torch.view_as_real(gain.contiguous()).square().sum(-1)
        before = torch.cat([torch.zeros_like(own), power[:, 1].repeat(1, blocks - 1)], 1)  # none before the first
        return gain.repeat(1, blocks)[:, :symbols], (own.clamp_min(0).repeat(1, blocks) + before)[:, :symbols]
