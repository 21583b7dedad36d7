"""One SNR for a code word or one for each symbol: what they are combined to, and how symbols are scaled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdnas.channel import combined_snr_db, prefix_mask, wiener_gain

ALL = torch.ones(1, 3, dtype=torch.bool)


@given(st.floats(-60, 60), st.integers(1, 3))
def test_symbols_of_one_snr_are_a_word_of_that_snr(snr_db, length):
    word, sent = torch.tensor([snr_db]), prefix_mask(torch.tensor([length]), 3)
    each = word[:, None].expand(1, 3)
    assert combined_snr_db(word, sent) is word
    assert combined_snr_db(each, sent).item() == pytest.approx(snr_db, abs=1e-3)
    assert torch.allclose(wiener_gain(each, sent), wiener_gain(word, sent).expand(1, 3), rtol=1e-4)


def test_combined_snr_has_the_mean_capacity_of_what_is_sent():
    snr_db = torch.tensor([[0.0, 10.0, 40.0], [-200.0, -200.0, 5.0]])
    combined = combined_snr_db(snr_db, prefix_mask(torch.tensor([2, 2]), 3))
    capacity = torch.log2(1 + 10 ** (snr_db[0, :2] / 10)).mean()
    assert torch.log2(1 + 10 ** (combined[0] / 10)).item() == pytest.approx(capacity.item(), rel=1e-5)
    assert combined[1] == -120  # nothing arrives, and no NaN


def test_scaled_symbols_are_the_best_estimates_at_power_one():
    snr_db = torch.tensor([[-5.0, 3.0, 20.0]])
    snr = 10 ** (snr_db / 10)
    gain = wiener_gain(snr_db, ALL)
    assert (gain.square() * (1 + 1 / snr)).mean().item() == pytest.approx(1)  # power of the word
    mmse = snr / (1 + snr)
    assert torch.allclose(gain / gain[:, :1], mmse / mmse[:, :1])


def test_a_lost_symbol_counts_for_nothing():
    gain = wiener_gain(torch.tensor([[10.0, -120.0, 10.0]]), ALL)
    assert gain[0, 1] < 1e-10 and (gain[0, [0, 2]] > 1).all()


@pytest.mark.parametrize("snr_db", [200.0, 400.0, float("inf")])
def test_an_snr_without_end_is_no_nan(snr_db):
    each, sent = torch.tensor([[snr_db, 10.0, snr_db]]), torch.tensor([[True, True, False]])
    assert wiener_gain(torch.tensor([snr_db]), sent).item() == 1.0
    assert wiener_gain(each, sent).isfinite().all()
    combined = combined_snr_db(each, sent).item()
    assert combined == pytest.approx((min(snr_db, 300.0) + 10.41) / 2, abs=0.01)  # 10 lg(1 + 10) = 10.41
