"""Dense layers with self-attention that never sees the SNR, as in the conference version of RKD-SC.

That code lets attention run over the images of a batch, so that a prediction depends on its batch-mates; here it runs
over a few tokens of one sample, and power is normalised per sample.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.codec.parts import gain_controlled, settings_of, to_symbols


class TokenAttention(nn.Module):
    """Self-attention (one head) over T tokens of width W, added to them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, W) to tokens (B, T, W)."""
        query, key, value = self.qkv(tokens)[:, None].chunk(3, -1)  # (B, 1, T, W): one head, as ONNX wants it said
        return tokens + self.out(F.scaled_dot_product_attention(query, key, value)[:, 0])


class DenseAttentionEncoder(nn.Module):
    """Features to complex symbols: dense, attention, dense.

    Args:
        feature_dim: D.
        symbols: k, complex symbols per sample.
        tokens: T, tokens per sample.
        width: W, of a token.

    Raises:
        InputError: A size is below 1.
    """

    def __init__(self, feature_dim: int, symbols: int, tokens: int = 8, width: int = 8) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols, self.tokens = symbols, tokens
        self.embed, self.attention = nn.Linear(feature_dim, tokens * width), TokenAttention(width)
        self.out = nn.Linear(tokens * width, 2 * symbols)

    def forward(self, z: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """Features (B, D) to symbols (B, k), as ``ChannelEncoder``; ``snr_db`` is not looked at."""
        tokens = self.attention(self.embed(z).unflatten(1, (self.tokens, -1)))  # (B, T, W)
        return to_symbols(self.out(F.gelu(tokens.flatten(1))), length)


class DenseAttentionDecoder(nn.Module):
    """Received symbols to features: dense, attention twice, dense. As ``DenseAttentionEncoder``."""

    def __init__(self, feature_dim: int, symbols: int, tokens: int = 8, width: int = 32) -> None:
        super().__init__()
        self.config = settings_of(locals())
        self.symbols, self.tokens = symbols, tokens
        self.embed = nn.Linear(2 * symbols, tokens * width)
        self.attention = nn.ModuleList(TokenAttention(width) for _ in range(2))
        self.out = nn.Linear(tokens * width, feature_dim)

    def forward(self, y: Tensor, snr_db: Tensor, length: Tensor, effective_snr_db: Tensor | None = None) -> Tensor:
        """Symbols (B, k) to features (B, D), as ``ChannelDecoder``; no SNR is looked at."""
        tokens = self.embed(gain_controlled(y, length)).unflatten(1, (self.tokens, -1))  # (B, T, W)
        for attention in self.attention:
            tokens = attention(F.gelu(tokens))
        return self.out(F.gelu(tokens.flatten(1)))
