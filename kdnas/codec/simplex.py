"""A message out of M in one word of k symbols: the simplex code, and its maximum-likelihood detection."""

import math

import torch
from torch import Tensor

from kdnas.errors import InputError


class SimplexCode:
    """M words of equal energy, every two as far apart as M words can be.

    M orthogonal sequences less their mean: of the same distances, this takes the least energy, (M - 1) / M of that of
    the orthogonal words (Proakis, Digital Communications, 4.4; that no code of equal energy has fewer errors in white
    noise is proven at low and at high SNR, Balakrishnan 1961). The sequences are rows of the discrete Fourier transform
    for M <= k, orthogonal as complex ones, and beyond also i times these, orthogonal in I and Q together. Their
    differences spread over the word, so that a fade of single symbols spares the rest.

    Args:
        messages: M.
        symbols: k, complex symbols of a word.

    Attributes:
        words: (M, k) complex64, mean |x|^2 = 1 for each word.

    Raises:
        InputError: There are fewer than 2 messages, or more than 2 k.
    """

    def __init__(self, messages: int, symbols: int) -> None:
        if not 2 <= messages <= 2 * symbols:
            raise InputError(
                f"digital-class: a word of {symbols} symbols tells 2 to {2 * symbols} classes apart, not {messages}: "
                "send more symbols, or name other baselines"
            )
        self.symbols = symbols
        places = torch.arange(symbols, dtype=torch.float64)
        turns = torch.outer(places, places).remainder(symbols) / symbols
        rows = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)  # (k, k)
        chosen = torch.cat([rows, 1j * rows])[:messages]
        self.words = ((chosen - chosen.mean(0)) * math.sqrt(messages / (messages - 1))).to(torch.complex64)

    def encode(self, messages: Tensor) -> Tensor:
        """Messages (B,) int64, 0 ... M-1, to symbols (B, k) complex64."""
        return self.words[messages]

    def decode(self, y: Tensor, snr_db: Tensor) -> Tensor:
        """The likeliest messages (B,) int64, all being as frequent.

        The receiver is coherent: where a channel tells it nothing of the phase, it is no better than chance.

        Args:
            y: (B, k) equalised symbols: those sent, plus noise.
            snr_db: Their SNR in dB, (B,), or (B, k) where it varies within a word.
        """
        snr = torch.pow(10.0, snr_db / 10).view(len(y), -1).expand(y.shape)  # (B, k)
        # -|y - x|^2 / N_0 over the symbols, less what is the same for all words.
        likelihood = 2 * ((snr * y) @ self.words.mH).real - snr @ self.words.abs().square().T  # (B, M)
        return likelihood.argmax(1)
