"""Uncoded error rates over our channels are those of theory, and those that Sionna simulates."""

import math

import pytest
import torch

from kdnas.channel import ImageNoise, get_channel

SAMPLES, SYMBOLS = 20_000, 8
POINTS = [(name, bits, snr) for name in ("awgn", "rayleigh") for bits in (2, 4) for snr in (0.0, 8.0, 14.0)]
POINTS = [point for point in POINTS if point != ("awgn", 2, 14.0)]  # 3e-7: no error would be seen


def levels(bits):
    """Levels of one axis, in Gray order: QPSK has 2, 16-QAM has 4; power 1 for both axes together."""
    raw = torch.tensor([-1.0, 1.0] if bits == 2 else [-3.0, -1.0, 1.0, 3.0])
    return raw / (2 * raw.square().mean()).sqrt()


def labels(bits):
    """Gray code words of the levels: (levels, bits per axis)."""
    return torch.tensor([[0], [1]] if bits == 2 else [[0, 0], [0, 1], [1, 1], [1, 0]])


def simulated(name, bits, snr_db):
    """Bit error rate with hard decisions after equalising, and its standard error over code words."""
    generator, level = torch.Generator().manual_seed(bits), levels(bits)
    sent = torch.randint(0, len(level), (SAMPLES, SYMBOLS, 2), generator=generator)
    x = torch.view_as_complex(level[sent])
    channel, snr = get_channel(name), torch.full((SAMPLES,), snr_db)
    state = channel.sample(SAMPLES, SYMBOLS, snr, ImageNoise(torch.arange(SAMPLES), seed=bits))
    out, _ = channel.equalise(channel.apply(x, state), state, snr)
    decided = (torch.view_as_real(out)[..., None] - level).abs().argmin(-1)
    wrong = (labels(bits)[decided] != labels(bits)[sent]).double().mean((1, 2, 3))  # (B,)
    return float(wrong.mean()), float(wrong.std()) / math.sqrt(SAMPLES)


def theory(name, bits, snr_db):
    """Proakis and Salehi, Digital Communications: sums of Q(a sqrt(SNR)), over Rayleigh their mean over the gain."""
    snr = 10 ** (snr_db / 10)
    parts = [(1.0, 1.0)] if bits == 2 else [(0.75, 0.2), (0.5, 1.8), (-0.25, 5.0)]  # (weight, a^2), 16-QAM exact

    def rate(square):
        if name == "awgn":
            return 0.5 * math.erfc(math.sqrt(square * snr / 2))
        return 0.5 * (1 - math.sqrt(square * snr / (2 + square * snr)))

    return sum(weight * rate(square) for weight, square in parts)


@pytest.mark.parametrize(("name", "bits", "snr_db"), POINTS)
def test_error_rate_is_that_of_theory(name, bits, snr_db):
    rate, error = simulated(name, bits, snr_db)
    assert abs(rate - theory(name, bits, snr_db)) < 4 * error


@pytest.mark.parametrize(("name", "loss"), [("rayleigh(fading=fast)", 1), ("rician(k_db=-50)", 1), ("multipath", 0.8)])
def test_error_rate_of_what_is_rayleigh_too(name, loss):
    # Each carrier of OFDM is Rayleigh faded, and the prefix takes its share of the energy: 4 of 16 + 4.
    rate, error = simulated(name, 4, 8.0)
    assert abs(rate - theory("rayleigh", 4, 8.0 + 10 * math.log10(loss))) < 4 * error


@pytest.mark.parametrize(("name", "bits", "snr_db"), POINTS)
def test_error_rate_is_that_of_sionna(name, bits, snr_db):
    pytest.importorskip("sionna.phy", reason="needs the extra 'baselines'")
    from sionna.phy import config
    from sionna.phy.channel import AWGN, FlatFadingChannel
    from sionna.phy.mapping import Demapper, Mapper

    config.seed = 1
    given = torch.randint(0, 2, (SAMPLES, SYMBOLS * bits), generator=torch.Generator().manual_seed(7)).float()
    x, noise = Mapper("qam", bits)(given), torch.tensor(10 ** (-snr_db / 10))
    if name == "awgn":
        y, power = AWGN()(x, noise), noise
    else:
        arrived, h = FlatFadingChannel(1, 1, return_channel=True)(x.reshape(-1, 1), noise)
        y, power = (arrived / h[..., 0]).view_as(x), (noise / h[..., 0].abs().square()).view_as(x)
    decided = Demapper("maxlog", "qam", bits, hard_out=True)(y, power)  # the nearest point
    wrong = (decided != given).double().mean(1)
    rate, error = simulated(name, bits, snr_db)
    assert abs(rate - wrong.mean()) < 4 * math.hypot(error, wrong.std() / math.sqrt(SAMPLES))
