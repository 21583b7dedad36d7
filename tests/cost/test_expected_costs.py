"""Expected costs: right at one-hot, in between, and in their gradient; for every space."""

import pytest
import torch
from supernets import costs as device_costs
from supernets import every, small_domains
from torch import Tensor

from kdnas.cost import COSTS, CostTables
from kdnas.ops import linear_step
from kdnas.space import list_spaces, make_space

SPACES = list_spaces()
SUMS = [name for name in COSTS if name != "sram_bytes"]
FIXED = [linear_step("after", 64, 500)]


def tables_of(name: str, **options: int) -> CostTables:
    space = make_space(name, **options)
    return CostTables(space.units(), space.domains(), device_costs, FIXED)


def one_hot(tables: CostTables, choices: dict) -> dict[str, Tensor]:
    return {
        label: torch.tensor([float(value == choices[label]) for value in values], dtype=torch.float64)
        for label, values in tables.domains.items()
    }


def random_alphas(tables: CostTables, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        label: torch.randn(len(values), generator=generator, dtype=torch.float64).requires_grad_()
        for label, values in tables.domains.items()
    }


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("size", [28, 64, 224])
def test_one_hot_expected_is_exact(name: str, size: int) -> None:
    tables = tables_of(name, image_size=size)
    space = make_space(name, image_size=size)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        choices = space.random(generator)
        exact = tables.exact(choices)
        expected = tables.expected(one_hot(tables, choices))
        assert set(exact) == set(expected) == set(COSTS)
        for cost in COSTS:
            assert float(expected[cost]) == pytest.approx(exact[cost], rel=1e-12)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [0, 1])
def test_sums_are_the_mean_over_all_architectures(name: str, seed: int) -> None:
    space = make_space(name)
    tables = CostTables(space.units(), small_domains(space.domains(), seed, 250), device_costs, FIXED)
    p = {label: alpha.detach().softmax(0) for label, alpha in random_alphas(tables, seed).items()}
    mean, peak, total = dict.fromkeys(SUMS, 0.0), 0.0, 0.0
    for choices in every(tables.domains):
        weight = 1.0
        for label, values in tables.domains.items():
            weight *= float(p[label][values.index(choices[label])])
        exact = tables.exact(choices)
        total += weight
        peak += weight * exact["sram_bytes"]
        for cost in SUMS:
            mean[cost] += weight * exact[cost]
    assert total == pytest.approx(1)
    expected = tables.expected(p)
    for cost in SUMS:
        assert float(expected[cost]) == pytest.approx(mean[cost], rel=1e-9)
    # The maximum of means is at most the mean of maxima, and at least no step's mean.
    assert float(expected["sram_bytes"]) <= peak * (1 + 1e-12)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("cost", COSTS)
def test_gradients_match_finite_differences(name: str, cost: str) -> None:
    tables = tables_of(name)
    alphas = random_alphas(tables, 3)

    def value() -> Tensor:
        return tables.expected({label: alpha.softmax(0) for label, alpha in alphas.items()})[cost]

    scale = float(value().detach())
    gradients = torch.autograd.grad(value() / scale, list(alphas.values()), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
    if cost != "sram_bytes":  # every choice counts in every sum
        assert all(g is not None and g.abs().max() > 0 for g in gradients)
    step = 1e-5
    with torch.no_grad():
        for alpha, gradient in zip(alphas.values(), gradients, strict=True):
            for i in (0, len(alpha) - 1):
                alpha[i] += step
                above = float(value())
                alpha[i] -= 2 * step
                below = float(value())
                alpha[i] += step
                wanted = 0.0 if gradient is None else float(gradient[i])
                assert (above - below) / (2 * step * scale) == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_fixed_is_added_and_only_the_larger_memory_counts(name: str) -> None:
    space = make_space(name)
    choices = space.random(torch.Generator().manual_seed(1))
    alone = CostTables(space.units(), space.domains(), device_costs).exact(choices)
    small, large = linear_step("s", 3, 4), linear_step("l", 1, 10**7)
    both = CostTables(space.units(), space.domains(), device_costs, [small]).exact(choices)
    assert both["params"] == alone["params"] + 16
    assert both["macs"] == alone["macs"] + 12
    assert both["sram_bytes"] == alone["sram_bytes"]
    assert CostTables(space.units(), space.domains(), fixed=[large]).exact(choices)["sram_bytes"] == 10**7 + 1


@pytest.mark.parametrize("name", SPACES)
def test_the_number_of_steps_of_a_unit_does_not_depend_on_the_choices(name: str) -> None:
    space = make_space(name)
    generator = torch.Generator().manual_seed(2)
    counts = {
        tuple(len(unit.steps(choices)) for unit in space.units())
        for choices in (space.random(generator) for _ in range(20))
    }
    assert len(counts) == 1
