"""The quantiser of features: known distortions, allocation of bits, and what comes back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.codec.quantise import MAX_BITS, Quantiser


def features(n=4000, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mixing + 3.0


# Distortion of the Lloyd-Max quantiser of a unit Gaussian: Max, IRE Transactions IT-6 (1960), table I.
@pytest.mark.parametrize(("bits", "expected"), [(1, 0.3634), (2, 0.1175), (3, 0.03454)])
def test_distortion_of_a_gaussian_is_that_of_lloyd_and_max(bits, expected):
    z = torch.randn(30_000, 1, generator=torch.Generator().manual_seed(0))
    quantiser = Quantiser.fit(z)
    error = (quantiser.decode(quantiser.encode(z, bits)) - z).square().mean() / z.var()
    assert float(error) == pytest.approx(expected, rel=0.04)


@settings(max_examples=20, deadline=None)
@given(payload=st.integers(1, 60), seed=st.integers(0, 5))
def test_bits_are_as_many_as_asked_for_and_levels_come_back(payload, seed):
    quantiser, z = Quantiser.fit(features(300, seed=seed)), features(20, seed=seed)
    bits = quantiser.encode(z, payload)
    assert bits.shape == (20, payload) and set(bits.unique().tolist()) <= {0.0, 1.0}
    assert sum(quantiser.allocate(payload)) == min(payload, 6 * MAX_BITS)
    decoded = quantiser.decode(bits)
    assert torch.equal(quantiser.encode(decoded, payload), bits)


def test_more_bits_are_a_smaller_error_and_strong_components_get_them_first():
    z = features()
    quantiser = Quantiser.fit(z)
    errors = [float((quantiser.decode(quantiser.encode(z, n)) - z).square().mean()) for n in (1, 4, 8, 16, 36)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01 * z.var()
    assert (quantiser.variance.diff() <= 0).all()
    assert quantiser.allocate(1) == [1, 0, 0, 0, 0, 0]
