"""The conformance suite of costs: every cost over every space passes it, and what is wrong is named."""

import itertools

import pytest

from kdnas.cost import COSTS, Cost, costs_of
from kdnas.device import load_device
from kdnas.ops import Unit, conv_step
from kdnas.space import list_spaces, make_space
from kdnas.testing import check_cost

UNITS = [Unit("a", ("width",), lambda c: [conv_step("a", 3, c["width"], 3, 8)])]
UNITS.append(Unit("b", ("width", "kernel"), lambda c: [conv_step("b", c["width"], 4, c["kernel"], 8)]))
DOMAINS = {"width": [4, 8], "kernel": [1, 3, 5]}


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("name", COSTS)
def test_every_cost_conforms_over_every_space(name: str, space: str) -> None:
    cost = next(cost for cost in costs_of(load_device("mcu-512kB")) if cost.name == name)
    made = make_space(space)
    check_cost(cost, made.units(), made.domains(), samples=2)
    assert cost.unit == {"flash_bytes": "bytes", "sram_bytes": "bytes", "latency_s": "s", "energy_j": "J"}.get(name, "")


def test_a_cost_of_ones_own_conforms() -> None:
    check_cost(Cost("channels", lambda step: step.channels), UNITS, DOMAINS)
    check_cost(Cost("widest", lambda step: step.channels, peak=True), UNITS, DOMAINS)


COUNTER = itertools.count()
BAD = {
    "negative": (Cost("x", lambda step: -1.0 if step.ops else 0.0), "step a costs -1"),
    "not a number": (Cost("x", lambda step: float("nan")), "step a costs nan"),
    "something for nothing": (Cost("x", lambda step: 1.0), "left out costs something"),
    "another time another cost": (Cost("x", lambda step: next(COUNTER)), "and another time"),
    "unknown unit": (Cost("delay_ms", lambda step: step.macs), "a name ends with"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    cost, told = BAD[case]
    with pytest.raises(AssertionError) as caught:
        check_cost(cost, UNITS, DOMAINS)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdnas.cost import CostTables

    right = CostTables.expected

    def doubled(self: CostTables, probabilities: dict) -> dict:
        return {name: 2 * value for name, value in right(self, probabilities).items()}

    def detached(self: CostTables, probabilities: dict) -> dict:
        told = right(self, probabilities)
        return {name: value.detach() + 0 * sum(p.sum() for p in probabilities.values()) for name, value in told.items()}

    cost = Cost("x", lambda step: step.macs)
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="at one-hot"):
        patch.setattr(CostTables, "expected", doubled)
        check_cost(cost, UNITS, DOMAINS)
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="its gradient for"):
        patch.setattr(CostTables, "expected", detached)
        check_cost(cost, UNITS, DOMAINS)
