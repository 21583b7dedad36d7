"""From probabilities to one architecture: the most likely one inside the budgets, exactly.

Choices are independent, so the log-probability of an architecture is a sum over labels; costs are sums (and a maximum)
over units that share few labels. Dynamic programming runs along the units and keeps, for each value of the labels that
later units still need, the partial architectures that no other one beats in log-probability and every cost at once.
"""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdnas.cost import CostTables
from kdnas.errors import InputError

Array = NDArray[np.float64]


# Two partial costs that differ by less than this share of the floor count as one where a floor is held.
_STEP = 1e-3


def derive(
    tables: CostTables, log_probabilities: Mapping[str, Array], budgets: Mapping[str, float], use: float = 0.0
) -> dict[str, Any]:
    """The most likely choices whose exact costs are all inside ``budgets``, and use them.

    Args:
        tables: The costs of the space (and of what is fixed beside it).
        log_probabilities: Label to the log-probabilities of its values.
        budgets: Cost name to its limit; a cost without a limit is absent.
        use: Share of its budget, in [0, 1), that at least one cost must reach. Where no architecture inside the
            budgets does (the space's largest fits, or none falls into the band), this is let go.

    Returns:
        Label to value, for every label of the space. Exact, but that an architecture whose largest use is less than
        0.2 % above ``use`` for each group of choices (a block, an edge) may be passed over.

    Raises:
        InputError: No architecture fits; names the cheapest one and the budget that it breaks.
    """
    problem = _Problem(tables, log_probabilities, budgets)
    best = problem.best()
    if best is None:
        raise InputError(_why_nothing_fits(tables, budgets))
    if use > 0 and max((cost / budgets[name] for name, cost in problem.costs(best[1]).items()), default=1) < use:
        floors = [(name, use * budgets[name]) for name in problem.names]
        beams = [found for floor in floors if (found := problem.beam(floor))]
        inside = max(beams, key=lambda found: found[0], default=None)
        for floor in floors:
            if inside is not None and inside[0] >= best[0] - 1e-9:
                break  # as likely as the best without a floor: nothing can be likelier
            found = problem.solve(inside[0] if inside else -np.inf, width=None, floor=floor)
            inside = found or inside
        best = inside or best
    chosen = dict(zip(problem.labels, best[1], strict=True))
    return {
        label: values[chosen[label] if label in chosen else int(np.argmax(log_probabilities[label]))]
        for label, values in tables.domains.items()
    }


def _why_nothing_fits(tables: CostTables, budgets: Mapping[str, float]) -> str:
    """Which single budget is out of reach of the network that is cheapest in it, else that they clash."""
    for name, limit in budgets.items():
        choices = cheapest_choices(tables, name)
        cost = tables.exact(choices)[name]
        if cost > limit:
            network = ", ".join(f"{label}={value}" for label, value in choices.items())
            return (
                f"no architecture fits: the cheapest in {name} needs {cost:.6g} of a budget of {limit:.6g}: raise the "
                f"budget or take a smaller space (that architecture is {network})"
            )
    return "no architecture fits all budgets at once, though each can be met alone: raise one of them"


def cheapest_choices(tables: CostTables, cost: str) -> dict[str, Any]:
    """The choices of the least ``cost``."""
    flat = {label: np.zeros(len(values)) for label, values in tables.domains.items()}

    def inside(limit: float) -> dict[str, int] | None:
        problem = _Problem(tables, flat, {cost: limit})
        found = problem.solve(-np.inf, width=None)
        return dict(zip(problem.labels, found[1], strict=True)) if found else None

    if cost == "sram_bytes":
        peaks = sorted({float(peak) for held in tables.peaks["sram_bytes"] for peak in held.max(1).values})
        limit = peaks[bisect_left(peaks, True, key=lambda peak: inside(peak) is not None)]
    else:
        # Where all values are equally likely, the programme keeps the cheapest partial architectures alone.
        limit = sum(float(sums[:, tables.summed.index(cost)].max()) for sums in tables.sums)
    chosen = inside(limit)
    assert chosen is not None
    return {label: values[chosen.get(label, 0)] for label, values in tables.domains.items()}


