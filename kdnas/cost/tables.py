"""Expected costs of a relaxed space, exact and differentiable.

The cost of each part of a space depends on a few independent choices, so its expectation is the table of its costs
over those choices, contracted with their probabilities. At one-hot probabilities it is the exact cost by construction.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from kdnas.cost.base import ON_ANY, Cost
from kdnas.cost.exact import exact_costs
from kdnas.ops import Step, Unit


class CostTables:
    """The costs of every combination of choices that a unit of the space depends on.

    Args:
        units: The parts of the space (``SearchSpace.units()``).
        domains: Label to its values (``SearchSpace.domains()``).
        costs: Which ones (``costs_of`` a device class); what a network costs on any device, unless given.
        fixed: Steps that every network of the space runs besides (for example the channel encoder).
    """

    def __init__(
        self,
        units: Sequence[Unit],
        domains: Mapping[str, list[Any]],
        costs: Sequence[Cost] = ON_ANY,
        fixed: Sequence[Step] = (),
    ) -> None:
        self.units = list(units)
        if fixed:
            self.units.append(Unit("fixed", (), lambda choices: fixed))
        self.domains = dict(domains)
        self.costs = tuple(costs)
        self.summed = [cost.name for cost in self.costs if not cost.peak]
        self.sums: list[Tensor] = []  # of each unit: (combinations, summed costs) float64
        self.peaks: dict[str, list[Tensor]] = {}  # of each unit: (combinations, steps) float64
        combinations = [
            [
                unit.steps(dict(zip(unit.labels, values, strict=True)))
                for values in product(*(self.domains[label] for label in unit.labels))
            ]
            for unit in self.units
        ]
        for every in combinations:
            sums = [[sum(map(cost.of, steps)) for cost in self.costs if not cost.peak] for steps in every]
            self.sums.append(torch.tensor(sums, dtype=torch.float64))
        for cost in self.costs:
            if cost.peak:
                self.peaks[cost.name] = [
                    torch.tensor([[cost.of(step) for step in steps] for steps in every], dtype=torch.float64)
                    for every in combinations
                ]

    def expected(self, probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The expected cost of a relaxed network.

        Args:
            probabilities: Label to the probabilities of its values, (len(domain),).

        Returns:
            Cost name to a scalar with a gradient. A peak is the maximum over steps of what each is expected to hold.
        """
        total: Tensor | None = None
        peaks: dict[str, list[Tensor]] = {name: [] for name in self.peaks}
        for index, unit in enumerate(self.units):
            joint: Tensor | None = None
            for label in unit.labels:
                p = probabilities[label]
                joint = p if joint is None else torch.outer(joint, p).flatten()  # (combinations so far,)
            if joint is None:
                some = next(iter(probabilities.values()))
                joint = torch.ones(1, dtype=some.dtype, device=some.device)
            part = joint @ self.sums[index].to(joint)
            total = part if total is None else total + part
            for name, tables in self.peaks.items():
                peaks[name].append((joint @ tables[index].to(joint)).max())
        assert total is not None
        expected = dict(zip(self.summed, total, strict=True))
        expected |= {name: torch.stack(values).max() for name, values in peaks.items()}
        return {cost.name: expected[cost.name] for cost in self.costs}

    def steps(self, choices: Mapping[str, Any]) -> list[Step]:
        """The steps of one architecture, in the order in which they run; left-out ones have ``ops`` 0."""
        return [step for unit in self.units for step in unit.steps(choices)]

    def exact(self, choices: Mapping[str, Any]) -> dict[str, float]:
        """The exact costs of one architecture."""
        return exact_costs(self.steps(choices), self.costs)
