"""The search's pull towards the budgets: the complexity penalty, and multipliers that follow dual ascent."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnas import config


def penalty(expected: Mapping[str, Tensor], budgets: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """Σ_c λ_c · φ(E[cost_c] / budget_c), φ(r) = 0.01 r inside the budget and 0.01 + (r - 1) outside.

    Args:
        expected: Cost name to its expectation, with a gradient.
        budgets: Cost name to the budget; a cost without one is not penalised.
        weights: λ_c by cost name.
    """
    total = torch.zeros((), dtype=torch.float64)
    for name, weight in weights.items():
        if name in budgets and weight > 0:
            ratio = expected[name] / budgets[name]
            total = total.to(ratio) + weight * (0.01 * ratio.clamp(max=1) + F.relu(ratio - 1))
    return total


class Multipliers:
    """λ_c and μ, moved after every step by dual ascent in the log domain: λ ← λ · exp(ρ · violation).

    λ_c answers for E[cost_c] ≤ budget_c: it grows while the budget is violated and falls while there is room. μ answers
    for the opposite: the binding cost (the largest share of its budget) shall reach ``target``, because what a device
    offers and a network leaves unused is accuracy given away. A multiplier that is set to 0 stays 0.

    Args:
        settings: The first λ_c (``penalty``), the first μ (``use_penalty``), ρ (``dual_rate``), ``budget_use``.
        budgets: Cost name to its limit.

    Attributes:
        values: The multipliers by cost name, and μ as "use".
        target: Half way between the share of a budget that must be used and all of it.
    """

    SPAN = 100.0
    """A multiplier stays within this factor of its first value."""

    def __init__(self, settings: config.Search, budgets: Mapping[str, float]) -> None:
        self.budgets, self.rate = dict(budgets), settings.dual_rate
        self.target = (1 + settings.budget_use) / 2 if settings.budget_use else 0.0
        self.values = {name: weight for name, weight in settings.penalty.items() if name in budgets}
        self.values["use"] = settings.use_penalty if budgets and settings.budget_use else 0.0
        self.first = dict(self.values)

    def term(self, expected: Mapping[str, Tensor]) -> Tensor:
        """The penalty under the present multipliers, with its gradient."""
        total = penalty(expected, self.budgets, {k: v for k, v in self.values.items() if k != "use"})
        if self.values["use"] > 0:
            shares = torch.stack([expected[name] / limit for name, limit in self.budgets.items()])
            total = total.to(shares) + self.values["use"] * F.relu(self.target - shares.max())
        return total

    def step(self, expected: Mapping[str, Tensor]) -> None:
        """Dual ascent at these expected costs."""
        shares = {name: float(expected[name].detach()) / limit for name, limit in self.budgets.items()}
        for name, value in self.values.items():
            violation = self.target - max(shares.values(), default=1.0) if name == "use" else shares[name] - 1
            low, high = self.first[name] / self.SPAN, self.first[name] * self.SPAN
            self.values[name] = min(max(value * math.exp(self.rate * min(violation, 10.0)), low), high)
