"""The simplex code: power, distances, and errors as the exact formula of orthogonal signals has them."""

import math

import pytest
import torch

from kdnas.codec.simplex import SimplexCode
from kdnas.errors import InputError
from kdnas.evaluate import Point
from kdnas.evaluate.digital import Draws, answers_of_classes

SIZES = [(2, 1), (10, 64), (10, 10), (10, 5), (20, 13), (100, 64)]  # (M, k)


def error_rate(messages: int, snr: torch.Tensor) -> torch.Tensor:
    """Of a simplex code of word SNR E/N_0: that of orthogonal signals of M / (M - 1) as much (Proakis, 4.4-10)."""
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    shift = (2 * snr.double() * messages / (messages - 1)).sqrt()[:, None]
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return 1 - torch.trapezoid(density * torch.special.ndtr(x + shift) ** (messages - 1), x)


@pytest.mark.parametrize(("messages", "symbols"), SIZES)
def test_words_have_power_one_and_every_two_are_as_far_apart(messages: int, symbols: int) -> None:
    words = SimplexCode(messages, symbols).words
    assert words.shape == (messages, symbols) and words.dtype == torch.complex64
    assert torch.allclose(words.abs().square().mean(1), torch.ones(messages), atol=1e-5)
    products = (words @ words.mH).real / symbols
    assert torch.allclose(
        products[~torch.eye(messages, dtype=torch.bool)], torch.tensor(-1 / (messages - 1)), atol=1e-5
    )


# 4 standard deviations of 20,000 words: a right code fails a case with a probability of 6e-5.
@pytest.mark.parametrize("channel", ["awgn", "rayleigh"])
@pytest.mark.parametrize(
    ("messages", "symbols", "snr_db"), [(2, 4, -5.0), (10, 64, -14.0), (10, 8, -4.0), (20, 13, -5.0)]
)
def test_errors_are_those_of_theory(messages: int, symbols: int, snr_db: float, channel: str) -> None:
    count = 20_000
    sent, point = torch.arange(count) % messages, Point(channel, snr_db, symbols)
    told = answers_of_classes(SimplexCode(messages, symbols), sent, [point], Draws(torch.arange(count), 1, 0))[point]
    snr = torch.tensor([symbols * 10 ** (snr_db / 10)])
    theory = float(error_rate(messages, snr))
    assert theory <= (messages - 1) * 0.5 * math.erfc(math.sqrt(snr * messages / (messages - 1) / 2))  # union bound
    if channel == "rayleigh":  # the mean over |h|^2, exponential: as many equally likely gains
        gains = -torch.log1p(-(torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
        theory = float(error_rate(messages, snr * gains).mean())
    errors = float((told[:, 0] != sent).float().mean())
    assert 0.02 < theory < 0.5 and abs(errors - theory) < 4 * math.sqrt(theory * (1 - theory) / count)


def test_the_likeliest_word_is_told_where_every_symbol_has_its_own_snr() -> None:
    generator = torch.Generator().manual_seed(0)
    code = SimplexCode(20, 13)
    y = torch.randn(200, 13, dtype=torch.complex64, generator=generator)
    snr_db = 20 * torch.rand(200, 13, generator=generator) - 10
    power = 10 ** (-snr_db / 10)
    distance = ((y[:, None] - code.words).abs().square() / power[:, None]).sum(-1)  # (B, M)
    assert torch.equal(code.decode(y, snr_db), distance.argmin(1))
    assert torch.equal(code.decode(y, snr_db[:, 0]), ((y[:, None] - code.words).abs().square().sum(-1)).argmin(1))


@pytest.mark.parametrize("channel", ["rayleigh(fading=fast)", "erasure(p=0.3)", "multipath(taps=4)"])
def test_classes_arrive_over_channels_that_vary_within_a_word(channel: str) -> None:
    sent, point = torch.arange(60) % 10, Point(channel, 10.0, 64)
    told = answers_of_classes(SimplexCode(10, 64), sent, [point], Draws(torch.arange(60), 2, 0))[point]
    assert torch.equal(told, sent[:, None].expand(-1, 2))


@pytest.mark.parametrize(("messages", "symbols"), [(11, 5), (1, 5)])
def test_more_classes_than_fit_are_refused(messages: int, symbols: int) -> None:
    with pytest.raises(InputError, match=rf"2 to 10 classes apart, not {messages}.*other baselines"):
        SimplexCode(messages, symbols)
