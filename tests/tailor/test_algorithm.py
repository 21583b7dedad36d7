"""The algorithm on small synthetic instances, against exhaustive search over sequences of rungs and lengths."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kdnas.tailor.algorithm import Estimate, Plan, lengths, none, static, tailor

STEPS = 4  # of a slice
SHARE = 0.5  # of the way to a rung's ceiling that one whole slice goes


@dataclass
class Instance:
    """A student that approaches the ceiling of a rung geometrically; a short code loses accuracy.

    Training never harms: a rung whose ceiling is below what is known already changes nothing.
    """

    ceilings: tuple[float, ...]  # rising from coarse to fine
    loss_at_one: float  # accuracy lost with a single symbol
    known: float = 0.1
    trained: int = 0
    refuted: int = 0  # lengths up to this one fail where they are measured again

    def train(self, rung: int | None, steps: int) -> None:
        self.trained += steps
        if rung is not None:
            gap = max(0.0, self.ceilings[rung] - self.known)
            self.known += gap * (1 - (1 - SHARE) ** (steps / STEPS))

    def measure(self, length: int, again: bool = False) -> Estimate:
        accuracy = self.known - self.loss_at_one / length**2
        if again and length <= self.refuted:
            accuracy = 0.0
        return Estimate(accuracy, accuracy)


def reachable(ceilings: tuple[float, ...], loss: float, plan: Plan, longest: int) -> tuple[float, int] | None:
    """Exhaustive search: the best accuracy of any sequence of whole slices in the budget, and the fewest units of any
    sequence that meets the floor (0 where none does); None where no sequence can be paid or nothing can be sent.
    """
    if longest < 1:
        return None
    best, fewest = None, 0
    for count in range(1, plan.slices + 1):
        for rungs in itertools.product(range(len(ceilings)), repeat=count):
            units = sum(plan.units[rung] * STEPS for rung in rungs)
            if units > plan.budget:
                continue
            student = Instance(ceilings, loss)
            for rung in rungs:
                student.train(rung, STEPS)
            found = max(student.measure(length).accuracy for length in lengths(longest))
            best = found if best is None else max(best, found)
            if found >= plan.floor:
                fewest = min(fewest or units, units)
    return None if best is None else (best, fewest)


@st.composite
def instances(draw: st.DrawFn) -> tuple[tuple[float, ...], float, Plan, int]:
    rungs = draw(st.integers(2, 3))
    ceilings = tuple(sorted(draw(st.lists(st.floats(0.2, 0.95), min_size=rungs, max_size=rungs, unique=True))))
    units = tuple(itertools.accumulate(draw(st.lists(st.integers(1, 40), min_size=rungs, max_size=rungs))))
    plan = Plan(
        floor=draw(st.floats(0.15, 0.95)), units=units, budget=draw(st.integers(1, 4 * STEPS * units[-1])), steps=STEPS,
        slices=draw(st.integers(1, 4)), decay=1 - SHARE,
    )  # fmt: skip
    return ceilings, draw(st.floats(0, 0.3)), plan, draw(st.integers(0, 8))


def clear(best: float, floor: float) -> bool:
    """The comparison is not one of rounding."""
    return abs(best - floor) > 1e-6


@examples(max_examples=50)
@given(instances())
def test_it_promises_nothing_that_exhaustive_search_does_not_find(case: tuple) -> None:
    """No constraint is broken either, and no more units are spent than by plain KD of full granularity."""
    ceilings, loss, plan, longest = case
    student = Instance(ceilings, loss)
    found = tailor(student, plan, longest, 8, None if longest == 8 else "latency")
    assert found.steps == student.trained <= plan.most_steps
    assert found.units <= plan.budget and 0 <= found.length <= longest
    plain = static(Instance(ceilings, loss), plan, longest, "latency")
    if plain.slices:
        assert found.units <= plain.units
    assert (found.binding is None) == found.met
    if found.met:
        assert student.measure(found.length).accuracy >= plan.floor
        assert all(student.measure(k).accuracy < plan.floor for k in lengths(longest) if k < found.length)
    # Exhaustive search has whole slices alone; give it one more for the shorter ones at the end of a budget.
    roomy = Plan(plan.floor, plan.units, plan.budget + STEPS * plan.units[-1], STEPS, plan.slices + 1)
    best = reachable(ceilings, loss, roomy, longest)
    if best is None or best[0] < plan.floor - 1e-9:
        assert not found.met


@examples(max_examples=50)
@given(instances())
@example(((0.3, 0.9), 0.0, Plan(0.75, (1, 10), 10**6, STEPS, 6, decay=1 - SHARE), 8))
def test_with_one_slice_for_each_coarser_rung_to_spare_it_is_feasible_where_exhaustive_search_is(case: tuple) -> None:
    """Looking at a rung costs one slice; wherever that is in the budget, dynamic finds what exhaustive search finds."""
    ceilings, loss, plan, longest = case
    top = len(ceilings) - 1
    spare = sum(plan.units[:-1]) * STEPS
    # Whole slices of the finest rung are the best that any sequence of so many slices does.
    paid = min(plan.slices, plan.budget // (STEPS * plan.units[-1]))
    assume(paid > 0)
    exact = Plan(plan.floor, plan.units, paid * STEPS * plan.units[-1], STEPS, paid, decay=plan.decay)
    best = reachable(ceilings, loss, exact, longest)
    wide = Plan(plan.floor, plan.units, exact.budget + spare + STEPS * plan.units[-1], STEPS, paid + top + 1,
                patience=99, decay=plan.decay)  # fmt: skip
    found = tailor(Instance(ceilings, loss), wide, longest, longest, None)
    if best is not None and clear(best[0], plan.floor) and best[0] > plan.floor:
        assert found.met
    elif longest < 1 or (clear(ceilings[-1], plan.floor) and ceilings[-1] < plan.floor):
        assert not found.met


def agreement(slices: int) -> tuple[int, int, int]:
    """Over a grid of instances: how many are feasible by exhaustive search, by the algorithm, by static."""
    exhaustive = dynamic = plain = 0
    for a, b, c in itertools.combinations((0.3, 0.5, 0.7, 0.9), 3):
        for floor in (0.4, 0.55, 0.7, 0.85):
            for whole in (1.0, 2.5, 5.0):
                plan = Plan(floor, (1, 5, 50), int(whole * 50 * STEPS), STEPS, slices, decay=1 - SHARE)
                best = reachable((a, b, c), 0.05, plan, 8)
                exhaustive += best is not None and best[0] >= floor
                dynamic += tailor(Instance((a, b, c), 0.05), plan, 8, 8, None).met
                plain += static(Instance((a, b, c), 0.05), plan, 8, None).met
    return exhaustive, dynamic, plain


def test_it_finds_nearly_all_that_exhaustive_search_finds_without_knowing_the_future() -> None:
    exhaustive, dynamic, plain = agreement(slices=5)
    assert exhaustive > 25 and plain <= dynamic
    assert dynamic >= 0.9 * exhaustive


def test_coarse_knowledge_is_enough_where_it_is() -> None:
    plan = Plan(0.6, (1, 10, 100), 10_000, STEPS, 6)
    found = tailor(Instance((0.9, 0.92, 0.95), 0.0), plan, 8, 8, None)
    assert found.met and {part.rung for part in found.slices} == {0} and found.length == 1
    plain = static(Instance((0.9, 0.92, 0.95), 0.0), plan, 8, None)
    assert plain.met and plain.length == 8 and found.units < plain.units / 50


def test_a_length_that_was_lucky_once_is_lengthened() -> None:
    plan = Plan(0.6, (1, 10), 10_000, STEPS, 6)
    lucky = tailor(Instance((0.9, 0.9), 0.0), plan, 8, 8, None)
    checked = tailor(Instance((0.9, 0.9), 0.0, refuted=3), plan, 8, 8, None)
    assert lucky.length == 1 and checked.length == 4 and checked.met


@pytest.mark.parametrize(
    ("ceilings", "loss", "plan", "longest", "limit", "binding"),
    [
        ((0.5, 0.9), 0.0, Plan(0.8, (1, 9), 10**6, STEPS, 9), 0, "energy", "energy"),  # nothing can be sent
        ((0.5, 0.9), 4.0, Plan(0.8, (1, 9), 10**6, STEPS, 20), 3, "latency", "latency"),  # a longer code would do
        ((0.5, 0.7), 0.0, Plan(0.8, (1, 9), 10**6, STEPS, 99), 8, None, "accuracy"),  # no gain is left
        ((0.5, 0.9), 0.0, Plan(0.8, (1, 9), 60, STEPS, 99), 8, None, "budget"),
        ((0.5, 0.9), 0.0, Plan(0.8, (5, 9), 9, STEPS, 99), 8, None, "budget"),  # not one slice can be paid
    ],
)  # fmt: skip
def test_what_binds_is_named(
    ceilings: tuple[float, ...], loss: float, plan: Plan, longest: int, limit: str | None, binding: str
) -> None:
    student = Instance(ceilings, loss)
    found = tailor(student, plan, longest, 8, limit)  # type: ignore[arg-type]
    assert not found.met and found.binding == binding
    if longest == 0:
        assert found.length == 0 and found.estimate is None and student.trained == 0


def test_static_and_none_take_the_same_steps_at_the_longest_code() -> None:
    plan = Plan(0.6, (1, 10), 100, STEPS, 9)
    plain, bare = static(Instance((0.5, 0.9), 0.0), plan, 5, None), none(Instance((0.5, 0.9), 0.0), plan, 5, None)
    assert plain.steps == bare.steps == 10 and plain.length == bare.length == 5
    assert plain.units == 100 and bare.units == 0 and not bare.met and bare.binding == "accuracy"
    poor = Plan(0.6, (1, 10), 10, STEPS, 9)
    assert static(Instance((0.5, 0.9), 0.0), poor, 5, None).binding == "budget"
    assert static(Instance((0.5, 0.9), 0.0), plan, 0, "latency").binding == "latency"


def test_lengths_rise_to_the_longest() -> None:
    assert lengths(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert lengths(5) == [1, 2, 3, 4, 5] and lengths(1) == [1]
