"""How far received symbols can be trusted: one SNR for a code word, or one for each of its symbols."""

import math

import torch
from torch import Tensor

# An erased symbol's SNR is this, not -inf: it then counts for nothing and makes no NaN.
LEAST_DB = -120.0
# Above it a capacity is that of this SNR: its power still fits float32.
MOST_DB = 300.0


def combined_snr_db(snr_db: Tensor, sent: Tensor) -> Tensor:
    """One SNR for each code word, of the same mean capacity as its symbols: log(1 + SNR) = mean log(1 + SNR_i).

    Args:
        snr_db: (B,), which is returned as it is; or (B, k), of each symbol, in dB.
        sent: (B, k) bool, the symbols sent; at least one in each row.

    Returns:
        (B,) in dB, from ``LEAST_DB`` to ``MOST_DB``.
    """
    if snr_db.dim() == 1:
        return snr_db
    capacity = torch.log1p(torch.pow(10.0, snr_db.clamp_max(MOST_DB) / 10)) * sent  # (B, k)
    snr = torch.expm1(capacity.sum(1) / sent.sum(1))
    return 10 * snr.clamp_min(10 ** (LEAST_DB / 10)).log10()


def wiener_gain(snr_db: Tensor, sent: Tensor) -> Tensor:
    """What equalised symbols are scaled by, so that a deep fade is small numbers and not large ones.

    An unbiased symbol of power 1 + 1/SNR_i times w_i = SNR_i / (1 + SNR_i) is its best linear (MMSE) estimate, of
    power w_i. The gain is w_i over the root of their mean, which makes the power of the sent word 1; where all
    symbols have one SNR, it is sqrt(w).

    Args:
        snr_db: (B,), or (B, k) of each symbol, in dB.
        sent: (B, k) bool, the symbols sent.

    Returns:
        (B, 1), or (B, k) where each symbol has its own.
    """
    share = torch.sigmoid(snr_db * (math.log(10) / 10))  # SNR / (1 + SNR)
    if share.dim() == 1:
        return share.sqrt()[:, None]
    mean = (share * sent).sum(1, keepdim=True) / sent.sum(1, keepdim=True)
    return share / mean.clamp_min(torch.finfo(share.dtype).tiny).sqrt()


def mean_noise_snr_db(snr_db: Tensor, sent: Tensor | None) -> Tensor:
    """One SNR for each code word, that of the mean noise power of its sent symbols (None: all of them).

    Args:
        snr_db: (B, k), of each symbol, in dB.
        sent: (B, k) bool; at least one in each row.

    Returns:
        (B,) in dB.
    """
    noise_db = -snr_db if sent is None else torch.where(sent, -snr_db, -math.inf)
    count = snr_db.shape[1] if sent is None else sent.sum(1)
    # In the log domain: powers of a deep fade and of a high SNR do not fit one float32 sum.
    natural = torch.logsumexp(noise_db * (math.log(10) / 10), 1) - torch.as_tensor(count).log()
    return -natural * (10 / math.log(10))
