"""What a search writes down after each epoch, in its history and as curves."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_search import OPTIONS, SEARCH, World
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdnas import config
from kdnas.cost import CostTables
from kdnas.search import Searcher, SearchResult
from kdnas.space import make_space

MOBILE = {"in_channels": 1, "image_size": 28, "feature_dim": 16, "depth": 2, "width": 0.5}
QUICK = {"warmup_epochs": 1, "epochs": 4, "steps": 1, "batch_size": 8, "eigenvalue_every": 2, "shrink": False}


@dataclass
class Watched:
    result: SearchResult
    hooks: list[tuple[int, float, dict[str, float]]]
    curves: dict[str, list[float]]
    budgets: dict[str, float]
    domains: dict[str, list[Any]]


def search(searcher: Searcher, directory: Path, hook: bool = True, **changes: object) -> Watched:
    hooks: list[tuple[int, float, dict[str, float]]] = []
    settings = SEARCH.model_copy(update=QUICK | changes)
    result = searcher.run(
        settings, config.Loss(), directory, "search", progress=False,
        on_epoch=(lambda *seen: hooks.append(seen)) if hook else None,
    )  # fmt: skip
    (path,) = (directory / "tensorboard" / "search").glob("events*")
    events = EventAccumulator(str(path))
    events.Reload()
    curves = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return Watched(result, hooks, curves, searcher.budgets, searcher.tables.domains)


@pytest.fixture(scope="module")
def watched(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "mobile", MOBILE)
        yield search(world.searcher(), tmp_path_factory.mktemp("monitor"))


def test_each_epoch_has_a_row_with_the_gap(watched: Watched) -> None:
    history = watched.result.history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [epoch for epoch, _, _ in watched.hooks] == [0, 1, 2, 3]
    for row, (_, accuracy, likely) in zip(history, watched.hooks, strict=True):
        assert row["gap"] == row["accuracy_relaxed"] - row["accuracy"]
        assert 0 <= row["accuracy_relaxed"] <= 1
        assert (row["accuracy"], row["likely"]) == (accuracy, likely)
        assert all(row["derived"][cost] <= budget for cost, budget in watched.budgets.items())
    assert history[-1]["accuracy_relaxed"] == watched.result.accuracy_relaxed
    assert history[-1]["gap"] == watched.result.gap


def test_the_eigenvalue_is_measured_at_its_interval(watched: Watched) -> None:
    history = watched.result.history
    assert ["eigenvalue" in row for row in history] == [True, False, True, False]
    assert all(row["eigenvalue"] != 0 for row in history if "eigenvalue" in row)


def test_skips_are_counted_by_stage(watched: Watched) -> None:
    for row in watched.result.history:
        wanted = {"stage0": 0, "stage1": 0, "stage2": 0}
        for label, values in watched.domains.items():
            p = row["probabilities"][label]
            if label.endswith("/keep"):
                wanted[label[: len("stage0")]] += values[p.index(max(p))] is False
        assert row["skips"] == wanted


def test_the_curves_say_what_the_history_says(watched: Watched) -> None:
    history, curves = watched.result.history, watched.curves

    def same(tag: str, values: list[float]) -> None:
        assert curves[tag] == pytest.approx(values, rel=1e-5, abs=1e-7), tag

    same("search/temperature", [row["temperature"] for row in history])
    same("search/entropy", [row["entropy"] for row in history])
    same("search/derived accuracy", [row["accuracy"] for row in history])
    same("search/relaxed accuracy", [row["accuracy_relaxed"] for row in history])
    same("search/discretisation gap", [row["gap"] for row in history])
    same("search/dominant eigenvalue", [row["eigenvalue"] for row in history if "eigenvalue" in row])
    for part in ("stage0", "stage1", "stage2"):
        same(f"skips/{part}", [row["skips"][part] for row in history])
    for name in ("params", "macs", "sram_bytes", "use"):
        same(f"multiplier/{name}", [row["multipliers"][name] for row in history])
    for name, budget in watched.budgets.items():
        for kind in ("expected", "likely", "derived"):
            same(f"{kind} cost over budget/{name}", [row[kind][name] / budget for row in history])


def test_nothing_is_measured_that_is_not_asked_for(world: World, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "mobile", MOBILE | {"depth": 1})
        plain = search(world.searcher(), tmp_path, hook=False, eigenvalue_every=0, epochs=1, warmup_epochs=0)
    (row,) = plain.result.history
    assert not {"accuracy", "accuracy_relaxed", "gap", "eigenvalue"} & set(row)
    assert row["skips"] == {}
    tags = {"search/derived accuracy", "search/discretisation gap", "search/dominant eigenvalue"}
    assert not tags & set(plain.curves) and "search/temperature" in plain.curves


def test_once_one_architecture_is_left_all_numbers_are_its_own(world: World, tmp_path: Path) -> None:
    """Budgets keep another architecture than the likeliest, which is what the costs and the skips are of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "vit", {"in_channels": 1, "image_size": 28, "feature_dim": 16, "depth": 3, "width": 0.5})
        space = make_space("vit", **OPTIONS["vit"])
        cheapest = {label: min(values) for label, values in space.domains().items()}
        budgets = {"params": 1.1 * CostTables(space.units(), space.domains()).exact(cheapest)["params"]}
        changes = {"shrink": True, "epochs": 2, "warmup_epochs": 0, "eigenvalue_every": 1, "penalty": {}}
        seen = search(world.searcher("vit", budgets), tmp_path, **changes)
    last = seen.result.history[-1]
    assert last["eigenvalue"] is None
    assert last["entropy"] == 0
    assert last["derived"] == seen.result.costs
    assert last["likely"] == seen.result.likely != seen.result.costs  # what α alone would take
    assert last["expected"] == pytest.approx(seen.result.costs, rel=1e-5)
    skips = sum(seen.result.choices[label] is False for label in seen.domains if label.endswith("/keep"))
    assert sum(last["skips"].values()) == skips


def test_skips_of_a_space_without_stages_have_a_name(world: World, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "vit", {"in_channels": 1, "image_size": 28, "feature_dim": 16, "depth": 3, "width": 0.5})
        seen = search(world.searcher("vit"), tmp_path, epochs=1, warmup_epochs=0, eigenvalue_every=0, hook=False)
    (part,) = seen.result.history[0]["skips"]
    assert part
    assert f"skips/{part}" in seen.curves
