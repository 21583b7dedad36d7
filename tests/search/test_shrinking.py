"""Values leave the search until one architecture is left: how many, which, and what that does to the last epoch."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_search import OPTIONS, SEARCH, Spy, World
from torch import Tensor, nn

from kdnas import config
from kdnas.cost import CostTables
from kdnas.ops import Step, Unit
from kdnas.search import Searcher, SearchResult
from kdnas.search.strategy import KDLDartsModule
from kdnas.space.mixture import Mixture
from kdnas.space.relaxation import Softmax

MOBILE = {"in_channels": 1, "image_size": 28, "feature_dim": 16, "depth": 1, "width": 0.5}
CELL = {"in_channels": 1, "image_size": 28, "feature_dim": 16, "channels": 4, "cells": 3}


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "mobile", MOBILE)
        patch.setitem(OPTIONS, "cell", CELL)
        yield


def run(searcher: Searcher, directory: Path, **changes: object) -> SearchResult:
    quick = {"warmup_epochs": 0, "steps": 1, "batch_size": 8, "eigenvalue_every": 0, "alpha_learning_rate": 0.5}
    settings = SEARCH.model_copy(update=quick | changes)
    return searcher.run(settings, config.Loss(), directory, "search", progress=False)


class Watched:
    """After each epoch: the choices derived, the values alive, and α."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows: list[dict[str, Any]] = []
        end, derived = KDLDartsModule.on_train_epoch_end, KDLDartsModule.derived
        last: dict[str, Any] = {}

        def deriving(module: KDLDartsModule) -> dict[str, Any]:
            last["derived"] = derived(module)
            return last["derived"]

        def spied(module: KDLDartsModule) -> None:
            end(module)
            self.rows.append(
                {
                    "derived": last["derived"],
                    "alive": {label: alive.clone() for label, alive in module.relaxation.alive.items()},
                    "alphas": {label: alpha.detach().clone() for label, alpha in module.alphas().items()},
                    "settled": module.settled,
                }
            )

        patch.setattr(KDLDartsModule, "derived", deriving)
        patch.setattr(KDLDartsModule, "on_train_epoch_end", spied)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_the_share_of_values_falls_evenly_to_one(world: World, watched: Watched, tmp_run: Path) -> None:
    searcher = world.searcher()
    result = run(searcher, tmp_run, epochs=5)
    domains = searcher.tables.domains
    before = {label: torch.ones(len(values), dtype=torch.bool) for label, values in domains.items()}
    assert len(watched.rows) == 5
    for epoch, row in enumerate(watched.rows):
        left = max(Fraction(0), 1 - Fraction(epoch + 1, 4))
        for label, values in domains.items():
            alive = row["alive"][label]
            assert int(alive.sum()) == max(1, math.ceil(left * len(values)))
            assert alive[values.index(row["derived"][label])]
            assert not (alive & ~before[label]).any()
            likely = row["alphas"][label].masked_fill(~before[label], -torch.inf).argsort(descending=True)
            first = values.index(row["derived"][label])
            best = [first, *(i for i in likely.tolist() if i != first)][: int(alive.sum())]
            assert sorted(best) == alive.nonzero().flatten().tolist()
        before = row["alive"]
        if epoch:  # the row is written before its epoch's values leave
            for label, p in result.history[epoch]["probabilities"].items():
                gone = ~watched.rows[epoch - 1]["alive"][label]
                assert not torch.tensor(p)[gone].any()
        assert row["settled"] == all(int(alive.sum()) == 1 for alive in row["alive"].values())
    assert not watched.rows[1]["settled"] and watched.rows[3]["settled"]
    assert result.choices == watched.rows[3]["derived"] == watched.rows[4]["derived"]
    assert {k: domains[k][int(a.int().argmax())] for k, a in before.items()} == result.choices
    same = zip(watched.rows[3]["alphas"].values(), watched.rows[4]["alphas"].values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)  # α have nothing more to say
    assert result.history[4]["entropy"] == 0


def test_a_single_epoch_ends_in_one_architecture(world: World, watched: Watched, tmp_run: Path) -> None:
    result = run(world.searcher(), tmp_run, epochs=1)
    (row,) = watched.rows
    assert row["settled"] and all(int(alive.sum()) == 1 for alive in row["alive"].values())
    assert result.choices == row["derived"]


