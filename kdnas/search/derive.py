"""From probabilities to one architecture: the most likely one inside the budgets, exactly.

Choices are independent, so the log-probability of an architecture is a sum over labels; costs are sums (and a maximum)
over units that share few labels. Dynamic programming runs along the units and keeps, for each value of the labels that
later units still need, the partial architectures that no other one beats in log-probability and every cost at once.
"""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas.cost import CostTables
from kdnas.cost.exact import SUMS
from kdnas.errors import InputError

Array = NDArray[np.float64]


def derive(tables: CostTables, log_probabilities: Mapping[str, Array], budgets: Mapping[str, float]) -> dict[str, Any]:
    """The most likely choices whose exact costs are all inside ``budgets``.

    Args:
        tables: The costs of the space (and of what is fixed beside it).
        log_probabilities: Label to the log-probabilities of its values.
        budgets: Cost name to its limit; a cost without a limit is absent.

    Returns:
        Label to value, for every label of the space.

    Raises:
        InputError: No architecture fits; names the cheapest one and the budget that it breaks.
    """
    problem = _Problem(tables, log_probabilities, budgets)
    # A narrow beam first: its answer bounds the exact pass, which then drops most of what it would keep.
    beam = problem.solve(-np.inf, width=64)
    best = problem.solve(beam[0] if beam else -np.inf, width=None)
    if best is None:
        best = beam
    if best is None:
        raise InputError(_why_nothing_fits(tables, budgets))
    chosen = dict(zip(problem.labels, best[1], strict=True))
    return {
        label: values[chosen[label] if label in chosen else int(np.argmax(log_probabilities[label]))]
        for label, values in tables.domains.items()
    }


def _why_nothing_fits(tables: CostTables, budgets: Mapping[str, float]) -> str:
    """Which single budget is out of reach of the network that is cheapest in it, else that they clash."""
    for name, limit in budgets.items():
        cost = tables.exact(cheapest_choices(tables, name))[name]
        if cost > limit:
            return f"no architecture fits: the cheapest in {name} needs {cost:.6g} of a budget of {limit:.6g}"
    return "no architecture fits all budgets at once, though each can be met alone: raise one of them"


def cheapest_choices(tables: CostTables, cost: str) -> dict[str, Any]:
    """The choices of the least ``cost``."""
    flat = {label: np.zeros(len(values)) for label, values in tables.domains.items()}

    def inside(limit: float) -> dict[str, int] | None:
        problem = _Problem(tables, flat, {cost: limit})
        found = problem.solve(-np.inf, width=None)
        return dict(zip(problem.labels, found[1], strict=True)) if found else None

    if cost == "sram_bytes":
        peaks = sorted({float(peak) for held in tables.held for peak in held.max(1).values})
        limit = peaks[bisect_left(peaks, True, key=lambda peak: inside(peak) is not None)]
    else:
        # Where all values are equally likely, the programme keeps the cheapest partial architectures alone.
        limit = sum(float(sums[:, SUMS.index(cost)].max()) for sums in tables.sums)
    chosen = inside(limit)
    assert chosen is not None
    return {label: values[chosen.get(label, 0)] for label, values in tables.domains.items()}


