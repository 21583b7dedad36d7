import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdnas.tailor import EdgeDevice

PLAIN: dict[str, Any] = {
    "name": "one", "class": "mcu", "compute_hz": 100e6, "cycles_per_mac": 2.0, "kappa": 1e-26, "symbol_rate_hz": 1e3,
    "tx_power_w": 0.1, "channel": "awgn", "snr_db": [0.0, 10.0], "deadline_s": 0.1, "energy_j": 0.02,
    "accuracy_floor": 0.7, "budget_units": 1000,
}  # fmt: skip


def device(**changes: Any) -> EdgeDevice:
    return EdgeDevice.model_validate(PLAIN | changes)


def test_cost_is_the_closed_form() -> None:
    cost = device().cost(macs=1e6, symbols=20)
    assert cost.compute_s == pytest.approx(2 * 1e6 / 100e6)  # c MACs / f = 20 ms
    assert cost.transmit_s == pytest.approx(20 / 1e3)  # k / B = 20 ms
    assert cost.compute_j == pytest.approx(1e-26 * 2 * 1e6 * 1e16)  # kappa c MACs f^2 = 0.2 mJ
    assert cost.transmit_j == pytest.approx(0.1 * 0.02)  # P T_tx = 2 mJ
    assert cost.latency_s == cost.compute_s + cost.transmit_s
    assert cost.energy_j == cost.compute_j + cost.transmit_j


def test_a_faster_clock_saves_time_and_costs_energy_by_its_square() -> None:
    slow, fast = device().cost(1e6, 1), device(compute_hz=300e6).cost(1e6, 1)
    assert slow.compute_s / fast.compute_s == pytest.approx(3)
    assert fast.compute_j / slow.compute_j == pytest.approx(9)


@given(deadline=st.floats(1e-3, 0.2), energy=st.floats(1e-4, 0.02), macs=st.floats(1e4, 5e6), most=st.integers(1, 80))
def test_the_longest_code_is_the_last_that_fits(deadline: float, energy: float, macs: float, most: int) -> None:
    one = device(deadline_s=deadline, energy_j=energy)
    length, limit = one.longest(macs, most)
    fits = [
        k for k in range(1, most + 1)
        if 2 * macs / 100e6 + k / 1e3 <= deadline and 1e-26 * 2 * macs * 1e16 + 0.1 * k / 1e3 <= energy
    ]  # fmt: skip
    assert length == max(fits, default=0)
    if length == most:
        assert limit is None
    else:
        late = 2 * macs / 100e6 + (length + 1) / 1e3 > deadline
        assert limit == ("latency" if late else "energy")


def test_nodes_stand_for_the_distribution() -> None:
    uniform = device(snr_db=[-5, 15]).snrs_db(400)
    assert statistics.fmean(uniform) == pytest.approx(5) and min(uniform) > -5 and max(uniform) < 15
    assert statistics.pstdev(uniform) == pytest.approx(20 / 12**0.5, rel=1e-3)
    normal = device(snr_db={"mean": 6.0, "std": 3.0}).snrs_db(400)
    assert statistics.fmean(normal) == pytest.approx(6) and statistics.pstdev(normal) == pytest.approx(3, rel=0.01)
    assert device(snr_db={"mean": 6.0, "std": 3.0}).training_range_db() == (0.0, 12.0)
    assert device(snr_db=[3, 3]).snrs_db(2) == [3, 3]


@pytest.mark.parametrize(
    "change",
    [{"compute_hz": 0.0}, {"snr_db": [10, 0]}, {"snr_db": {"mean": 0.0}}, {"accuracy_floor": 1.0}, {"kappa": "1e-26"},
     {"budget_units": 0.5}, {"name": "../up"}, {"energy_j": float("inf")}, {"extra": 1}],
    ids=str,
)  # fmt: skip
def test_wrong_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        device(**change)
