"""Dense layers at both ends, as in deep JSCC (Bourtsoulatze et al., arXiv 1809.01733); neither end knows the SNR."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.codec.parts import gain_controlled, settings_of, to_symbols


class DenseEncoder(nn.Module):
    """Features to complex symbols by two dense layers.

    Args:
        feature_dim: D.
        symbols: k, complex symbols per sample.
        width: Of the layer between.

    Raises:
        InputError: A size is below 1.
    """

    def __init__(self, feature_dim: int, symbols: int, width: int = 64) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols = symbols
        self.up, self.out = nn.Linear(feature_dim, width), nn.Linear(width, 2 * symbols)

    def forward(self, z: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """Features (B, D) to symbols (B, k), as ``ChannelEncoder``; ``snr_db`` is not looked at."""
        return to_symbols(self.out(F.gelu(self.up(z))), length)


class DenseDecoder(nn.Module):
    """Received symbols to features by three dense layers; arguments and errors as of ``DenseEncoder``."""

    def __init__(self, feature_dim: int, symbols: int, width: int = 128) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols = symbols
        self.up, self.mix = nn.Linear(2 * symbols, width), nn.Linear(width, width)
        self.out = nn.Linear(width, feature_dim)

    def forward(self, y: Tensor, snr_db: Tensor, length: Tensor, effective_snr_db: Tensor | None = None) -> Tensor:
        """Symbols (B, k) to features (B, D), as ``ChannelDecoder``; no SNR is looked at."""
        return self.out(F.gelu(self.mix(F.gelu(self.up(gain_controlled(y, length))))))