class _Factor(NamedTuple):
    """The units that depend on the same few labels; combinations that break the peak on their own are not in it."""

    labels: tuple[str, ...]
    combos: NDArray[np.int64]  # (combinations, labels): indices of values
    costs: Array  # (combinations, limited sums)
    held: Array  # (combinations,): most bytes held


class _Problem:
    """Arrays of the dynamic programme."""

    def __init__(
        self, tables: CostTables, log_probabilities: Mapping[str, Array], budgets: Mapping[str, float]
    ) -> None:
        self.tables, self.names = tables, list(budgets)
        self.sums = [name for name in tables.summed if name in budgets]
        self.limits = np.array([budgets[name] for name in self.sums])
        used = np.array([name in budgets for name in tables.summed])
        peak = budgets.get("sram_bytes", np.inf)
        # Units that depend on the same labels, or on a part of another's, become one factor.
        grouped: dict[tuple[str, ...], list[int]] = {}
        for index, unit in enumerate(tables.units):
            home = next((labels for labels in grouped if set(unit.labels) <= set(labels)), unit.labels)
            grouped.setdefault(home, []).append(index)
        self.fixed, self.fixed_held = np.zeros(len(self.sums)), 0.0
        self.impossible = False
        self.factors: list[_Factor] = []
        for labels, members in grouped.items():
            every = list(product(*(range(len(tables.domains[label])) for label in labels)))
            combos = np.array(every, dtype=np.int64).reshape(len(every), len(labels))
            costs, held = np.zeros((len(combos), len(self.limits))), np.zeros(len(combos))
            for index in members:
                own = tables.units[index].labels
                row = np.zeros(len(combos), dtype=np.int64)
                for label in own:
                    row = row * len(tables.domains[label]) + combos[:, labels.index(label)]
                costs += tables.sums[index].numpy()[row][:, used]
                held = np.maximum(held, tables.peaks["sram_bytes"][index].numpy()[row].max(1))
            keep = held <= peak
            if not labels:
                self.fixed += costs[0]
                self.fixed_held = max(self.fixed_held, float(held[0]))
                self.impossible |= not keep[0]
            else:
                self.factors.append(_Factor(labels, combos[keep], costs[keep], held[keep]))
        self.impossible |= any(len(factor.combos) == 0 for factor in self.factors)
        self.labels = list(dict.fromkeys(label for factor in self.factors for label in factor.labels))
        self.position = {label: i for i, label in enumerate(self.labels)}
        self.logp = {label: np.asarray(log_probabilities[label], dtype=np.float64) for label in self.labels}

    def costs(self, indices: tuple[int, ...]) -> dict[str, float]:
        """The limited costs of a solution."""
        values = self.tables.domains
        choices = {label: values[label][i] for label, i in zip(self.labels, indices, strict=True)}
        first = {label: domain[0] for label, domain in values.items()}
        exact = self.tables.exact({**first, **choices})
        return {name: exact.get(name, 0.0) for name in self.names}

    def best(self) -> tuple[float, tuple[int, ...]] | None:
        """The best solution: a beam's answer bounds the exact pass, which then drops most of what it would keep."""
        beam = self.beam()
        return self.solve(beam[0] if beam else -np.inf, width=None) or beam

    def beam(self, floor: tuple[str, float] | None = None) -> tuple[float, tuple[int, ...]] | None:
        """A good solution, fast; a narrow beam may miss them all."""
        return self.solve(-np.inf, width=2 if floor else 64, floor=floor)  # under a floor, of each bucket

    def solve(
        self, incumbent: float, width: int | None, floor: tuple[str, float] | None = None
    ) -> tuple[float, tuple[int, ...]] | None:
        """The best (log-probability, indices) at least as likely as ``incumbent``; a beam of ``width`` where given.

        Under a ``floor`` (cost name, least value), states that may still miss it are compared only among those of
        about the same cost: one that is cheaper might need more than what is left can bring.
        """
        if self.impossible:
            return None
        count = len(self.factors)
        least, most = np.zeros((count + 1, len(self.limits))), np.zeros((count + 1, len(self.limits)))
        held = np.zeros(count + 1)
        for i in range(count - 1, -1, -1):
            least[i] = least[i + 1] + self.factors[i].costs.min(0)
            most[i] = most[i + 1] + self.factors[i].costs.max(0)
            held[i] = max(held[i + 1], self.factors[i].held.max())
        column = self.sums.index(floor[0]) if floor and floor[0] in self.sums else None
        target = floor[1] if floor else 0.0
        step = target * _STEP
        if column is not None:
            target += step * count  # every comparison may lose one step
        assigned = np.full((1, len(self.labels)), -1, dtype=np.int64)
        logp, cost, peak = np.zeros(1), self.fixed[None, :].copy(), np.full(1, self.fixed_held)
        known: set[str] = set()
        for i, (labels, combos, costs, combo_held) in enumerate(self.factors):
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
            next_cost, next_logp, next_peak = cost[s] + costs[c], logp[s] + gain[c], np.maximum(peak[s], combo_held[c])
            fits = (next_cost + least[i + 1] <= self.limits * (1 + 1e-12)).all(1)
            fits &= next_logp + open_gain >= incumbent - 1e-9
            if column is not None:
                fits &= next_cost[:, column] + most[i + 1, column] >= target
            elif floor:
                fits &= np.maximum(next_peak, held[i + 1]) >= target
            s, c, next_cost, next_logp, next_peak = s[fits], c[fits], next_cost[fits], next_logp[fits], next_peak[fits]
            if len(s) == 0:
                return None
            assigned = assigned[s]
            for label in new:
                assigned[:, self.position[label]] = combos[c, labels.index(label)]
            later = {label for factor in self.factors[i + 1 :] for label in factor.labels}
            boundary = [self.position[label] for label in self.labels if label in known and label in later]
            keys = assigned[:, boundary]
            if column is not None:
                sure = next_cost[:, column] + least[i + 1, column] >= target
                bucket = np.where(sure, -1, next_cost[:, column] // step).astype(np.int64)
                keys = np.column_stack([keys, bucket])
            elif floor:
                keys = np.column_stack([keys, (next_peak >= target).astype(np.int64)])
            keep = _undominated(keys, next_logp, next_cost, width)
            assigned, logp, cost, peak = assigned[keep], next_logp[keep], next_cost[keep], next_peak[keep]
        best = int(np.argmax(logp))
        return float(logp[best]), tuple(int(v) for v in assigned[best])


def _undominated(keys: NDArray[np.int64], logp: Array, cost: Array, width: int | None) -> NDArray[np.int64]:
    """Indices of the states that, among those with equal keys, no other beats in log-probability and all costs."""
    group = np.zeros(len(logp), dtype=np.int64)
    for column in keys.T:
        group = group * (int(column.max()) - int(column.min()) + 1) + column - column.min()
    # Among equals in all things the first in this order stays, so that ties are broken the same way every time.
    order = np.lexsort((*cost.T, -logp, group))
    # In this order a state can only be beaten by one before it. Most are by a near one: those go all at once.
    while True:
        beaten = np.zeros(len(order), dtype=bool)
        same_group, ordered = group[order], cost[order]
        for shift in range(1, min(9, len(order))):
            beaten[shift:] |= (same_group[shift:] == same_group[:-shift]) & np.all(
                ordered[:-shift] <= ordered[shift:], axis=1
            )
        order = order[~beaten]
        if beaten.sum() <= len(beaten) // 10:
            break
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    if width is not None:
        return order[np.arange(len(order)) - np.repeat(starts, ends - starts) < width]
    kept = []
    for start, end in zip(starts, ends, strict=True):
        members = order[start:end]
        if len(members) <= 9:  # compared with all before them already
            kept.append(members)
            continue
        front = np.empty((0, cost.shape[1]))
        for first in range(0, len(members), 256):
            block = members[first : first + 256]
            c = cost[block]
            beaten = np.any(np.all(front[None, :, :] <= c[:, None, :], axis=2), axis=1)
            inside = np.all(c[None, :, :] <= c[:, None, :], axis=2)
            beaten |= np.any(np.tril(inside, -1), axis=1)
            block = block[~beaten]
            kept.append(block)
            front = np.concatenate([front, cost[block]])
    return np.concatenate(kept)
