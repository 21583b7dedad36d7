"""Dense layers whose units are weighed by an attention that knows the SNR: the idea of ADJSCC.

Xu, Ai, Chen, Yang, Sun, Rodrigues (2021), arXiv 2012.00533, section III: between the layers stands a module that puts
the SNR beside what the layer says, and two small dense layers make of both a factor in (0, 1) for every channel. Our
features are one vector, so that its units are the channels and no pooling is needed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.channel import combined_snr_db, prefix_mask
from kdnas.codec.cat import SNR_LIMITS_DB
from kdnas.codec.parts import gain_controlled, settings_of, to_symbols


class SnrAttention(nn.Module):
    """Weighs the ``width`` units of a layer; a quarter as many units lie between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        between = max(1, width // 4)
        self.squeeze, self.excite = nn.Linear(width + 1, between), nn.Linear(between, width)

    def forward(self, units: Tensor, snr_db: Tensor) -> Tensor:
        """Units (B, W) and SNR in dB (B,) to units (B, W)."""
        snr = snr_db.clamp(*SNR_LIMITS_DB)[:, None] / 10
        return units * torch.sigmoid(self.excite(F.relu(self.squeeze(torch.cat([units, snr], 1)))))


class SnrAttentionEncoder(nn.Module):
    """Features to complex symbols; attends to the average SNR.

    Args:
        feature_dim: D.
        symbols: k, complex symbols per sample.
        width: Of the two layers between.

    Raises:
        InputError: A size is below 1.
    """

    def __init__(self, feature_dim: int, symbols: int, width: int = 48) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols = symbols
        self.layers = nn.ModuleList([nn.Linear(feature_dim, width), nn.Linear(width, width)])
        self.attention = nn.ModuleList(SnrAttention(width) for _ in self.layers)
        self.out = nn.Linear(width, 2 * symbols)

    def forward(self, z: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """Features (B, D) to symbols (B, k), as ``ChannelEncoder``."""
        for layer, attention in zip(self.layers, self.attention, strict=True):
            z = attention(F.gelu(layer(z)), snr_db)
        return to_symbols(self.out(z), length)


class SnrAttentionDecoder(nn.Module):
    """Received symbols to features; attends to the SNR of what arrived. As ``SnrAttentionEncoder``."""

    def __init__(self, feature_dim: int, symbols: int, width: int = 96) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols = symbols
        self.layers = nn.ModuleList([nn.Linear(2 * symbols, width), nn.Linear(width, width)])
        self.attention = nn.ModuleList(SnrAttention(width) for _ in self.layers)
        self.out = nn.Linear(width, feature_dim)

    def forward(self, y: Tensor, snr_db: Tensor, length: Tensor, effective_snr_db: Tensor | None = None) -> Tensor:
        """Symbols (B, k) to features (B, D), as ``ChannelDecoder``."""
        units = gain_controlled(y, length)
        snr_db = snr_db if effective_snr_db is None else effective_snr_db
        snr_db = combined_snr_db(snr_db, prefix_mask(length, self.symbols))
        for layer, attention in zip(self.layers, self.attention, strict=True):
            units = attention(F.gelu(layer(units)), snr_db)
        return self.out(units)
