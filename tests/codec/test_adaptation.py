"""The adaptation table: chosen as by brute force, monotone, and never above what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.codec.adaptation import AccuracyTable, Choice
from kdnas.errors import InputError

CHANNELS, SNRS, LENGTHS = ("awgn", "rayleigh"), (-5.0, 0.0, 7.5), (4, 8, 16)
POINTS = [(channel, snr, n) for channel in CHANNELS for snr in SNRS for n in LENGTHS]


def rows(accuracies, ci95=0.0):
    return [
        {"channel": channel, "snr_db": snr, "symbols": n, "accuracy": accuracy, "ci95": ci95}
        for (channel, snr, n), accuracy in zip(POINTS, accuracies, strict=True)
    ]


tables = st.lists(st.floats(0, 1), min_size=len(POINTS), max_size=len(POINTS))
snrs = st.floats(-12, 20)
channels = st.sampled_from([*CHANNELS, None])


def promised(accuracies, snr_db, symbols, channel):
    """By brute force: the least that was measured at the grid's SNR below and above it, and at longer prefixes."""
    below = [snr for snr in SNRS if snr <= snr_db]
    if not below:
        return 0.0
    at = dict(zip(POINTS, accuracies, strict=True))
    names = CHANNELS if channel is None else [channel]
    return min(at[c, snr, n] for c in names for snr in SNRS if snr >= below[-1] for n in LENGTHS if n >= symbols)


@given(
    accuracies=tables, snr_db=snrs, channel=channels, wanted=st.floats(0, 1), most=st.sampled_from([None, *range(20)])
)
def test_the_choice_is_that_of_brute_force(accuracies, snr_db, channel, wanted, most):
    table = AccuracyTable(rows(accuracies), 0.5)
    fits = [n for n in LENGTHS if most is None or n <= most]
    good = [n for n in fits if promised(accuracies, snr_db, n, channel) >= wanted]
    choice = table.choose(snr_db, channel, min_accuracy=wanted, most=most)
    assert choice.met == bool(good)
    assert choice.symbols == (good[0] if good else fits[-1] if fits else max(1, most))
    assert choice.accuracy == (promised(accuracies, snr_db, choice.symbols, channel) if fits else 0.0)


@given(accuracies=tables, snr_db=snrs, channel=channels)
def test_without_an_accuracy_the_shortest_of_the_best_is_chosen(accuracies, snr_db, channel):
    choice = AccuracyTable(rows(accuracies), 0.5).choose(snr_db, channel, most=10)
    best = promised(accuracies, snr_db, 8, channel)
    enough = snr_db >= SNRS[0] and promised(accuracies, snr_db, 4, channel) >= best  # below, nothing is known
    assert choice == Choice(4 if enough else 8, best, True)


@given(accuracies=tables, ci95=st.floats(0, 0.2), confidence=st.floats(0.5, 0.99))
def test_it_is_monotone_and_promises_no_more_than_was_measured(accuracies, ci95, confidence):
    table = AccuracyTable(rows(accuracies, ci95), confidence)
    for (channel, snr, n), accuracy in zip(POINTS, accuracies, strict=True):
        here = table.accuracy(snr, n, channel)
        assert 0 <= here <= accuracy
        assert here <= table.accuracy(snr + 3, n, channel) and here <= table.accuracy(snr, n + 5, channel)


def test_the_bound_is_as_low_as_its_confidence_says():
    made = {c: AccuracyTable(rows([0.8] * len(POINTS), 0.0392), c).accuracy(0, 8) for c in (0.5, 0.8413447, 0.975)}
    assert made == pytest.approx({0.5: 0.8, 0.8413447: 0.78, 0.975: 0.8 - 0.0392}, abs=1e-6)


def test_nothing_is_promised_below_the_table():
    table = AccuracyTable(rows([1.0] * len(POINTS)))
    assert table.choose(-5.1, min_accuracy=0.1) == Choice(16, 0.0, False)
    assert table.choose(-5.0, min_accuracy=0.1) == Choice(4, 1.0, True)
    assert table.accuracy(0, 3) == 0


def test_tables_with_holes_twins_or_other_channels_are_refused():
    whole = rows([0.5] * len(POINTS))
    for wrong in ([], whole[1:], [*whole, whole[0]]):
        with pytest.raises(InputError, match="each point once"):
            AccuracyTable(wrong)
    with pytest.raises(InputError, match="no adaptation table for 'ether': choose awgn, rayleigh"):
        AccuracyTable(whole).choose(0, "ether", min_accuracy=0.5)
