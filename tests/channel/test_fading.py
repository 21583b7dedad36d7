"""Rayleigh and Rician fading, what is known of the gain, and what the equalisers make of it."""

import math

import pytest
import torch
from scipy import stats

from kdnas.channel import State, get_channel, noise_power
from kdnas.channel.equaliser import equalise_gains
from kdnas.errors import InputError

SAMPLES = 20_000


def gains(name, symbols=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return get_channel(name).sample(SAMPLES, symbols, torch.zeros(SAMPLES), generator).h


def mean_square(values):
    return values.abs().double().square().mean()


@pytest.mark.parametrize("fading", ["block", "fast"])
@pytest.mark.parametrize("k_db", [None, -20.0, -3.0, 0.0, 6.0, 15.0])
def test_gain_follows_its_law(k_db, fading):
    name = f"rayleigh(fading={fading})" if k_db is None else f"rician(k_db={k_db}, fading={fading})"
    h = gains(name, 2)
    assert h.shape == (SAMPLES, 2 if fading == "fast" else 1)
    k = 0.0 if k_db is None else 10 ** (k_db / 10)
    scale = math.sqrt(0.5 / (k + 1))  # of the real and the imaginary part
    for column in h.T:
        law = stats.rice(math.sqrt(2 * k), scale=scale)  # |h|; Rayleigh for K = 0
        assert stats.kstest(column.abs().double(), law.cdf).pvalue > 1e-3
        assert abs(mean_square(column) - 1) < 5 * math.sqrt((1 + 2 * k) / (k + 1) ** 2 / SAMPLES)  # E|h|^2 = 1
        assert stats.kstest(column.imag.double() / scale, "norm").pvalue > 1e-3
    if k == 0:
        assert stats.kstest(h[:, 0].angle().double(), "uniform", args=(-math.pi, 2 * math.pi)).pvalue > 1e-3


def test_fast_fading_is_new_for_each_symbol():
    h = gains("rayleigh(fading=fast)", 2)
    assert abs((h[:, 0] * h[:, 1].conj()).mean()) < 5 / math.sqrt(SAMPLES)


def test_block_fading_at_perfect_csi_is_awgn_at_the_effective_snr_whatever_the_equaliser():
    snr = torch.full((3,), 10.0)
    x = torch.ones(3, 2, dtype=torch.complex64)
    made = []
    for equaliser in ("mmse", "zf"):
        channel = get_channel(f"rayleigh(equaliser={equaliser})")
        state = channel.sample(3, 2, snr, torch.Generator().manual_seed(1))
        state = state._replace(h=torch.tensor([[1j], [0.5], [0.0]], dtype=torch.complex64))
        made.append(channel.equalise(channel.apply(x, state), state, snr))
    (estimate, effective), other = made
    assert torch.equal(estimate, other[0]) and torch.equal(effective, other[1])
    assert effective[0] == 10.0
    assert effective[1] == pytest.approx(10 + 20 * math.log10(0.5), abs=1e-5)
    assert effective[2] < -100  # a gain of 0 gives a useless symbol, not a NaN
    assert torch.isfinite(torch.view_as_real(estimate)).all()


class TestEqualiser:
    """The formulas, at gains that are given."""

    gain = torch.tensor([[1.0, 0.5j, -0.1 + 0.2j]])
    snr_db = torch.tensor([7.0])
    y = torch.tensor([[1 + 1j, 0.5, -0.3j]])

    def test_mmse_is_the_wiener_filter_with_its_bias_divided_out(self):
        out, effective = equalise_gains(self.y, self.gain, self.snr_db, None, kind="mmse")
        noise, power = noise_power(self.snr_db), self.gain.abs().square()
        filtered = self.gain.conj() * self.y / (power + noise)
        bias = power / (power + noise)
        assert torch.allclose(out, filtered / bias, rtol=1e-5)
        # SINR of the MMSE filter: bias / (1 - bias).
        assert torch.allclose(effective, 10 * (bias / (1 - bias)).log10(), atol=1e-4)

    def test_zero_forcing_divides_and_knows_one_snr(self):
        out, effective = equalise_gains(self.y, self.gain, self.snr_db, None, kind="zf")
        assert torch.allclose(out, self.y / self.gain, rtol=1e-5)
        noise = noise_power(self.snr_db) / self.gain.abs().square()
        assert effective.shape == (1,)
        assert torch.allclose(effective, -10 * noise.mean(1).log10(), atol=1e-4)

    def test_zero_forcing_counts_the_symbols_that_are_sent(self):
        sent = torch.tensor([[True, True, False]])
        _, effective = equalise_gains(self.y, self.gain, self.snr_db, sent, kind="zf")
        _, first = equalise_gains(self.y[:, :2], self.gain[:, :2], self.snr_db, None, kind="zf")
        assert torch.allclose(effective, first)

    def test_a_deep_fade_leaves_zero_forcing_finite(self):
        gain = torch.tensor([[1.0, 0.0]], dtype=torch.complex64)
        _, effective = equalise_gains(self.y[:, :2], gain, torch.tensor([300.0]), None, kind="zf")
        assert effective == pytest.approx(300 - 120 + 10 * math.log10(2), abs=1e-3)


class TestCsi:
    @pytest.mark.parametrize("k", [0.0, 2.0])
    def test_noisy_estimate_is_the_mean_given_the_pilot(self, k):
        # The best estimate of h: no linear function of it and the mean is left in the error.
        name = "rayleigh" if k == 0 else f"rician(k_db={10 * math.log10(k)},"
        name += "(" if k == 0 else ""
        state = get_channel(f"{name} csi=noisy, csi_error=0.3)").sample(
            SAMPLES, 1, torch.zeros(SAMPLES), torch.Generator().manual_seed(5)
        )
        error = (state.h - state.estimate)[:, 0]
        variance = 1 / (k + 1)
        expected = variance * 0.3 / (variance + 0.3)
        assert abs(mean_square(error) - expected) < 5 * expected / math.sqrt(SAMPLES)
        assert abs((error * state.estimate[:, 0].conj()).mean()) < 5 * math.sqrt(expected / SAMPLES)
        assert abs(error.mean()) < 5 * math.sqrt(expected / SAMPLES)

    def test_its_error_is_noise_in_the_effective_snr(self):
        channel = get_channel("rayleigh(csi=noisy, csi_error=0.25)")
        state = State(torch.ones(1, 1, dtype=torch.complex64), torch.zeros(1, 1), torch.full((1, 1), 0.5 + 0j))
        _, effective = channel.equalise(torch.ones(1, 1, dtype=torch.complex64), state, torch.tensor([10.0]))
        assert effective == pytest.approx(10 * math.log10(0.25 / (0.2 + 0.1)), abs=1e-4)  # v = 0.25 / 1.25

    def test_without_csi_a_line_of_sight_is_all_that_is_known(self):
        channel = get_channel("rician(k_db=0, csi=none)")
        state = channel.sample(4, 3, torch.zeros(4), torch.Generator().manual_seed(0))
        assert torch.allclose(state.known, torch.full((4, 1), math.sqrt(0.5) + 0j))
        _, effective = channel.equalise(torch.zeros(4, 3, dtype=torch.complex64), state, torch.zeros(4))
        assert torch.allclose(effective, torch.full((4,), 10 * math.log10(0.5 / 1.5)), atol=1e-4)

    def test_without_csi_rayleigh_hands_on_what_arrives(self):
        channel = get_channel("rayleigh(csi=none)")
        y = torch.randn(4, 3, dtype=torch.complex64)
        state = channel.sample(4, 3, torch.zeros(4), torch.Generator().manual_seed(0))
        out, effective = channel.equalise(y, state, torch.full((4,), 3.0))
        assert not channel.coherent
        assert torch.equal(out, y) and torch.equal(effective, torch.full((4,), 3.0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rayleigh(csi=noisy)", "csi_error=0.1"),
        ("rayleigh(csi_error=0.1)", "leave it out with csi=perfect"),
        ("rayleigh(csi=noisy, csi_error=0)", "more than 0"),
        ("rician(k_db=90)", "-50 to 50 dB"),
    ],
)
def test_bad_options_are_named(name, message):
    with pytest.raises(InputError, match=message):
        get_channel(name)
