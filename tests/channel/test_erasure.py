"""Lost symbols: how many, how long in a row, and what the receiver is told."""

import math

import pytest
import torch

from kdnas.channel import get_channel
from kdnas.errors import InputError

SAMPLES, SYMBOLS = 4000, 60


def arrived(name):
    h = get_channel(name).sample(SAMPLES, SYMBOLS, torch.zeros(SAMPLES), torch.Generator().manual_seed(2)).h
    assert set(h.real.unique().tolist()) == {0, 1} and not h.imag.any()
    return h.real.bool()


@pytest.mark.parametrize(("p", "burst"), [(0.1, None), (0.1, 4.0), (0.5, 3.0), (0.8, 4.0), (0.3, 1.0)])
def test_share_and_length_of_losses(p, burst):
    lost = ~arrived(f"erasure(p={p}" + (f", burst={burst})" if burst else ")"))
    error = lost.float().mean(1).std() / math.sqrt(SAMPLES)
    assert abs(lost.float().mean() - p) < 5 * error
    for place in (0, SYMBOLS - 1):  # stationary from the first symbol on
        assert abs(lost[:, place].float().mean() - p) < 5 * math.sqrt(p * (1 - p) / SAMPLES)
    # A burst goes on with probability 1 - 1/burst, whatever came before it.
    after = lost[:, 1:][lost[:, :-1]].float()
    stay = 1 - 1 / (burst or 1 / (1 - p))
    assert abs(after.mean() - stay) < 5 * math.sqrt(max(stay * (1 - stay), 1e-9) / len(after))
    twice = lost[:, 2:][lost[:, 1:-1] & lost[:, :-2]].float()
    assert not len(twice) or abs(twice.mean() - stay) < 5 * math.sqrt(max(stay * (1 - stay), 1e-9) / len(twice))


def test_receiver_knows_which_are_lost_or_only_how_many():
    for csi, lost_db in (("perfect", 10 - 120), ("none", 10 * math.log10(0.81 / (0.09 + 0.1)))):
        channel = get_channel(f"erasure(csi={csi})")
        snr = torch.full((SAMPLES,), 10.0)
        state = channel.sample(SAMPLES, 4, snr, torch.Generator().manual_seed(0))
        x = torch.ones(SAMPLES, 4, dtype=torch.complex64)
        y, effective = channel.equalise(channel.apply(x, state), state, snr)
        lost = state.h == 0
        each = effective.view(SAMPLES, -1).expand(-1, 4)[lost]
        assert torch.allclose(each, torch.full_like(each, lost_db), atol=1e-3)
        assert (y[lost] == 0).all() == (csi == "perfect")


@pytest.mark.parametrize(
    ("options", "message"),
    [("p=0", "above 0"), ("p=1", "below 1"), ("p=0.8, burst=2", "4 symbols or more"), ("burst=0", "1 symbols or more")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        get_channel(f"erasure({options})")
