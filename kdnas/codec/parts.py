"""What the codecs beside CAT share: their settings as JSON, reals to symbols, and the receiver's gain control."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdnas.channel import power_normalise, prefix_mask
from kdnas.errors import InputError


def settings_of(arguments: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of a half's constructor (its ``locals()``) as a plain dict, checked.

    Raises:
        InputError: A size is below 1.
    """
    found = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
    for name, value in found.items():
        if value < 1:
            raise InputError(f"the codec's {name} is {value}: give at least 1")
    return found


def to_symbols(reals: Tensor, length: Tensor) -> Tensor:
    """Reals (B, 2k) to symbols (B, k) complex64 of mean power 1 per sample over its ``length`` first ones."""
    symbols = torch.view_as_complex(reals.float().unflatten(1, (-1, 2)))
    return power_normalise(symbols, prefix_mask(length, symbols.shape[1]))


def gain_controlled(y: Tensor, length: Tensor) -> Tensor:
    """Received symbols (B, k) to reals (B, 2k) of power 1 per sample, as every radio does it, knowing no SNR."""
    return torch.view_as_real(power_normalise(y, prefix_mask(length, y.shape[1]))).flatten(1)
