"""Expected costs of a relaxed space, exact and differentiable.

The cost of each part of a space depends on a few independent choices, so its expectation is the table of its costs
over those choices, contracted with their probabilities. At one-hot probabilities it is the exact cost by construction.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from kdnas.cost.exact import SUMS, Roofline, exact_costs, sums_of
from kdnas.ops import Step, Unit


class CostTables:
    """The costs of every combination of choices that a unit of the space depends on.

    Args:
        units: The parts of the space (``SearchSpace.units()``).
        domains: Label to its values (``SearchSpace.domains()``).
        roofline: Seconds of one step on the device; without it the latency is zero everywhere.
        fixed: Steps that every network of the space runs besides (for example the channel encoder).
    """

    def __init__(
        self,
        units: Sequence[Unit],
        domains: Mapping[str, list[Any]],
        roofline: Roofline | None = None,
        fixed: Sequence[Step] = (),
    ) -> None:
        self.units = list(units)
        if fixed:
            self.units.append(Unit("fixed", (), lambda choices: fixed))
        self.domains = dict(domains)
        self.roofline = roofline
        self.sums: list[Tensor] = []  # of each unit: (combinations, len(SUMS)) float64
        self.held: list[Tensor] = []  # of each unit: (combinations, steps) float64
        for unit in self.units:
            sums, held = [], []
            for values in product(*(self.domains[label] for label in unit.labels)):
                steps = unit.steps(dict(zip(unit.labels, values, strict=True)))
                sums.append([sum(column) for column in zip(*(sums_of(s, roofline) for s in steps), strict=True)])
                held.append([s.held_bytes for s in steps])
            self.sums.append(torch.tensor(sums, dtype=torch.float64))
            self.held.append(torch.tensor(held, dtype=torch.float64))

    def expected(self, probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The expected cost of a relaxed network.

        Args:
            probabilities: Label to the probabilities of its values, (len(domain),).

        Returns:
            Cost name to a scalar with a gradient. ``sram_bytes`` is the maximum over steps of the expected bytes held.
        """
        total: Tensor | None = None
        peaks = []
        for unit, sums, held in zip(self.units, self.sums, self.held, strict=True):
            joint: Tensor | None = None
            for label in unit.labels:
                p = probabilities[label]
                joint = p if joint is None else torch.outer(joint, p).flatten()  # (combinations so far,)
            if joint is None:
                some = next(iter(probabilities.values()))
                joint = torch.ones(1, dtype=some.dtype, device=some.device)
            part = joint @ sums.to(joint)
            total = part if total is None else total + part
            peaks.append((joint @ held.to(joint)).max())
        assert total is not None
        return {**dict(zip(SUMS, total, strict=True)), "sram_bytes": torch.stack(peaks).max()}

    def steps(self, choices: Mapping[str, Any]) -> list[Step]:
        """The steps of one architecture, in the order in which they run; left-out ones have ``ops`` 0."""
        return [step for unit in self.units for step in unit.steps(choices)]

    def exact(self, choices: Mapping[str, Any]) -> dict[str, float]:
        """The exact costs of one architecture."""
        return exact_costs(self.steps(choices), self.roofline)
