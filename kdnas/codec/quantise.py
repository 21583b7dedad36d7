"""Features to a given number of bits and back: principal components, each by its own Lloyd-Max quantiser.

This is transform coding (Goyal, IEEE Signal Processing Magazine 18(5), 2001): bits go one by one to the component whose
expected squared error is largest, and each bit is taken to quarter it, so that weak components may get none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MAX_BITS = 6  # for a component
_ROUNDS = 50  # of Lloyd's algorithm


class Quantiser(NamedTuple):
    """A transform and its quantisers, fitted to features that training may see.

    Attributes:
        mean: (D,) of the features.
        basis: (D, D), a component in each row, strongest first.
        variance: (D,) of the components.
        levels: For b = 1 ... ``MAX_BITS``: (D, 2^b), rising.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    levels: tuple[Tensor, ...]

    @classmethod
    def fit(cls, features: Tensor) -> "Quantiser":
        """Fit to features (N, D)."""
        mean = features.mean(0)
        basis = torch.linalg.eigh((features - mean).T @ (features - mean)).eigenvectors.flip(1).T
        components = (features - mean) @ basis.T  # (N, D)
        variance = components.var(0, unbiased=False)
        return cls(mean, basis, variance, tuple(_lloyd_max(components, b) for b in range(1, MAX_BITS + 1)))

    def allocate(self, payload: int) -> list[int]:
        """Bits of each component, ``payload`` in all or ``MAX_BITS`` for each."""
        bits, error = [0] * len(self.variance), self.variance.double().tolist()
        for _ in range(min(payload, MAX_BITS * len(bits))):
            worst = max((c for c in range(len(bits)) if bits[c] < MAX_BITS), key=lambda c: error[c])
            bits[worst] += 1
            error[worst] /= 4
        return bits

    def encode(self, features: Tensor, payload: int) -> Tensor:
        """Features (B, D) to bits (B, payload), float32 0 or 1; bits that no component needs are 0."""
        components, words = (features - self.mean) @ self.basis.T, []
        for place, count in enumerate(self.allocate(payload)):
            if count:
                index = torch.bucketize(components[:, place].contiguous(), _borders(self.levels[count - 1][place]))
                words.append(index[:, None] >> torch.arange(count - 1, -1, -1) & 1)
        bits = torch.cat(words, 1).float()
        return torch.nn.functional.pad(bits, (0, payload - bits.shape[1]))

    def decode(self, bits: Tensor) -> Tensor:
        """Bits (B, payload) to features (B, D)."""
        start, components = 0, torch.zeros(len(bits), len(self.variance))
        for place, count in enumerate(self.allocate(bits.shape[1])):
            if count:
                word = bits[:, start : start + count].long()
                index = (word << torch.arange(count - 1, -1, -1)).sum(1)
                components[:, place] = self.levels[count - 1][place, index]
                start += count
        return components @ self.basis + self.mean

    @property
    def params(self) -> int:
        """Numbers that a transmitter holds: mean, basis, and the borders of the finest quantisers."""
        return self.mean.numel() + self.basis.numel() + len(self.variance) * (2**MAX_BITS - 1)


def _borders(levels: Tensor) -> Tensor:
    return (levels[..., 1:] + levels[..., :-1]) / 2


def _lloyd_max(components: Tensor, bits: int) -> Tensor:
    """The levels (D, 2^bits) that Lloyd's algorithm finds for each column of (N, D), from equally likely cells."""
    values = components.T.contiguous()  # (D, N)
    shares = (torch.arange(2**bits) + 0.5) / 2**bits
    levels = torch.quantile(values, shares, dim=1).T.contiguous()  # (D, L)
    for _ in range(_ROUNDS):
        cell = torch.searchsorted(_borders(levels).contiguous(), values)  # (D, N)
        count = torch.zeros_like(levels).scatter_add_(1, cell, torch.ones_like(values))
        total = torch.zeros_like(levels).scatter_add_(1, cell, values)
        levels = torch.where(count > 0, total / count.clamp_min(1), levels).sort(1).values
    return levels
