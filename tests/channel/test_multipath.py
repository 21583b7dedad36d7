"""Multipath with OFDM: what the time-domain simulation gives is what the matrices say."""

import math

import pytest
import torch

from kdnas.channel import get_channel
from kdnas.channel.multipath import Multipath
from kdnas.errors import InputError

N = 8


def drawn(channel, batch=5, symbols=3 * N, snr_db=300.0):
    x = torch.randn(batch, symbols, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    state = channel.sample(batch, symbols, torch.full((batch,), snr_db), torch.Generator().manual_seed(1))
    return x, state


def dft(size):
    places = torch.arange(size, dtype=torch.float64)
    return torch.exp(-2j * math.pi * torch.outer(places, places) / size) / math.sqrt(size)


@pytest.mark.parametrize("cp", [0, 2, 5, N])
def test_apply_is_the_matrix_of_the_whole_stream(cp):
    # One Toeplitz matrix over all OFDM symbols and prefixes, whether the prefix is long enough or not.
    channel = Multipath(taps=6, spread=2.0, cp=cp, carriers=N)
    x, state = drawn(channel)
    blocks, width = 3, N + cp
    add = torch.eye(N, dtype=torch.complex128)[[*range(N - cp, N), *range(N)]]  # (cp + N, N)
    modulate = torch.block_diag(*[add @ dft(N).conj().T] * blocks)
    demodulate = torch.block_diag(*[dft(N) @ torch.eye(width, dtype=torch.complex128)[cp:]] * blocks)
    for sample in range(len(x)):
        toeplitz = torch.zeros(blocks * width, blocks * width, dtype=torch.complex128)
        for lag, tap in enumerate(state.h[sample]):
            toeplitz += tap * torch.diag(torch.ones(blocks * width - lag, dtype=torch.complex128), -lag)
        whole = demodulate @ toeplitz @ modulate * math.sqrt(N / (N + cp))
        expected = whole @ x[sample].to(torch.complex128)
        assert torch.allclose(channel.apply(x, state)[sample].to(torch.complex128), expected, atol=1e-5)


@pytest.mark.parametrize(("cp", "free"), [(3, True), (5, True), (2, False)])
def test_a_long_enough_prefix_makes_the_convolution_circular_and_keeps_symbols_apart(cp, free):
    channel = Multipath(taps=4, cp=cp, carriers=N)
    x, state = drawn(channel)
    response = torch.fft.fft(state.h, N)  # circular convolution in time is a product over carriers
    product = (x.view(5, 3, N) * response[:, None] * math.sqrt(N / (N + cp))).flatten(1)
    assert torch.allclose(channel.apply(x, state), product, atol=1e-4) == free
    estimate, effective = channel.equalise(channel.apply(x, state), state, torch.full((5,), 300.0))
    assert torch.allclose(estimate, x, atol=1e-3) == free
    assert (effective.min() > 200) == free  # what leaks is in the SNR


def test_a_code_word_may_end_within_an_ofdm_symbol():
    channel = Multipath(taps=4, cp=4, carriers=N)
    x, state = drawn(channel, symbols=N + 3)
    padded = torch.nn.functional.pad(x, (0, N - 3))
    noise = state.noise
    longer = state._replace(noise=torch.nn.functional.pad(noise, (0, N - 3)))
    assert torch.allclose(channel.apply(x, state), channel.apply(padded, longer)[:, : N + 3], atol=1e-6)


def test_power_delay_profile_is_exponential_and_sums_to_one():
    channel = Multipath(taps=5, spread=2.0, carriers=N)
    h = channel.sample(20_000, 1, torch.zeros(20_000), torch.Generator().manual_seed(0)).h
    power = h.abs().double().square().mean(0)
    expected = torch.exp(-torch.arange(5, dtype=torch.float64) / 2)
    expected = expected / expected.sum()
    assert torch.allclose(power, expected, rtol=5 / math.sqrt(20_000))
    assert float(channel.profile.sum()) == pytest.approx(1)
    cross = (h[:, :1] * h[:, 1:].conj()).mean(0).abs()
    assert (cross < 5 / math.sqrt(20_000)).all()  # uncorrelated scattering


def test_the_prefix_is_paid_from_the_energy():
    long, none = get_channel("multipath(taps=1, cp=16, carriers=16)"), get_channel("multipath(taps=1, cp=0)")
    assert (long.mean_gain, none.mean_gain) == (0.5, 1.0)
    x, state = drawn(long, symbols=16, snr_db=10.0)
    _, costly = long.equalise(long.apply(x, state), state, torch.full((5,), 10.0))
    _, free = none.equalise(none.apply(x, state), state, torch.full((5,), 10.0))
    assert torch.allclose(free - costly, torch.full((5, 16), 10 * math.log10(2)), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("taps=0", "1 to 16"),
        ("taps=9, carriers=8", "1 to 8"),
        ("cp=17", "0 to 16"),
        ("spread=0", "more than 0"),
        ("carriers=0, taps=1", "taps is 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        get_channel(f"multipath({options})")
