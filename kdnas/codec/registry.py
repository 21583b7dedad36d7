"""The codecs by name: CAT, and those it is compared with, made to any size."""

from typing import Any

import torch
from torch import nn

from kdnas.codec.cat import CAT, ChannelDecoder, ChannelEncoder
from kdnas.codec.codebook import CodebookDecoder, CodebookEncoder
from kdnas.codec.dense import DenseDecoder, DenseEncoder
from kdnas.codec.dense_attention import DenseAttentionDecoder, DenseAttentionEncoder
from kdnas.codec.snr_attention import SnrAttentionDecoder, SnrAttentionEncoder
from kdnas.errors import InputError

# Transmitter's and receiver's half. Every half keeps its arguments in ``config``, ``width`` among them.
HALVES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "cat": (ChannelEncoder, ChannelDecoder),
    "codebook": (CodebookEncoder, CodebookDecoder),
    "dense": (DenseEncoder, DenseDecoder),
    "dense-attention": (DenseAttentionEncoder, DenseAttentionDecoder),
    "snr-attention": (SnrAttentionEncoder, SnrAttentionDecoder),
}


def list_codecs() -> list[str]:
    """The names that ``Codec`` knows."""
    return sorted(HALVES)


def codec_name(encoder: nn.Module, decoder: nn.Module) -> str | None:
    """The codec whose halves these are; None where they are of none."""
    return next((name for name, halves in HALVES.items() if (type(encoder), type(decoder)) == halves), None)


class Codec(nn.Module):
    """Both halves of the codec called ``name``, with the interface of ``CAT``.

    Args:
        name: Of the codec.
        feature_dim: D.
        symbols: k, complex symbols for a sample.
        encoder: Settings of the transmitter's half beyond these two.
        decoder: Settings of the receiver's half beyond these two.

    Attributes:
        encoder: The transmitter's half.
        decoder: The receiver's half.

    Raises:
        InputError: There is no codec of that name, or a setting is wrong.
    """

    encoder: Any
    decoder: Any

    def __init__(
        self,
        name: str,
        feature_dim: int,
        symbols: int,
        encoder: dict[str, int] | None = None,
        decoder: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        sender, receiver = _halves(name)
        self.encoder = _make(sender, feature_dim, symbols, encoder or {})
        self.decoder = _make(receiver, feature_dim, symbols, decoder or {})


def fit_codec(name: str, like: CAT, feature_dim: int, symbols: int) -> Codec:
    """The widest codec called ``name`` of which neither half has more parameters than the same half of ``like``.

    Raises:
        InputError: There is no codec of that name, or even width 1 has more.
    """
    widths = []
    for cls, half in zip(_halves(name), (like.encoder, like.decoder), strict=True):
        limit, width = count(half), 0
        with torch.device("meta"):
            while count(_make(cls, feature_dim, symbols, {"width": width + 1})) <= limit:
                width += 1
        if not width:
            raise InputError(f"codec {name!r} has more than {limit} parameters at any width: make our own larger")
        widths.append({"width": width})
    return Codec(name, feature_dim, symbols, *widths)


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _halves(name: str) -> tuple[type[nn.Module], type[nn.Module]]:
    if name not in HALVES:
        raise InputError(f"unknown codec {name!r}: choose one of {', '.join(list_codecs())}")
    return HALVES[name]


def _make(cls: type[nn.Module], feature_dim: int, symbols: int, settings: dict[str, Any]) -> nn.Module:
    return cls(feature_dim=feature_dim, symbols=symbols, **settings)