def test_without_shrinking_all_values_stay(world: World, watched: Watched, tmp_run: Path) -> None:
    result = run(world.searcher(), tmp_run, epochs=3, shrink=False)
    assert all(row["alive"] == {} and not row["settled"] for row in watched.rows)
    assert all(p > 0 for p in result.history[0]["probabilities"]["stage0/width"])
    one, other = watched.rows[1]["alphas"], watched.rows[2]["alphas"]
    assert all(not torch.equal(alpha, other[label]) for label, alpha in one.items())  # they move to the end


class Standing:
    """What ``derived`` and ``_settle`` read of a module: one label ``x`` whose values cost ``params``."""

    def __init__(self, params: list[int], budget: float, use: float) -> None:
        self.domains = {"x": list(range(len(params)))}
        tables = CostTables([Unit("u", ("x",), lambda c: [Step("u", params=params[c["x"]])])], self.domains)
        self.alpha = nn.Parameter(torch.zeros(len(params)))
        self.module: Any = SimpleNamespace(
            alphas=lambda: {"x": self.alpha}, relaxation=Softmax(), tables=tables, budgets={"params": budget},
            settings=config.Search(budget_use=use), space_rules=(self.domains, lambda value: False), settled=False,
        )  # fmt: skip

    def after(self, alphas: list[float], left: float) -> tuple[int, list[int]]:
        """What is derived at ``alphas``, and the values alive after that epoch."""
        with torch.no_grad():
            self.alpha.copy_(torch.tensor(alphas))
        choices = KDLDartsModule.derived(self.module)
        KDLDartsModule._settle(self.module, choices, left)
        return choices["x"], self.module.relaxation.alive["x"].nonzero().flatten().tolist()


def test_a_dropped_value_never_comes_back_and_keeps_its_place_in_the_ranking() -> None:
    standing = Standing([10, 10, 10, 10], 100, 0.0)
    assert standing.after([4, 3, 2, 1], 0.75) == (0, [0, 1, 2])
    # Adam's weight decay goes on to move the α of what was dropped: here it overtakes, and one less is left.
    assert standing.after([4, 3, 2, 9], 0.75) == (0, [0, 1])
    assert standing.after([4, 5, 2, 9], 0.5) == (1, [1])  # what is derived always stays
    assert standing.module.settled


def test_what_is_derived_is_alive_even_where_the_floor_of_use_is_near() -> None:
    # 9005 reaches 90 % of the budget by less than the slack of a derivation under a floor.
    standing = Standing([5000, 9005, 9500], 10000, 0.9)
    assert standing.after([1, 2, 0], 2 / 3) == (1, [0, 1])
    derived, alive = standing.after([2, 1, 0], 1 / 3)
    assert derived in (0, 1) and alive == [derived]


def test_the_value_derived_stays_though_the_likeliest_is_another() -> None:
    standing = Standing([50, 200, 300], 100, 0.0)  # one alone fits the budget
    assert standing.after([0, 1, 2], 2 / 3) == (0, [0, 2])
    assert standing.after([0, 3, 2], 1 / 3) == (0, [0])


