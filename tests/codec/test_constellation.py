"""Constellations: every symbol sent is a point, no sample is stronger than 1, and gradients go straight through."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.channel import power_normalise, prefix_mask
from kdnas.codec import CAT
from kdnas.codec.constellation import LEVELS, points, to_constellation
from kdnas.errors import InputError

SIZES = {"qpsk": 4, "16qam": 16, "64qam": 64, "256qam": 256}


def distance(x, name):
    """Of each symbol to the nearest point."""
    return (x[:, None] - points(name)).abs().min(1).values


@pytest.mark.parametrize("name", LEVELS)
def test_points_are_a_square_of_mean_power_1(name):
    found = points(name)
    assert len(found) == SIZES[name] == len(set(found.tolist()))
    assert torch.isclose(found.abs().square().mean(), torch.tensor(1.0))
    assert found.mean().abs() < 1e-6
    axis = found.real.unique()
    assert len(axis) ** 2 == SIZES[name] and torch.allclose(axis.diff(), axis.diff()[0])


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(LEVELS)), k=st.integers(1, 20), seed=st.integers(0, 999), spread=st.floats(0, 3))
def test_what_is_sent_are_points_and_never_too_strong(name, k, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(1, k + 1, (8,), generator=generator)
    mask = prefix_mask(length, k)
    scale = torch.exp(spread * torch.randn(8, k, generator=generator))  # some symbols far stronger than others
    x = power_normalise(scale * torch.randn(8, k, dtype=torch.complex64, generator=generator), mask)
    sent = to_constellation(x, mask, name)
    assert (distance(sent[mask], name) == 0).all()
    assert torch.equal(sent[~mask], torch.zeros_like(sent[~mask]))
    assert (sent.abs().square().sum(1) / length <= 1 + 1e-4).all()


def test_a_code_gains_no_power_by_rounding_upwards():
    # All on 0.71 (1 + i): the nearest points of 16-QAM are its corners, of power 1.8.
    x = torch.full((1, 6), 0.5**0.5 * (1 + 1j), dtype=torch.complex64)
    assert to_constellation(x, torch.ones(1, 6, dtype=torch.bool), "16qam").abs().square().mean() <= 1 + 1e-4
    mixed = torch.view_as_complex(torch.tensor([[[1.3, 1.3], [0.1, 0.1]]]))  # its points are strong and weak ones
    sent = to_constellation(mixed, torch.ones(1, 2, dtype=torch.bool), "16qam")
    assert torch.allclose(sent.abs().square(), torch.tensor([[1.8, 0.2]]), atol=1e-5)


@pytest.mark.parametrize("name", list(LEVELS)[1:])
def test_clipping_costs_no_power(name):
    # Nearly all power in one symbol, beyond the outermost point: the weak ones are made stronger instead.
    x = torch.full((3, 16), 0.1 + 0.05j, dtype=torch.complex64)
    x[:, 5] = 3.5
    mask = torch.ones(3, 16, dtype=torch.bool)
    sent = to_constellation(power_normalise(x, mask), mask, name)
    assert (sent.abs().square().mean(1) > 0.75).all() and (sent.abs().square().mean(1) <= 1 + 1e-4).all()


@pytest.mark.parametrize("name", LEVELS)
def test_fine_constellations_change_little(name):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(500, 16, dtype=torch.bool)
    x = power_normalise(torch.randn(500, 16, dtype=torch.complex64, generator=generator), mask)
    error = (to_constellation(x, mask, name) - x).abs().square().mean()
    assert error < {"qpsk": 0.45, "16qam": 0.15, "64qam": 0.08, "256qam": 0.06}[name]


@pytest.mark.parametrize("name", LEVELS)
def test_the_gradient_goes_straight_through(name):
    generator = torch.Generator().manual_seed(0)
    mask = prefix_mask(torch.tensor([3, 5]), 5)
    x = power_normalise(torch.randn(2, 5, dtype=torch.complex64, generator=generator), mask).requires_grad_()
    weights = torch.randn(2, 5, dtype=torch.complex64, generator=generator)
    (to_constellation(x, mask, name) * weights).real.sum().backward()
    assert torch.allclose(x.grad, weights.conj())


@pytest.mark.parametrize("name", LEVELS)
def test_the_codec_sends_points_and_learns_through_them(name):
    torch.manual_seed(0)
    codec = CAT(6, 10, encoder={"constellation": name})
    z, snr, length = torch.randn(9, 6), torch.zeros(9), torch.arange(1, 10)
    code = codec.encoder(z, snr, length)
    sent = prefix_mask(length, 10)
    assert (distance(code.detach()[sent], name) == 0).all() and (code[~sent] == 0).all()
    codec.decoder(code, snr, length).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.encoder.parameters())
    again = CAT(**codec.config)
    again.load_state_dict(codec.state_dict())
    assert torch.equal(again.encoder(z, snr, length), code)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="no constellation '8psk': choose one of none, qpsk"):
        CAT(6, 10, encoder={"constellation": "8psk"})
    with pytest.raises(InputError, match="no order 'random'"):
        CAT(6, 10, encoder={"order": "random"})
