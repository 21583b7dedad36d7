"""Power, and the noise: its numbers depend on (seed, image, draw) alone, and are what they should be."""

import cmath
import math

import pytest
import torch
from scipy import stats

from kdnas.channel import (
    ImageNoise,
    complex_gaussian,
    get_channel,
    noise_for,
    noise_power,
    power_normalise,
    prefix_mask,
    uniform,
)

SAMPLES, SYMBOLS = 20_000, 16
# Every statistical test is two-sided at this many standard errors: about 6e-7 of false alarms for a fresh
# seed.
SIGMAS = 5.0


GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state):
    """The generator's published C code, in Python's whole numbers."""
    z = (state + GOLDEN) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def code(batch=SAMPLES, symbols=SYMBOLS):
    x = complex_gaussian(torch.Generator().manual_seed(9), batch, symbols)
    return power_normalise(x, torch.ones(batch, symbols, dtype=torch.bool))


def square(x):
    return torch.view_as_real(x.to(torch.complex128)).square().sum(-1)


def assert_mean(values, expected):
    """The mean of independent values is the expected one within SIGMAS standard errors."""
    values = values.double().flatten()
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) <= SIGMAS * error


def test_awgn_is_the_identity_plus_noise():
    x, snr = code(4), torch.tensor([0.0, 5.0, 10.0, 15.0])
    state = get_channel("awgn").sample(4, SYMBOLS, snr, torch.Generator().manual_seed(0))
    y = get_channel("awgn").apply(x, state)
    assert torch.equal(y, x + state.noise)
    equalised, effective = get_channel("awgn").equalise(y, state, snr)
    assert torch.equal(equalised, y) and torch.equal(effective, snr)


def test_noise_power_closed_form():
    assert noise_power(torch.tensor([-10.0, 0.0, 20.0])).tolist() == pytest.approx([10.0, 1.0, 0.01])


class TestPower:
    @pytest.mark.parametrize("length", range(1, SYMBOLS + 1))
    def test_mean_power_is_one_over_the_sent_symbols(self, length):
        x = code(7) * torch.logspace(-3, 3, 7)[:, None]
        sent = power_normalise(x, prefix_mask(torch.full((7,), length), SYMBOLS))
        assert torch.allclose(square(sent[:, :length]).mean(1), torch.ones(7, dtype=torch.float64), atol=1e-5)
        assert torch.equal(sent[:, length:], torch.zeros_like(sent[:, length:]))

    def test_a_sample_is_scaled_by_itself_alone(self):
        x, mask = code(5), torch.ones(5, SYMBOLS, dtype=torch.bool)
        louder = torch.cat([x[:2], 100 * x[2:]])
        assert torch.equal(power_normalise(x, mask)[:2], power_normalise(louder, mask)[:2])

    def test_silence_stays_silent(self):
        mask = torch.ones(1, SYMBOLS, dtype=torch.bool)
        silent = torch.zeros(1, SYMBOLS, dtype=torch.complex64, requires_grad=True)
        out = power_normalise(silent, mask)
        (gradient,) = torch.autograd.grad(out.real.sum(), silent)
        assert torch.equal(out, torch.zeros_like(out))
        assert torch.isfinite(torch.view_as_real(gradient)).all()


class TestImageNoise:
    def test_independent_of_batch_mates_order_and_count(self):
        ids = torch.tensor([7, 123_456, 0, 99])
        whole = noise_for(ids, 3, 10, seed=5)
        for place, one in enumerate(ids):
            assert torch.equal(noise_for(one[None], 3, 10, seed=5)[0], whole[place])
        assert torch.equal(noise_for(ids.flip(0), 3, 10, seed=5).flip(0), whole)
        assert torch.equal(noise_for(ids, 3, 4, seed=5), whole[:, :4])

    def test_draws_may_be_batched(self):
        ids, draws = torch.tensor([4, 4, 5]), torch.tensor([0, 1, 1])
        batched = noise_for(ids, draws, 6)
        for place in range(3):
            assert torch.equal(batched[place], noise_for(ids[place][None], int(draws[place]), 6)[0])

    def test_every_part_of_the_key_acts(self):
        ids = torch.tensor([1])
        keys = [(ids, 0, 0, "noise"), (ids + 1, 0, 0, "noise"), (ids, 1, 0, "noise"), (ids, 0, 1, "noise")]
        keys += [(ids, 0, 0, "fading"), (ids, -1, 0, "noise"), (ids, 0, -1, "noise")]
        keys += [(ids * 0, 1, 0, "noise")]
        made = [noise_for(i, draw, 2, seed=seed, stream=stream) for i, draw, seed, stream in keys]
        for first in range(len(made)):
            for second in range(first):
                assert not torch.isclose(made[first], made[second]).any()

    @pytest.mark.parametrize("axis", ["ids", "draw", "seed"])
    def test_neighbouring_keys_are_independent_gaussians(self, axis):
        count = 20_000
        many, one = torch.arange(count), torch.zeros(count, dtype=torch.int64)
        if axis == "seed":
            numbers = torch.cat([noise_for(one[:1], 0, 1, seed=seed) for seed in range(count // 10)])[:, 0]
        else:
            numbers = noise_for(many if axis == "ids" else one, many if axis == "draw" else 0, 1)[:, 0]
        for part in (numbers.real.double(), numbers.imag.double()):
            assert stats.kstest(part * math.sqrt(2), "norm").pvalue > 0.001
            assert_mean(part[1:] * part[:-1], 0.0)
        assert_mean(numbers.real.square() * numbers.imag.square(), 0.25)

    @pytest.mark.parametrize("seed, image, draw", [(7, 42, 1), (0, 0, 0), (-3, 59_999, 10**12)])
    def test_is_splitmix64_and_box_muller(self, seed, image, draw):
        # Published curves are repeated only while these numbers hold.
        made = noise_for(torch.tensor([image]), draw, 3, seed=seed, stream="fading")[0]
        key = 1
        for part in (seed, image, draw):
            key = splitmix64(key) ^ (part % 2**64)
        key = splitmix64(key)
        for place in range(3):
            bits = [splitmix64(key + GOLDEN * (2 * place + i)) >> 11 for i in (0, 1)]
            first, second = ((b + 0.5) * 2.0**-53 for b in bits)
            expected = cmath.rect(math.sqrt(-math.log(first)), 2 * math.pi * second)
            assert complex(made[place]) == pytest.approx(expected, abs=1e-6)

    def test_wrong_number_of_images_is_refused(self):
        with pytest.raises(ValueError, match="2 images"):
            complex_gaussian(ImageNoise(torch.arange(2)), 3, 4)


@pytest.mark.parametrize("source", [torch.Generator().manual_seed(3), ImageNoise(torch.arange(SAMPLES), seed=3)])
def test_uniform_numbers_are_uniform(source):
    values = uniform(source, SAMPLES, 2)
    for column in values.T:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    assert_mean((values[:, 0] - 0.5) * (values[:, 1] - 0.5), 0.0)


def test_generator_noise_is_repeatable_and_consumes_the_generator():
    generator = torch.Generator().manual_seed(0)
    first, second = complex_gaussian(generator, 3, 4), complex_gaussian(generator, 3, 4)
    assert torch.equal(first, complex_gaussian(torch.Generator().manual_seed(0), 3, 4))
    assert not torch.equal(first, second)
