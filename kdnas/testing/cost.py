"""Is a cost what the search relies on? Finite steps, sums or peaks, an expectation with the right gradient."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from kdnas.cost import Cost, CostTables, exact_costs
from kdnas.ops import Step, Unit

RELATIVE = 1e-9
# Of a central difference of double precision.
STEP, DIFFERENCE = 1e-5, 1e-4


def check_cost(
    cost: Cost, units: Sequence[Unit], domains: Mapping[str, Sequence[Any]], *, samples: int = 8, seed: int = 0
) -> None:
    """Check that a cost keeps what ``kdnas.cost.Cost`` asks of it, over a search space.

    Checked: its name has one of the units that are known; every step costs a finite number, at least 0, the same each
    time, and nothing where it is left out; several networks in turn cost the sum of theirs, or their largest, and more
    steps never cost less; the expected cost at one-hot probabilities is the exact one; between them that of a sum is
    the mean over all architectures, and that of a peak no more than that mean; and its gradient is that of finite
    differences.

    Args:
        cost: The cost.
        units: Of a search space (``SearchSpace.units()``).
        domains: Label to its values (``SearchSpace.domains()``).
        samples: Architectures, and probabilities, that are drawn.
        seed: Of what is drawn.

    Raises:
        AssertionError: One line says what is not as it should be.
    """
    generator = torch.Generator().manual_seed(seed)
    values = {label: list(domain) for label, domain in domains.items()}
    name = cost.name
    word = name.rpartition("_")[2]
    assert name and (cost.unit or word not in ("ms", "us", "kb", "mb", "mj", "kib", "mib")), (
        f"{name}: a name ends with _bytes, _s or _j, or is a count"
    )
    tables = CostTables(units, values, [cost])
    networks = []
    for _ in range(samples):
        choices = {label: _one_of(domain, generator) for label, domain in values.items()}
        steps = tables.steps(choices)
        networks.append(steps)
        _check_steps(cost, steps)
        exact = exact_costs(steps, [cost])[name]
        hot = {label: _one_hot(domain.index(choices[label]), len(domain)) for label, domain in values.items()}
        expected = float(tables.expected(hot)[name])
        assert _close(expected, exact), f"{name}: expected to be {expected} at one-hot {choices}, where it is {exact}"
    _check_turns(cost, networks)
    for _ in range(max(1, samples // 4)):
        _check_mean(cost, units, values, generator)
        _check_gradient(tables, name, generator)


def _check_steps(cost: Cost, steps: Sequence[Step]) -> None:
    for step in steps:
        value = cost.of(step)
        assert math.isfinite(value) and value >= 0, f"{cost.name}: step {step.name} costs {value}"
        assert cost.of(step) == value, f"{cost.name}: step {step.name} costs {value}, and another time {cost.of(step)}"
    assert cost.of(Step("left out", ops=0)) == 0, f"{cost.name}: a step that is left out costs something"


def _check_turns(cost: Cost, networks: Sequence[Sequence[Step]]) -> None:
    alone = [exact_costs(steps, [cost])[cost.name] for steps in networks]
    together = exact_costs([step for steps in networks for step in steps], [cost])[cost.name]
    wanted = max(alone) if cost.peak else sum(alone)
    assert _close(together, wanted), f"{cost.name}: networks in turn cost {together}, each by itself {alone}"
    for steps, whole in zip(networks, alone, strict=True):
        part = exact_costs(steps[: max(1, len(steps) // 2)], [cost])[cost.name]
        assert part <= whole * (1 + RELATIVE), f"{cost.name}: half of a network costs {part}, the whole {whole}"


def _check_mean(cost: Cost, units: Sequence[Unit], values: Mapping[str, list[Any]], generator: torch.Generator) -> None:
    """Two choices stay open, so that all architectures can be costed."""
    labels = list(values)
    free = {labels[int(i)] for i in torch.randperm(len(labels), generator=generator)[:2]}
    small = {k: domain if k in free else [_one_of(domain, generator)] for k, domain in values.items()}
    tables = CostTables(units, small, [cost])
    p = {k: torch.rand(len(d), generator=generator, dtype=torch.float64).softmax(0) for k, d in small.items()}
    mean = 0.0
    for chosen in product(*(range(len(domain)) for domain in small.values())):
        weight = math.prod(float(p[label][i]) for label, i in zip(small, chosen, strict=True))
        choices = {label: domain[i] for (label, domain), i in zip(small.items(), chosen, strict=True)}
        mean += weight * tables.exact(choices)[cost.name]
    expected = float(tables.expected(p)[cost.name])
    right = expected <= mean * (1 + RELATIVE) if cost.peak else _close(expected, mean)
    assert right, f"{cost.name}: expected to be {expected}, where the mean over all architectures is {mean}"


def _check_gradient(tables: CostTables, name: str, generator: torch.Generator) -> None:
    alphas = {
        label: torch.randn(len(domain), generator=generator, dtype=torch.float64).requires_grad_()
        for label, domain in tables.domains.items()
    }

    def value() -> Tensor:
        return tables.expected({label: alpha.softmax(0) for label, alpha in alphas.items()})[name]

    first = value()
    scale = float(first.detach()) or 1.0
    if not first.requires_grad:  # no choice acts on it
        return
    gradients = torch.autograd.grad(first / scale, list(alphas.values()), allow_unused=True)
    with torch.no_grad():
        for (label, alpha), gradient in zip(alphas.items(), gradients, strict=True):
            i = int(torch.randint(len(alpha), (1,), generator=generator))
            wanted = 0.0 if gradient is None else float(gradient[i])
            alpha[i] += STEP
            above = float(value())
            alpha[i] -= 2 * STEP
            below = float(value())
            alpha[i] += STEP
            found = (above - below) / (2 * STEP * scale)
            assert abs(found - wanted) <= DIFFERENCE * max(1e-3, abs(wanted)), (
                f"{name}: its gradient for {label} is {wanted}, and {found} by differences"
            )


def _one_of(domain: Sequence[Any], generator: torch.Generator) -> Any:
    return domain[int(torch.randint(len(domain), (1,), generator=generator))]


def _one_hot(index: int, length: int) -> Tensor:
    return torch.eye(length, dtype=torch.float64)[index]


def _close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=RELATIVE, abs_tol=1e-300)
