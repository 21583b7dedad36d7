"""A discrete codec: groups of the features become indices of learned codewords, sent by PSK.

As in DT-JSCC (Xie, Ma, Tao, Letaief, arXiv 2209.10382), but an index is a few PSK symbols and the receiver weighs the
codewords by their posterior, given what arrived and its SNR. PSK points have power 1, so every sample has. The
transmitter's choice is the best index forward and the softmax of the scores backward (straight-through).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.channel import power_normalise, prefix_mask
from kdnas.codec.cat import SNR_LIMITS_DB
from kdnas.codec.parts import settings_of


def psk_words(points: int, count: int) -> Tensor:
    """All words of ``count`` symbols of a PSK with so many points: (points ** count, 2 * count) float32, I beside Q."""
    angles = 2 * math.pi * (torch.arange(points) + 0.5) / points
    words = torch.cartesian_prod(*[angles] * count).view(-1, count)  # (K, s)
    return torch.stack([words.cos(), words.sin()], -1).flatten(1)


class CodebookEncoder(nn.Module):
    """Features to the PSK symbols of codeword indices.

    Args:
        feature_dim: D.
        symbols: k, complex symbols per sample.
        width: Of a group and its codewords.
        points: Of the PSK.
        per_index: Symbols that send one index; points ** per_index codewords for each of the k / per_index groups.

    Raises:
        InputError: A size is below 1.
    """

    def __init__(self, feature_dim: int, symbols: int, width: int = 4, points: int = 4, per_index: int = 2) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols, self.groups = symbols, -(-symbols // per_index)
        self.words: Tensor
        self.register_buffer("words", psk_words(points, per_index))
        self.embed = nn.Linear(feature_dim, self.groups * width)
        self.codewords = nn.Parameter(torch.randn(self.groups, len(self.words), width))

    def forward(self, z: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """Features (B, D) to symbols (B, k), as ``ChannelEncoder``; ``snr_db`` is not looked at."""
        groups = self.embed(z).unflatten(1, (self.groups, -1))  # (B, G, W)
        soft = torch.einsum("bgw,gcw->bgc", groups, self.codewords).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        words = (hard + (soft - soft.detach())) @ self.words  # (B, G, 2s)
        pairs = words.flatten(1).unflatten(1, (-1, 2))[:, : self.symbols]  # (B, k, 2)
        return power_normalise(torch.view_as_complex(pairs.float().contiguous()), prefix_mask(length, self.symbols))


class CodebookDecoder(nn.Module):
    """Received symbols to features: posteriors of the indices, expected codewords, two dense layers.

    Args:
        feature_dim, symbols, points, per_index: As in ``CodebookEncoder``, and equal in both halves.
        width: Of a codeword; its own at this end.
        hidden: Of the layer between.

    Raises:
        InputError: A size is below 1.
    """

    def __init__(
        self, feature_dim: int, symbols: int, width: int = 8, points: int = 4, per_index: int = 2, hidden: int = 128
    ) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols, self.groups = symbols, -(-symbols // per_index)
        self.words: Tensor
        self.register_buffer("words", psk_words(points, per_index))
        self.codewords = nn.Parameter(torch.randn(self.groups, len(self.words), width))
        self.up, self.out = nn.Linear(self.groups * width, hidden), nn.Linear(hidden, feature_dim)

    def forward(self, y: Tensor, snr_db: Tensor, length: Tensor, effective_snr_db: Tensor | None = None) -> Tensor:
        """Symbols (B, k) to features (B, D), as ``ChannelDecoder``."""
        snr_db = (snr_db if effective_snr_db is None else effective_snr_db).clamp(*SNR_LIMITS_DB)
        snr = torch.pow(10.0, snr_db / 10).view(len(y), -1, 1)  # (B, 1, 1), or of each symbol (B, k, 1)
        pairs = torch.view_as_real(y) * prefix_mask(length, self.symbols)[..., None] * snr  # (B, k, 2)
        missing = self.groups * self.words.shape[1] - 2 * self.symbols
        groups = F.pad(pairs.flatten(1), (0, missing)).unflatten(1, (self.groups, -1))  # (B, G, 2s)
        # -|y - word|^2 / N_0 up to a constant: all words have the same power. What was not sent says nothing.
        likelihood = 2 * groups @ self.words.T
        expected = torch.einsum("bgc,gcw->bgw", likelihood.softmax(-1), self.codewords)
        return self.out(F.gelu(self.up(expected.flatten(1))))
