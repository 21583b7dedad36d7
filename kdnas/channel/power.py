"""Power and SNR: how strong a code word and its noise are."""

import torch
from torch import Tensor


def prefix_mask(length: Tensor, symbols: int) -> Tensor:
    """True for the symbols that are sent.

    Args:
        length: (B,) int64, how many symbols each sample sends, 1 ... ``symbols``.
        symbols: The longest code word, k.

    Returns:
        (B, k) bool; row b is True in its first ``length[b]`` places.
    """
    return torch.arange(symbols, device=length.device) < length[:, None]


def power_normalise(x: Tensor, mask: Tensor) -> Tensor:
    """Scale each sample to mean |x|^2 = 1 over the symbols it sends; what is not sent becomes exactly 0.

    Each sample is scaled by its own power, never by the batch's.

    Args:
        x: (B, k) complex.
        mask: (B, k) bool, the symbols sent; at least one in each row.

    Returns:
        (B, k) complex. A sample of power 0 stays 0.
    """
    reals = torch.view_as_real(x) * mask[..., None]  # (B, k, 2)
    power = reals.square().sum((1, 2)) / mask.sum(1)  # (B,)
    scale = power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt()
    return torch.view_as_complex(reals * scale[:, None, None])


def noise_power(snr_db: Tensor) -> Tensor:
    """N_0 of a complex symbol of power 1: 10^(-SNR/10), with SNR = E_s/N_0 in dB."""
    return torch.pow(10.0, -snr_db / 10.0)
