"""Every channel of the registry is believable: SNR, gains and noise have the statistics that it claims."""

import cmath
import math

import pytest
import torch
from scipy import stats

from kdnas.channel import (
    ImageNoise,
    complex_gaussian,
    get_channel,
    list_channels,
    noise_for,
    noise_power,
    power_normalise,
    prefix_mask,
)
from kdnas.errors import InputError

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


def sources():
    return [torch.Generator().manual_seed(3), ImageNoise(torch.arange(SAMPLES), draw=2, seed=3)]


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


@pytest.mark.parametrize("name", list_channels())
@pytest.mark.parametrize("source", sources(), ids=["generator", "image"])
class TestEveryChannel:
    @pytest.mark.parametrize("snr_db", [-10.0, 3.0, 20.0])
    def test_measured_snr(self, name, source, snr_db):
        channel, x, snr = get_channel(name), code(), torch.full((SAMPLES,), snr_db)
        state = channel.sample(SAMPLES, SYMBOLS, snr, source)
        signal = square(channel.apply(x, state._replace(noise=torch.zeros_like(state.noise))))
        noise = square(channel.apply(x, state) - state.h * x)
        assert_mean(noise, 10 ** (-snr_db / 10))
        assert_mean(signal.mean(1), 1.0)  # symbols of a sample share their gain: average before
        measured = 10 * torch.log10(signal.mean() / noise.mean())
        assert abs(measured - snr_db) < 0.05

    def test_snr_acts_per_sample(self, name, source):
        channel = get_channel(name)
        snr = torch.tensor([0.0, 20.0]).repeat(SAMPLES // 2)
        noise = square(channel.sample(SAMPLES, SYMBOLS, snr, source).noise)
        assert_mean(noise[0::2], 1.0)
        assert_mean(noise[1::2], 0.01)

    def test_mean_gain_is_one(self, name, source):
        h = get_channel(name).sample(SAMPLES, SYMBOLS, torch.zeros(SAMPLES), source).h
        gain = square(h).mean(1)
        error = gain.std() / math.sqrt(SAMPLES)
        assert abs(gain.mean() - 1) <= SIGMAS * error + 1e-12

    def test_noise_is_split_on_i_and_q_and_white(self, name, source):
        noise = get_channel(name).sample(SAMPLES, SYMBOLS, torch.zeros(SAMPLES), source).noise
        for part in (noise.real, noise.imag):
            assert_mean(part, 0.0)
            assert_mean(part.square(), 0.5)
        assert_mean(noise.real * noise.imag, 0.0)
        assert_mean(noise[:, 1:].real * noise[:, :-1].real, 0.0)
        assert stats.kstest(noise.real.flatten().double() * math.sqrt(2), "norm").pvalue > 1e-6

    def test_samples_are_independent(self, name, source):
        state = get_channel(name).sample(SAMPLES, SYMBOLS, torch.zeros(SAMPLES), source)
        for values in (state.noise[:, 0], state.h[:, 0] - state.h.mean()):
            product = values[1:] * values[:-1].conj()
            if product.abs().max() > 0:  # the gain of a channel without fading is constant
                assert_mean(product.real, 0.0)
                assert_mean(product.imag, 0.0)

    def test_equaliser_is_unbiased_and_its_snr_true(self, name, source):
        channel, x, snr = get_channel(name), code(), torch.full((SAMPLES,), 7.0)
        state = channel.sample(SAMPLES, SYMBOLS, snr, source)
        estimate, effective = channel.equalise(channel.apply(x, state), state, snr)
        error = estimate - x
        # Noise of the stated power, sample by sample, and uncorrelated with what was sent.
        scaled = error * torch.pow(10.0, effective / 20)[:, None]
        assert_mean(square(scaled), 1.0)
        assert_mean((scaled * x.conj()).real, 0.0)

    def test_without_noise_the_equaliser_returns_the_code(self, name, source):
        channel, x, snr = get_channel(name), code(), torch.full((SAMPLES,), 300.0)
        state = channel.sample(SAMPLES, SYMBOLS, snr, source)
        assert torch.allclose(channel.equalise(channel.apply(x, state), state, snr)[0], x, atol=1e-4)

    def test_differentiable_in_the_symbols(self, name, source):
        channel, x, snr = get_channel(name), code().requires_grad_(), torch.zeros(SAMPLES)
        state = channel.sample(SAMPLES, SYMBOLS, snr, source)
        estimate, _ = channel.equalise(channel.apply(x, state), state, snr)
        (gradient,) = torch.autograd.grad(estimate.real.sum(), x)
        assert torch.allclose(gradient, torch.ones_like(gradient), atol=1e-3)


def test_rayleigh_gain_follows_its_law():
    generator = torch.Generator().manual_seed(1)
    h = get_channel("rayleigh").sample(SAMPLES, 4, torch.zeros(SAMPLES), generator).h[:, 0]
    assert stats.kstest(h.abs().double(), "rayleigh", args=(0, math.sqrt(0.5))).pvalue > 0.001
    assert stats.kstest(h.angle().double(), "uniform", args=(-math.pi, 2 * math.pi)).pvalue > 0.001


def test_rayleigh_effective_snr_closed_form_and_zero_gain():
    channel, snr = get_channel("rayleigh"), torch.full((3,), 10.0)
    state = channel.sample(3, 2, snr, torch.Generator().manual_seed(1))
    state = state._replace(h=torch.tensor([[1j], [0.5], [0.0]], dtype=torch.complex64))
    estimate, effective = channel.equalise(channel.apply(code(3, 2), state), state, snr)
    assert effective[0] == 10.0
    assert effective[1] == pytest.approx(10 + 20 * math.log10(0.5), abs=1e-5)
    assert effective[2] < -100
    assert torch.isfinite(torch.view_as_real(estimate)).all()


def test_awgn_is_the_identity_plus_noise():
    x, snr = code(4), torch.tensor([0.0, 5.0, 10.0, 15.0])
    state = get_channel("awgn").sample(4, SYMBOLS, snr, torch.Generator().manual_seed(0))
    y = get_channel("awgn").apply(x, state)
    assert torch.equal(y, x + state.noise)
    equalised, effective = get_channel("awgn").equalise(y, state, snr)
    assert torch.equal(equalised, y) and torch.equal(effective, snr)


def test_unknown_channel_is_named():
    with pytest.raises(InputError, match=r"'ether'.*awgn"):
        get_channel("ether")


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


def test_generator_noise_is_repeatable_and_consumes_the_generator():
    generator = torch.Generator().manual_seed(0)
    first, second = complex_gaussian(generator, 3, 4), complex_gaussian(generator, 3, 4)
    assert torch.equal(first, complex_gaussian(torch.Generator().manual_seed(0), 3, 4))
    assert not torch.equal(first, second)
