"""Derivation against brute force: the most likely architecture inside the budgets, or the reason why there is none."""

import random

import numpy as np
import pytest
import torch
from supernets import costs as device_costs
from supernets import every, small_domains

from kdnas.cost import COSTS, CostTables
from kdnas.errors import InputError
from kdnas.ops import Step, Unit, linear_step
from kdnas.search import cheapest_choices, derive
from kdnas.search.derive import _Problem
from kdnas.space import list_spaces, make_space

SPACES = list_spaces()
CASES = [(name, seed) for name in SPACES for seed in range(4)]


class Small:
    """A space cut down to a few hundred architectures, all of them costed."""

    def __init__(self, name: str, seed: int) -> None:
        space = make_space(name)
        domains = small_domains(space.domains(), seed, 400)
        self.tables = CostTables(space.units(), domains, device_costs, [linear_step("after", 64, 128)])
        self.all = [(choices, self.tables.exact(choices)) for choices in every(domains)]

    def log_probabilities(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        scale = generator.choice([0.0, 0.3, 3.0])
        alphas = {label: scale * generator.normal(size=len(v)) for label, v in self.tables.domains.items()}
        return {label: alpha - np.log(np.exp(alpha).sum()) for label, alpha in alphas.items()}

    def likelihood(self, choices: dict, logp: dict[str, np.ndarray]) -> float:
        return sum(float(logp[k][v.index(choices[k])]) for k, v in self.tables.domains.items())

    def budgets(self, draw: random.Random) -> dict[str, float]:
        names = draw.sample(COSTS, draw.randint(0, len(COSTS)))
        return {
            name: sorted(costs[name] for _, costs in self.all)[int(draw.random() * len(self.all))] for name in names
        }


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_derivation_equals_brute_force(name: str, seed: int) -> None:
    small = Small(name, seed)
    draw, generator = random.Random(seed), np.random.default_rng(seed)
    feasible = 0
    for _ in range(25):
        logp, budgets = small.log_probabilities(generator), small.budgets(draw)
        inside = [
            small.likelihood(choices, logp)
            for choices, costs in small.all
            if all(costs[cost] <= limit for cost, limit in budgets.items())
        ]
        if not inside:
            with pytest.raises(InputError, match="no architecture fits"):
                derive(small.tables, logp, budgets)
            continue
        feasible += 1
        found = derive(small.tables, logp, budgets)
        costs = small.tables.exact(found)
        assert all(costs[cost] <= limit for cost, limit in budgets.items())
        assert small.likelihood(found, logp) == pytest.approx(max(inside), abs=1e-9)
        assert list(found) == list(small.tables.domains)
    assert feasible > 5


@pytest.mark.parametrize(("name", "seed"), CASES[::2])
@pytest.mark.parametrize("cost", COSTS)
def test_the_cheapest_is_the_cheapest(name: str, seed: int, cost: str) -> None:
    small = Small(name, seed)
    least = min(costs[cost] for _, costs in small.all)
    assert small.tables.exact(cheapest_choices(small.tables, cost))[cost] == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("cost", COSTS)
def test_a_budget_out_of_reach_is_named_with_what_is_needed(name: str, cost: str) -> None:
    small = Small(name, 9)
    least = min(costs[cost] for _, costs in small.all)
    logp = small.log_probabilities(np.random.default_rng(0))
    enough = {other: max(costs[other] for _, costs in small.all) for other in COSTS}
    with pytest.raises(InputError, match=f"cheapest in {cost} needs ") as caught:
        derive(small.tables, logp, enough | {cost: least * 0.99})
    assert f" needs {least:.6g} of a budget of {least * 0.99:.6g}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert small.tables.exact(derive(small.tables, logp, enough | {cost: least}))[cost] == pytest.approx(least)


def test_budgets_that_clash_are_called_that() -> None:
    def steps(choices: dict) -> list[Step]:
        return [Step("a", params=1, macs=9) if choices["x"] else Step("a", params=9, macs=1)]

    tables = CostTables([Unit("a", ("x",), steps)], {"x": [False, True]})
    flat = {"x": np.zeros(2)}
    assert derive(tables, flat, {"params": 5, "macs": 10}) == {"x": True}
    assert derive(tables, flat, {"params": 10, "macs": 5}) == {"x": False}
    with pytest.raises(InputError, match="fits all budgets at once, though each can be met alone"):
        derive(tables, flat, {"params": 5, "macs": 5})


@pytest.mark.parametrize("name", SPACES)
def test_without_budgets_it_is_the_likeliest(name: str) -> None:
    space = make_space(name)
    tables = CostTables(space.units(), space.domains())
    generator = torch.Generator().manual_seed(0)
    logp = {
        label: torch.randn(len(values), generator=generator).log_softmax(0).double().numpy()
        for label, values in space.domains().items()
    }
    assert derive(tables, logp, {}) == {label: v[int(logp[label].argmax())] for label, v in tables.domains.items()}


@pytest.mark.parametrize("name", SPACES)
def test_the_whole_space_is_derived_inside_and_the_same_every_time(name: str) -> None:
    space = make_space(name)
    tables = CostTables(space.units(), space.domains(), device_costs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        logp = {
            label: torch.randn(len(values), generator=generator).log_softmax(0).double().numpy()
            for label, values in space.domains().items()
        }
        middle = tables.exact(space.random(generator))
        found = derive(tables, logp, middle)
        assert all(cost <= middle[key] for key, cost in tables.exact(found).items())
        assert derive(tables, logp, middle) == found == space.check(found)


def use_of(costs: dict[str, float], budgets: dict[str, float]) -> float:
    return max(costs[cost] / limit for cost, limit in budgets.items())


@pytest.mark.parametrize("name", SPACES)
def test_under_a_floor_of_use_derivation_equals_brute_force(name: str) -> None:
    held = 0
    for seed in range(2):
        small = Small(name, seed)
        draw, generator = random.Random(seed), np.random.default_rng(seed)
        for _ in range(14):
            logp, use = small.log_probabilities(generator), draw.choice([0.7, 0.9, 0.95])
            some = draw.sample(COSTS, draw.choice([1, 1, 2]))
            level = draw.uniform(0.2, 1)
            budgets = {c: sorted(costs[c] for _, costs in small.all)[int(level * len(small.all)) - 1] for c in some}
            inside = [
                (small.likelihood(choices, logp), use_of(costs, budgets))
                for choices, costs in small.all
                if all(costs[cost] <= limit for cost, limit in budgets.items())
            ]
            if not inside:
                continue
            found = derive(small.tables, logp, budgets, use)
            assert list(found) == list(small.tables.domains)
            likelihood, share = small.likelihood(found, logp), use_of(small.tables.exact(found), budgets)
            assert share <= 1 + 1e-12
            likeliest = max(value for value, _ in inside)
            slack = 0.002 * len(_Problem(small.tables, logp, budgets).factors)  # less than this may be passed over
            surely = [value for value, other in inside if other >= (1 + slack) * use]
            if surely:
                assert share >= use * (1 - 1e-12)
                assert likelihood >= max(surely) - 1e-9
                held += max(surely) < likeliest - 1e-9
            if share < use * (1 - 1e-12):  # then it is as if there were no floor
                assert likelihood == pytest.approx(likeliest, abs=1e-9)
            else:
                assert likelihood <= max(value for value, other in inside if other >= use * (1 - 1e-12)) + 1e-9
    assert held >= 2  # the floor has bound


@pytest.mark.parametrize("name", SPACES)
def test_the_whole_space_is_derived_under_a_floor_and_the_same_every_time(name: str) -> None:
    space = make_space(name)
    tables = CostTables(space.units(), space.domains(), device_costs)
    generator = torch.Generator().manual_seed(1)
    logp = {
        label: torch.randn(len(values), generator=generator).log_softmax(0).double().numpy()
        for label, values in space.domains().items()
    }
    likeliest = tables.exact(derive(tables, logp, {}))
    budgets = {cost: 1.3 * likeliest[cost] for cost in ("params", "macs")}  # uses 77 %
    found = derive(tables, logp, budgets, 0.9)
    assert 0.9 <= use_of(tables.exact(found), budgets) <= 1
    assert derive(tables, logp, budgets, 0.9) == found == space.check(found)


@pytest.mark.parametrize("name", SPACES)
def test_a_floor_that_the_largest_architecture_misses_is_let_go(name: str) -> None:
    small = Small(name, 3)
    logp = small.log_probabilities(np.random.default_rng(5))
    budgets = {cost: 1.5 * max(costs[cost] for _, costs in small.all) for cost in COSTS}
    found = derive(small.tables, logp, budgets, 0.9)
    assert found == derive(small.tables, logp, budgets)
    assert small.likelihood(found, logp) == pytest.approx(max(small.likelihood(c, logp) for c, _ in small.all))


def test_a_floor_of_use_by_hand() -> None:
    def steps(choices: dict) -> list[Step]:
        return [Step("a", params=[10, 50, 85, 95][choices["x"]], macs=[9, 5, 3, 1][choices["x"]])]

    tables = CostTables([Unit("a", ("x",), steps)], {"x": [0, 1, 2, 3]})
    logp = {"x": np.log([0.4, 0.3, 0.1, 0.2])}
    assert derive(tables, logp, {"params": 100}) == derive(tables, logp, {"params": 100}, 0.0) == {"x": 0}
    assert derive(tables, logp, {"params": 100}, 0.05) == {"x": 0}
    assert derive(tables, logp, {"params": 100}, 0.4) == {"x": 1}
    assert derive(tables, logp, {"params": 100}, 0.8) == {"x": 3}  # likelier than 2
    assert derive(tables, logp, {"params": 90}, 0.8) == {"x": 2}  # 3 does not fit
    assert derive(tables, logp, {"params": 84}, 0.8) == {"x": 0}  # nothing is in the band
    assert derive(tables, logp, {"params": 100, "macs": 10}, 0.8) == {"x": 0}  # one cost is enough
    assert derive(tables, logp, {}, 0.8) == {"x": 0}


@pytest.mark.parametrize("factors", [4, 12, 28])
def test_the_slack_above_the_floor_is_what_is_said(factors: int) -> None:
    """All choices small but one: an architecture 0.2 % above the floor for each choice is found."""
    above = round(90000 * (1 + 0.002 * factors))
    domains = {"x": [0, 1], **{f"y{i}": [0, 1] for i in range(factors - 1)}}

    def unit(label: str, cost: tuple[int, int]) -> Unit:
        return Unit(label, (label,), lambda choices: [Step(label, params=cost[choices[label]])])

    units = [unit("x", (100, above)), *(unit(label, (0, 1)) for label in list(domains)[1:])]
    tables = CostTables(units, domains)
    logp = {label: np.log([0.9, 0.1]) for label in domains}
    found = derive(tables, logp, {"params": 100000}, 0.9)
    assert found == {label: int(label == "x") for label in domains}
