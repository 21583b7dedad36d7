"""The conformance suite catches channels with the faults of published code, each by its own line."""

import pytest
import torch

from kdnas.channel import State, complex_gaussian, noise_power
from kdnas.errors import InputError
from kdnas.testing import check_channel


class Right:
    """Rayleigh block fading, written once more; the faults are made from it."""

    mean_gain = 1.0
    coherent = True

    def sample(self, batch, symbols, snr_db, generator):
        h = complex_gaussian(generator, batch, 1, stream="fading")
        return State(h, complex_gaussian(generator, batch, symbols) * noise_power(snr_db).sqrt()[:, None])

    def apply(self, x, state):
        return state.h * x + state.noise

    def equalise(self, y, state, snr_db, sent=None):
        power = state.h.abs().square()
        return y / state.h, snr_db + 10 * power[:, 0].log10()


class GainOfTwo(Right):
    def sample(self, *args):
        state = super().sample(*args)
        return state._replace(h=state.h * 2**0.5)


class NoisePerDimension(Right):
    def sample(self, *args):
        state = super().sample(*args)
        return state._replace(noise=state.noise * 2**0.5)


class NoiseInI(Right):
    def sample(self, *args):
        state = super().sample(*args)
        return state._replace(noise=2**0.5 * state.noise.real + 0j)


class OneGainForAll(Right):
    def sample(self, *args):
        state = super().sample(*args)
        # A gain of each pair of samples: the smallest batch that shares one.
        return state._replace(h=state.h[torch.arange(len(state.h)) // 2])


class NoiseOfTheBatchPower(Right):
    def apply(self, x, state):
        return state.h * x + state.noise * x.abs().square().mean().sqrt()


class MeanSnr(Right):
    def sample(self, batch, symbols, snr_db, generator):
        return super().sample(batch, symbols, snr_db.mean().expand(batch), generator)


class ColouredNoise(Right):
    def sample(self, *args):
        state = super().sample(*args)
        return state._replace(noise=(state.noise + state.noise.roll(1, 1)) / 2**0.5)


class BiasedMmse(Right):
    def equalise(self, y, state, snr_db, sent=None):
        power = state.h.abs().square()
        filtered = y * state.h.conj() / (power + noise_power(snr_db)[:, None])
        return filtered, snr_db + 10 * power[:, 0].log10()


class NoConjugate(Right):
    def equalise(self, y, state, snr_db, sent=None):
        power = state.h.abs().square()
        return y * state.h / power, snr_db + 10 * power[:, 0].log10()


class AverageSnr(Right):
    def equalise(self, y, state, snr_db, sent=None):
        return y / state.h, snr_db.clone()


class OptimisticSnr(Right):
    def equalise(self, y, state, snr_db, sent=None):
        out, effective = super().equalise(y, state, snr_db)
        return out, effective + 0.3


class OwnNoise(Right):
    def sample(self, batch, symbols, snr_db, generator):
        return super().sample(batch, symbols, snr_db, torch.Generator().manual_seed(torch.seed() % 1000))


class FixedNoise(Right):
    def sample(self, batch, symbols, snr_db, generator):
        return super().sample(batch, symbols, snr_db, torch.Generator().manual_seed(0))


class WholeWordNoise(Right):
    def sample(self, *args):
        state = super().sample(*args)
        return state._replace(noise=state.noise.flip(1))


class NoGradient(Right):
    def apply(self, x, state):
        return super().apply(x.detach(), state)


class HalfGradient(Right):
    def apply(self, x, state):
        return super().apply((x + x.detach()) / 2, state)


class Double(Right):
    def apply(self, x, state):
        return super().apply(x, state).to(torch.complex128)


class ColumnOfSnrs(Right):
    def equalise(self, y, state, snr_db, sent=None):
        out, effective = super().equalise(y, state, snr_db)
        return out, effective[:, None]


class DividesByZero(Right):
    def equalise(self, y, state, snr_db, sent=None):
        out, effective = super().equalise(y, state, snr_db)
        return out / (sent if sent is not None else 1), effective


class Unfinished:
    mean_gain = 1.0
    coherent = True


FAULTS = {
    GainOfTwo: "mean gain .* is 2",
    NoisePerDimension: "noise is that of -8.* dB, not -5",
    NoiseInI: "noise power in I",
    OneGainForAll: "gains of two samples",
    NoiseOfTheBatchPower: "noise is that of|batch-mates",
    MeanSnr: "noise of samples at 0 dB among others",
    ColouredNoise: "noise of neighbours",
    BiasedMmse: "bias of the equaliser, along",
    NoConjugate: "bias of the equaliser",
    AverageSnr: "noise after equalising",
    OptimisticSnr: "noise after equalising",
    OwnNoise: "two runs from the same",
    FixedNoise: "same noise again",
    WholeWordNoise: "symbols do not arrive as the first",
    NoGradient: "no gradient",
    HalfGradient: "slope",
    Double: "complex128",
    ColumnOfSnrs: r"effective SNRs \(8000, 1\)",
    DividesByZero: "not finite",
    Unfinished: "has no 'sample'",
}


def test_a_right_channel_passes():
    assert check_channel(Right()) is None


@pytest.mark.parametrize("broken", FAULTS, ids=lambda broken: broken.__name__)
def test_a_broken_channel_is_caught_and_told_in_one_line(broken):
    with pytest.raises(AssertionError, match=FAULTS[broken]) as caught:
        check_channel(broken())
    assert "\n" not in str(caught.value)


def test_unknown_names_are_input_errors():
    with pytest.raises(InputError, match="unknown channel"):
        check_channel("ether")
