import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.errors import InputError
from kdnas.evaluate.pareto import pareto_front, pareto_row

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def test_a_front_drawn_by_hand() -> None:
    costs, accuracies = [1, 2, 2, 3, 4, 0.5], [0.5, 0.7, 0.6, 0.7, 0.8, 0.5]
    assert pareto_front(costs, accuracies) == [False, True, False, False, True, True]
    assert pareto_front([1, 1], [0.5, 0.5]) == [True, True]


@given(POINTS)
def test_every_point_off_the_front_is_beaten_by_one_on_it(points: list[tuple[int, int]]) -> None:
    front = pareto_front([cost for cost, _ in points], [accuracy for _, accuracy in points])
    on = [point for point, held in zip(points, front, strict=True) if held]
    assert min(points, key=lambda p: (p[0], -p[1])) in on and max(points, key=lambda p: (p[1], -p[0])) in on
    for (cost, accuracy), held in zip(points, front, strict=True):
        beaten = any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in on)
        assert beaten != held


def results() -> dict:
    curve = [
        {"system": system, "channel": channel, "snr_db": snr, "symbols": symbols, "accuracy": 0.5 + snr / 100,
         "ci95": 0.01, "n": 10}
        for system in ("no-kd", "kdnas") for channel in ("rayleigh", "awgn") for snr in (0.0, 12.0, 20.0)
        for symbols in (4, 64)
    ]  # fmt: skip
    return {
        "device": "mcu", "dataset": "d", "labels": 100, "seed": 3, "curves": curve, "transmitter": {"params": 7},
        "teacher": {"accuracy": 0.9},
    }  # fmt: skip


def test_the_row_is_taken_at_full_length_near_10_db_over_the_first_channel() -> None:
    row = pareto_row(results())
    assert (row["channel"], row["snr_db"], row["symbols"], row["accuracy"]) == ("rayleigh", 12.0, 64, 0.62)
    assert row["params"] == 7 and row["teacher_accuracy"] == 0.9 and row["seed"] == 3


def test_results_without_a_link_are_refused() -> None:
    document = results()
    document["curves"] = [row for row in document["curves"] if row["system"] != "kdnas"]
    with pytest.raises(InputError, match="mcu"):
        pareto_row(document)