class _Problem:
    """Arrays of the dynamic programme; combinations that break the peak on their own are gone from the start."""

    def __init__(
        self, tables: CostTables, log_probabilities: Mapping[str, Array], budgets: Mapping[str, float]
    ) -> None:
        self.limits = np.array([budgets.get(name, np.inf) for name in SUMS])
        used = np.isfinite(self.limits)
        self.limits = self.limits[used]
        peak = budgets.get("sram_bytes", np.inf)
        # Units that depend on the same labels, or on a part of another's, become one factor.
        grouped: dict[tuple[str, ...], list[int]] = {}
        for index, unit in enumerate(tables.units):
            home = next((labels for labels in grouped if set(unit.labels) <= set(labels)), unit.labels)
            grouped.setdefault(home, []).append(index)
        self.fixed = np.zeros(int(used.sum()))
        self.impossible = False
        # Of each: labels, (combos, labels) indices of values, (combos, costs).
        self.factors: list[tuple[tuple[str, ...], NDArray[np.int64], Array]] = []
        for labels, members in grouped.items():
            every = list(product(*(range(len(tables.domains[label])) for label in labels)))
            combos = np.array(every, dtype=np.int64).reshape(len(every), len(labels))
            costs, keep = np.zeros((len(combos), len(self.limits))), np.ones(len(combos), dtype=bool)
            for index in members:
                own = tables.units[index].labels
                row = np.zeros(len(combos), dtype=np.int64)
                for label in own:
                    row = row * len(tables.domains[label]) + combos[:, labels.index(label)]
                costs += tables.sums[index].numpy()[row][:, used]
                keep &= tables.held[index].numpy()[row].max(1) <= peak
            if not labels:
                self.fixed += costs[0]
                self.impossible |= not keep[0]
            else:
                self.factors.append((labels, combos[keep], costs[keep]))
        self.labels = list(dict.fromkeys(label for labels, _, _ in self.factors for label in labels))
        self.position = {label: i for i, label in enumerate(self.labels)}
        self.logp = {label: np.asarray(log_probabilities[label], dtype=np.float64) for label in self.labels}

    def solve(self, incumbent: float, width: int | None) -> tuple[float, tuple[int, ...]] | None:
        """The best (log-probability, indices) at least as likely as ``incumbent``; a beam of ``width`` where given."""
        if self.impossible or any(len(combos) == 0 for _, combos, _ in self.factors):
            return None
        count = len(self.factors)
        rest_cost = np.zeros((count + 1, len(self.limits)))
        for i in range(count - 1, -1, -1):
            rest_cost[i] = rest_cost[i + 1] + self.factors[i][2].min(0)
        assigned = np.full((1, len(self.labels)), -1, dtype=np.int64)
        logp, cost = np.zeros(1), self.fixed[None, :].copy()
        known: set[str] = set()
        for i, (labels, combos, costs) in enumerate(self.factors):
            new = [label for label in labels if label not in known]
            gain = sum((self.logp[label][combos[:, labels.index(label)]] for label in new), np.zeros(len(combos)))
            known |= set(labels)
            open_gain = sum(self.logp[label].max() for label in self.labels if label not in known)
            # Pair every state with every combination that agrees with it on the labels already chosen.
            old = [label for label in labels if label not in new]
            here = assigned[:, [self.position[label] for label in old]]
            there = combos[:, [labels.index(label) for label in old]]
            match = np.all(here[:, None, :] == there[None, :, :], axis=2)
            s, c = np.nonzero(match)
            next_cost, next_logp = cost[s] + costs[c], logp[s] + gain[c]
            fits = (next_cost + rest_cost[i + 1] <= self.limits * (1 + 1e-12)).all(1)
            fits &= next_logp + open_gain >= incumbent - 1e-9
            s, c, next_cost, next_logp = s[fits], c[fits], next_cost[fits], next_logp[fits]
            if len(s) == 0:
                return None
            assigned = assigned[s]
            for label in new:
                assigned[:, self.position[label]] = combos[c, labels.index(label)]
            later = {label for later_labels, _, _ in self.factors[i + 1 :] for label in later_labels}
            boundary = [self.position[label] for label in self.labels if label in known and label in later]
            keep = _undominated(assigned[:, boundary], next_logp, next_cost, width)
            assigned, logp, cost = assigned[keep], next_logp[keep], next_cost[keep]
        best = int(np.argmax(logp))
        return float(logp[best]), tuple(int(v) for v in assigned[best])


def _undominated(keys: NDArray[np.int64], logp: Array, cost: Array, width: int | None) -> NDArray[np.int64]:
    """Indices of the states that, among those with equal keys, no other beats in log-probability and all costs."""
    _, group = np.unique(keys, axis=0, return_inverse=True) if keys.shape[1] else (None, np.zeros(len(logp), int))
    kept = []
    for g in range(int(group.max()) + 1):
        members = np.flatnonzero(group == g)
        # Among equals in all things the first in this order stays, so that ties are broken the same way every time.
        members = members[np.lexsort((*cost[members].T, -logp[members]))]
        front = np.empty((0, cost.shape[1]))
        for start in range(0, len(members), 256):
            block = members[start : start + 256]
            c = cost[block]
            beaten = np.any(np.all(front[None, :, :] <= c[:, None, :], axis=2), axis=1)
            inside = np.all(c[None, :, :] <= c[:, None, :], axis=2)
            beaten |= np.any(np.tril(inside, -1), axis=1)
            block = block[~beaten]
            kept.append(block)
            front = np.concatenate([front, cost[block]])
            if width is not None and len(front) >= width:
                break
    return np.concatenate(kept)
