"""The adaptive algorithm (stated in ``kdnas.tailor``), written against a small protocol: it knows no network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from kdnas.tailor.qos import Binding


class Estimate(NamedTuple):
    """A measured accuracy, and a one-sided lower bound of the true one."""

    accuracy: float
    lower: float


class Student(Protocol):
    """What is tailored."""

    def train(self, rung: int | None, steps: int) -> None:
        """Train ``steps`` steps, at least 2, at a rung of the ladder; None distils nothing."""
        ...

    def measure(self, length: int, again: bool = False) -> Estimate:
        """The accuracy at a sent length over the device's channel and SNRs; ``again`` with other channel draws."""
        ...


@dataclass(frozen=True)
class Plan:
    """What an algorithm may spend.

    Attributes:
        floor: A_d.
        units: Distilled units of one step at each rung, rising.
        budget: N_d, distilled units.
        steps: Steps in a slice.
        slices: Most slices: ``slices * steps`` is the most steps of any algorithm.
        patience: Slices of the finest rung without a new best accuracy before giving up.
        decay: What each further slice is expected to gain, as a share of the one before, in (0, 1].
    """

    floor: float
    units: tuple[int, ...]
    budget: int
    steps: int
    slices: int
    patience: int = 3
    decay: float = 0.5

    @property
    def most_steps(self) -> int:
        """The most steps that any algorithm trains."""
        return self.steps * self.slices

    @property
    def static_steps(self) -> int:
        """Steps at the finest rung that the budget pays for."""
        return min(self.most_steps, self.budget // self.units[-1])

    @property
    def allowance(self) -> int:
        """Units that the adaptive algorithm may spend: what static spends; all of a budget that pays no step of it."""
        return self.static_steps * self.units[-1] or self.budget


class Slice(NamedTuple):
    """One slice of training, and the accuracy at the longest code after it."""

    rung: int | None
    steps: int
    units: int
    accuracy: float
    lower: float


@dataclass
class Outcome:
    """How it ended.

    Attributes:
        length: Symbols to send; the longest allowed where the floor was not met, 0 where nothing can be sent.
        met: Whether the bound of the accuracy meets the floor at that length.
        binding: What kept it from being met; None where it is met.
        estimate: At that length; None where nothing was trained.
        slices: In their order.
    """

    length: int
    met: bool
    binding: Binding | None
    estimate: Estimate | None = None
    slices: list[Slice] = field(default_factory=list)

    @property
    def units(self) -> int:
        """Distilled units spent."""
        return sum(part.units for part in self.slices)

    @property
    def steps(self) -> int:
        """Steps trained."""
        return sum(part.steps for part in self.slices)


def lengths(longest: int) -> list[int]:
    """The lengths among which a code is shortened: 1, 2, 3, 4, 6, 8, 12, 16, … and ``longest``, rising."""
    grid = {base << power for power in range(longest.bit_length()) for base in (1, 3)}
    return sorted({length for length in grid if length < longest} | {longest})


def tailor(
    student: Student,
    plan: Plan,
    longest: int,
    most: int,
    limit: Literal["latency", "energy"] | None,
    on_slice: Callable[[Slice], None] = lambda _: None,
) -> Outcome:
    """Climb the ladder until the floor is met, then shorten the code.

    Args:
        student: Fresh.
        plan: Floor and budget.
        longest: The longest code inside deadline and energy; 0 for none.
        most: The longest code that the codec has.
        limit: What forbids a code longer than ``longest``; None where ``longest`` is ``most``.
        on_slice: Called after each slice.
    """
    if longest < 1:
        return Outcome(0, False, limit)
    top, rung, idle = len(plan.units) - 1, 0, 0
    units, steps = plan.allowance, plan.most_steps
    taken: list[Slice] = []
    now = student.measure(longest)
    before = best = now.accuracy
    while (part := _affordable(plan, rung, units, steps)) is not None:
        rung, count = part
        student.train(rung, count)
        now = student.measure(longest)
        taken.append(Slice(rung, count, count * plan.units[rung], *now))
        on_slice(taken[-1])
        units, steps = units - taken[-1].units, steps - count
        if now.lower >= plan.floor and (found := _shortened(student, plan.floor, longest)) is not None:
            return Outcome(found[0], True, None, found[1], taken)
        gain, before = now.accuracy - before, now.accuracy
        if rung < top:
            more = min(steps / plan.steps, units / (plan.steps * plan.units[rung]))  # slices that are left at this rung
            rung += gain * _decaying(plan.decay, more) < max(plan.floor - now.lower, 1e-9)
        else:
            idle = 0 if now.accuracy > best else idle + 1
            if idle >= plan.patience:
                break
        best = max(best, now.accuracy)
    return Outcome(longest, False, _why(student, plan, longest, most, limit, idle), now, taken)


def static(student: Student, plan: Plan, longest: int, limit: Literal["latency", "energy"] | None) -> Outcome:
    """Plain KD of the full granularity: the finest rung for all that the budget pays, at the longest code."""
    return _once(student, plan, len(plan.units) - 1, longest, limit)


def none(student: Student, plan: Plan, longest: int, limit: Literal["latency", "energy"] | None) -> Outcome:
    """No distillation: as many steps as ``static`` takes, on labels alone, at the longest code."""
    return _once(student, plan, None, longest, limit)


def _once(
    student: Student, plan: Plan, rung: int | None, longest: int, limit: Literal["latency", "energy"] | None
) -> Outcome:
    if longest < 1:
        return Outcome(0, False, limit)
    if plan.static_steps < 2:
        return Outcome(longest, False, "budget")
    student.train(rung, plan.static_steps)
    found = student.measure(longest)
    units = 0 if rung is None else plan.static_steps * plan.units[rung]
    met = found.lower >= plan.floor
    only = Slice(rung, plan.static_steps, units, *found)
    return Outcome(longest, met, None if met else "accuracy", found, [only])


def _decaying(decay: float, count: float) -> float:
    """What ``count`` more slices gain, when decay + decay^2 + … of the last gain follow."""
    return count if decay == 1 else decay * (1 - decay**count) / (1 - decay)


def _affordable(plan: Plan, rung: int, units: int, steps: int) -> tuple[int, int] | None:
    """The finest rung up to ``rung`` of which a worthwhile slice can be paid, and its steps; None where none can.

    A slice below a quarter of the full one is not worth a schedule of its own, unless it is all that is left.
    """
    for finest in range(rung, -1, -1):
        count = min(plan.steps, steps, units // plan.units[finest])
        if count >= max(2, min(steps, plan.steps // 4)):
            return finest, count
    return None


def _shortened(student: Student, floor: float, longest: int) -> tuple[int, Estimate] | None:
    """The shortest code that meets the floor, and again with other channel draws; None where no code does twice."""
    grid: Sequence[int] = lengths(longest)
    place = len(grid) - 1
    while place > 0 and student.measure(grid[place - 1]).lower >= floor:
        place -= 1
    # The shortest of many lengths that pass one measurement was lucky with it: ask again, and lengthen where refuted.
    for length in grid[place:]:
        found = student.measure(length, again=True)
        if found.lower >= floor:
            return length, found
    return None


def _why(
    student: Student, plan: Plan, longest: int, most: int, limit: Literal["latency", "energy"] | None, idle: int
) -> Binding:
    """What binds where the floor was not met."""
    if limit is not None and student.measure(most).lower >= plan.floor:
        return limit  # a longer code would do, and may not be sent
    return "accuracy" if idle >= plan.patience else "budget"
