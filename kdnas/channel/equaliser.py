"""Undoing one complex gain for each symbol: zero forcing and MMSE."""

from typing import Literal

import torch
from torch import Tensor

from kdnas.channel.power import noise_power
from kdnas.channel.reliability import mean_noise_snr_db

Equaliser = Literal["mmse", "zf"]

# A gain of 0 (-120 dB and below here) must give a useless symbol, not a NaN.
LEAST_GAIN = 1e-12


def equalise_gains(
    y: Tensor,
    gain: Tensor,
    snr_db: Tensor,
    sent: Tensor | None,
    *,
    error_power: float | Tensor = 0.0,
    kind: Equaliser = "mmse",
) -> tuple[Tensor, Tensor]:
    """Undo y = g x + e, where the receiver knows g and the power of e.

    Zero forcing gives y / g. The MMSE filter g* / (|g|^2 + E|e|^2) gives |g|^2 / (|g|^2 + E|e|^2) times the same; with
    this bias divided out the two are equal, and what is left between them is what the decoder is told: MMSE says how
    strong the noise of *each* symbol is (so that the decoder may scale it by its Wiener gain, which is the MMSE
    filter whole), zero forcing only how strong it is on average, which one deep fade within the word ruins. Where
    one gain holds for the whole word (block fading) there is no difference at all.

    Args:
        y: (B, k) complex64.
        gain: (B, 1) or (B, k) complex64, g.
        snr_db: (B,) average SNR in dB, which gives N_0.
        sent: (B, k) bool, the symbols sent; None: all.
        error_power: What there is in e beside the noise, for symbols of power 1: a number, (B, 1) or (B, k).
        kind: ``mmse`` or ``zf``.

    Returns:
        The symbols (B, k), and their effective SNR |g|^2 / E|e|^2 in dB: (B, k), or (B,) for one gain or ``zf``.
    """
    power = torch.view_as_real(gain).square().sum(-1).clamp_min(LEAST_GAIN)  # (B, 1) or (B, k)
    average_db = snr_db[:, None]
    if isinstance(error_power, Tensor) or error_power > 0:
        average_db = -10.0 * (noise_power(average_db) + error_power).log10()
    effective = average_db + 10.0 * power.log10()
    if effective.shape[1] == 1:
        effective = effective[:, 0]
    elif kind == "zf":
        effective = mean_noise_snr_db(effective, sent)
    return y * gain.conj() / power, effective