def test_the_last_epoch_trains_one_architecture_alone(
    world: World, spy: Spy, tmp_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_start: dict[str, Tensor] = {}
    spied = KDLDartsModule.training_step

    def step(module: KDLDartsModule, batch: Any, index: int) -> Any:
        if module.current_epoch == 1 and not at_start:
            at_start.update({key: value.clone() for key, value in module.state_dict().items()})
        return spied(module, batch, index)

    monkeypatch.setattr(KDLDartsModule, "training_step", step)
    searcher = world.searcher("cell")
    result = run(searcher, tmp_run, epochs=2, steps=2)
    module = spy.module
    assert module is not None and module.settled
    assert result.choices == module.derived()
    others = chosen_moved = 0
    for name, part in module.named_modules():
        if not isinstance(part, Mixture):
            continue
        kept = result.choices[part.labels["operation"]]
        for kind, operation in part.operations.items():
            grads = [p.grad for p in operation.parameters()]
            state = operation.state_dict()
            started = {key: at_start[f"{name}.operations.{kind}.{key}"] for key in state}
            if kind == kept:
                chosen_moved += sum(not torch.equal(started[key], value) for key, value in state.items())
            else:
                others += len(grads)
                assert all(grad is None or not grad.any() for grad in grads)
                assert all(torch.equal(started[key], value) for key, value in state.items())  # statistics too
    assert others > 100 and chosen_moved > 10
    assert all(torch.equal(at_start[key], value) for key, value in module.state_dict().items() if ".alpha." in key)

    # The relaxed supernet is the derived network: the gap is of one and the same, but for its statistics.
    space = module.training_module.model
    inherited = space.inherit(result.choices, space).eval()
    images = torch.rand(4, 1, 28, 28)
    space.eval()
    with torch.no_grad():
        torch.testing.assert_close(space(images), inherited(images), rtol=1e-4, atol=1e-5)
    classifier = module.training_module.classifier
    cpu = torch.device("cpu")
    assert result.accuracy_relaxed == searcher.accuracy(inherited, classifier, cpu)
    assert result.accuracy_derived == searcher.accuracy(searcher.recalibrated(inherited, cpu), classifier, cpu)
    assert result.gap == result.accuracy_relaxed - result.accuracy_derived


class Killed(Exception):
    pass


@pytest.mark.parametrize(("name", "relaxation"), [("mobile", "softmax"), ("mobile", "gumbel"), ("cell", "partial")])
def test_a_search_goes_on_to_the_bit_with_values_dropped(
    name: str,
    relaxation: str,
    world: World,
    spy: Spy,
    watched: Watched,
    tmp_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = KDLDartsModule._row

    def kill(module: KDLDartsModule) -> Any:
        if module.current_epoch == 1:
            raise Killed
        return row(module)

    changes = {"epochs": 3, "relaxation": relaxation}
    whole = run(world.searcher(name), tmp_run / "whole", **changes)
    wanted, rows = spy.alphas(), watched.rows[:]
    counts = [[int(alive.sum()) for alive in row["alive"].values()] for row in rows]
    assert max(counts[0]) > 1 and max(counts[1]) == 1
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(KDLDartsModule, "_row", kill)
        run(world.searcher(name), tmp_run / "parts", **changes)
    torch.manual_seed(99)
    again = run(world.searcher(name), tmp_run / "parts", **changes)
    assert all(torch.equal(alpha, wanted[label]) for label, alpha in spy.alphas().items())
    assert all(torch.equal(again.weights[key], value) for key, value in whole.weights.items())
    assert (again.history, again.choices, again.costs) == (whole.history, whole.choices, whole.costs)
    assert (again.accuracy_relaxed, again.accuracy_derived) == (whole.accuracy_relaxed, whole.accuracy_derived)
    resumed = watched.rows[-2:]
    for row, other in zip(resumed, rows[1:], strict=True):
        assert row["settled"] == other["settled"]
        assert all(torch.equal(alive, other["alive"][label]) for label, alive in row["alive"].items())
    state = zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True)
    assert all(torch.equal(value, other) for (_, value), other in state)


@pytest.mark.parametrize("shrink", [False, True])
def test_a_grown_eigenvalue_freezes_the_architecture(
    shrink: bool, world: World, watched: Watched, tmp_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([-1.0, 1.9, -2.1])
    monkeypatch.setattr(KDLDartsModule, "_eigenvalue", lambda module, epoch: next(values))
    changes = {"epochs": 6, "shrink": shrink, "eigenvalue_every": 1, "eigenvalue_stop": 2.0}
    searcher = world.searcher()
    result = run(searcher, tmp_run, **changes)
    frozen = watched.rows[2]
    assert [row["settled"] for row in watched.rows] == [False, False, True, True, True, True]
    assert all(int(alive.sum()) == 1 for alive in frozen["alive"].values())
    for row in watched.rows[3:]:
        assert all(torch.equal(alpha, frozen["alphas"][label]) for label, alpha in row["alphas"].items())
    assert result.choices == frozen["derived"] == watched.rows[5]["derived"]
    assert [row["eigenvalue"] for row in result.history] == [-1.0, 1.9, -2.1, None, None, None]


def test_an_eigenvalue_that_does_not_grow_freezes_nothing(
    world: World, watched: Watched, tmp_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([1.0, 1.9, 0.5])
    monkeypatch.setattr(KDLDartsModule, "_eigenvalue", lambda module, epoch: next(values))
    run(world.searcher(), tmp_run, epochs=3, shrink=False, eigenvalue_every=1, eigenvalue_stop=2.0)
    assert all(row["alive"] == {} and not row["settled"] for row in watched.rows)
