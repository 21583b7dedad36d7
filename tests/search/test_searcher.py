"""A whole search, small: what it leaves, what acts on it, and how it goes on after a stop."""

import dataclasses
from pathlib import Path

import pytest
import torch
from small_search import OPTIONS, SEARCH, Spy, World

from kdnas import config
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lessons
from kdnas.search import Searcher, SearchResult
from kdnas.space import make_space

LOSS = config.Loss()


def run(searcher: Searcher, directory: Path, **changes: object) -> SearchResult:
    """Search with ``changes`` to the settings; ``loss`` and ``weights`` go to the search itself."""
    extra = {key: changes.pop(key) for key in ("weights", "on_epoch") if key in changes}
    loss = changes.pop("loss", LOSS)
    settings = SEARCH.model_copy(update=changes)
    return searcher.run(settings, loss, directory, "search", progress=False, **extra)


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run(world.searcher(), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", ["mobile", "cell"])
def test_a_search_ends_inside_the_budgets(name: str, world: World, tmp_run: Path) -> None:
    searcher = world.searcher(name)
    result = run(searcher, tmp_run, epochs=1, steps=2)
    assert make_space(name, **OPTIONS[name]).check(result.choices) == result.choices
    assert all(result.costs[cost] <= budget for cost, budget in searcher.budgets.items())
    assert result.costs == searcher.tables.exact(result.choices)
    assert result.costs["params"] == sum(p.numel() for p in result.network.parameters())
    assert result.network(torch.rand(2, 1, 28, 28)).shape == (2, 16)
    assert 0 <= result.accuracy_derived <= 1 and 0 <= result.accuracy_relaxed <= 1
    assert result.gap == result.accuracy_relaxed - result.accuracy_derived
    (row,) = result.history
    assert row["epoch"] == 1 and row["temperature"] == pytest.approx(SEARCH.temperature[1])
    assert 0 <= row["entropy"] <= 1
    likely = {
        label: values[max(range(len(values)), key=row["probabilities"][label].__getitem__)]
        for label, values in searcher.tables.domains.items()
    }
    assert row["likely"] == searcher.tables.exact(likely)
    skipped = sum(value in ("none", "skip_connect") or value is False for value in likely.values())
    assert sum(row["skips"].values()) == skipped
    parts = {"mobile": {"stage0", "stage1", "stage2"}, "cell": {"normal", "reduction"}}
    assert set(row["skips"]) == parts[name]
    for label, values in searcher.tables.domains.items():
        assert len(row["probabilities"][label]) == len(values)
        assert sum(row["probabilities"][label]) == pytest.approx(1, abs=1e-5)
    assert (tmp_run / "checkpoints" / "search.ckpt").exists()
    assert list((tmp_run / "tensorboard" / "search").glob("events*"))


def test_it_writes_nowhere_else(world: World, tmp_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    run(world.searcher(), tmp_run, epochs=1, steps=1)
    assert not list(home.rglob("*"))


def test_the_same_seed_gives_the_same_search(world: World, plain: SearchResult, tmp_run: Path) -> None:
    torch.rand(7)  # nothing may depend on the global state, nor on whether the derived network is measured
    again = run(world.searcher(), tmp_run, on_epoch=lambda epoch, accuracy, costs: None)
    for row, measured in zip(plain.history, again.history, strict=True):
        assert row == {key: measured[key] for key in row}
        assert set(measured) - set(row) == {"accuracy", "accuracy_relaxed", "gap"}
    assert again.choices == plain.choices
    assert all(torch.equal(again.weights[key], value) for key, value in plain.weights.items())


def test_distillation_acts(world: World, plain: SearchResult, tmp_run: Path) -> None:
    other = run(world.searcher(), tmp_run, loss=LOSS.model_copy(update={"kd": 0.0}))
    assert other.history[-1]["probabilities"] != plain.history[-1]["probabilities"]
    assert any(not torch.equal(other.weights[k], v) for k, v in plain.weights.items() if "stem" in k)


def test_without_distillation_no_stored_knowledge_is_read(world: World, tmp_run: Path) -> None:
    lessons = Lessons(world.dataset, world.lessons.views, None)
    result = run(world.searcher(lessons=lessons), tmp_run, epochs=1, loss=LOSS.model_copy(update={"kd": 0.0}))
    assert result.choices


@pytest.mark.parametrize("cost", ["macs", "sram_bytes", "latency_s"])
def test_each_penalty_lowers_its_expected_cost(cost: str, world: World, tmp_run: Path) -> None:
    searcher = world.searcher()
    space = make_space("mobile", **OPTIONS["mobile"])
    cheap = searcher.tables.exact({label: min(values) for label, values in space.domains().items()})
    searcher.budgets = {cost: 1.2 * cheap[cost]}
    quick = {"epochs": 1, "steps": 4, "warmup_epochs": 0, "temperature": (1.0, 1.0)}
    free, pressed = (
        run(searcher, tmp_run / str(weight), penalty={cost: weight}, **quick).history[-1]["expected"][cost]
        for weight in (0.0, 50.0)
    )
    assert pressed < 0.98 * free


def test_no_budget_no_penalty(world: World, tmp_run: Path) -> None:
    quick = {"epochs": 1, "steps": 2, "warmup_epochs": 0}
    one, other = (run(world.searcher(budgets={}), tmp_run / str(w), penalty={"macs": w}, **quick) for w in (0.0, 50.0))
    assert one.history == other.history


def test_impossible_budgets_are_refused_before_anything_is_trained(world: World, tmp_run: Path) -> None:
    with pytest.raises(InputError, match="no architecture fits: the cheapest in macs needs"):
        world.searcher(budgets={"macs": 10.0})
    assert not tmp_run.exists()


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1])
def test_a_search_that_was_stopped_goes_on_to_the_bit(at: int, world: World, spy: Spy, tmp_run: Path) -> None:
    def watch(epoch: int, accuracy: float, costs: dict[str, float]) -> None:
        assert 0 <= accuracy <= 1 and costs["params"] > 0

    def kill(epoch: int, accuracy: float, costs: dict[str, float]) -> None:
        if epoch == at:
            raise Killed

    whole = run(world.searcher(), tmp_run / "whole", on_epoch=watch)
    wanted = spy.alphas()
    with pytest.raises(Killed):
        run(world.searcher(), tmp_run / "parts", on_epoch=kill)
    torch.manual_seed(99)  # another process would have another global state
    again = run(world.searcher(), tmp_run / "parts", on_epoch=watch)
    assert all(torch.equal(alpha, wanted[label]) for label, alpha in spy.alphas().items())
    assert all(torch.equal(again.weights[key], value) for key, value in whole.weights.items())
    assert (again.history, again.choices, again.costs) == (whole.history, whole.choices, whole.costs)
    assert (again.accuracy_relaxed, again.accuracy_derived) == (whole.accuracy_relaxed, whole.accuracy_derived)


def test_a_finished_search_is_read_and_not_repeated(world: World, spy: Spy, tmp_run: Path) -> None:
    first = run(world.searcher(), tmp_run, epochs=1)
    spy.module = None
    again = run(world.searcher(), tmp_run, epochs=1)
    assert spy.module is None  # not one step was made
    assert (again.history, again.choices, again.gap) == (first.history, first.choices, first.gap)
    assert all(torch.equal(again.weights[key], value) for key, value in first.weights.items())


def test_a_damaged_checkpoint_is_named(world: World, tmp_run: Path) -> None:
    run(world.searcher(), tmp_run, epochs=1, steps=1)
    path = tmp_run / "checkpoints" / "search.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"checkpoint .*search\.ckpt is damaged"):
        run(world.searcher(), tmp_run, epochs=1, steps=1)


def test_searches_branch_from_a_warmed_up_supernet(world: World, tmp_run: Path, spy: Spy) -> None:
    searcher = world.searcher()
    weights = searcher.warm_up(SEARCH.model_copy(update={"steps": 2}), LOSS, tmp_run, "warm", progress=False)
    assert not any("alpha" in key for key in weights)
    started = {key: value.clone() for key, value in weights.items()}
    branch = {"warmup_epochs": 0, "epochs": 1, "steps": 1}
    one = run(searcher, tmp_run / "one", weights=weights, **branch)
    other = run(searcher, tmp_run / "other", weights=weights, **branch)
    scratch = run(searcher, tmp_run / "scratch", **branch)
    assert all(torch.equal(weights[key], value) for key, value in started.items())  # trials do not share
    assert all(torch.equal(one.weights[key], value) for key, value in other.weights.items())
    assert any(not torch.equal(one.weights[key], value) for key, value in scratch.weights.items())
    other_space = {key: value for key, value in weights.items() if "head" not in key}
    with pytest.raises(InputError, match="warmed-up supernet is of another space"):
        run(searcher, tmp_run / "third", weights=other_space, **branch)


def test_recalibration_makes_the_statistics_those_of_the_data(world: World, plain: SearchResult) -> None:
    searcher = world.searcher()
    network = plain.network
    network.stem.bn.running_mean.fill_(1e3)
    ids = torch.cat([world.splits.weights_labelled, world.splits.weights_unlabelled])
    # Sorted by class, as a folder is: what is drawn must not be of a few classes.
    order = world.dataset.train_labels[ids].argsort()
    searcher.splits = dataclasses.replace(world.splits, weights_labelled=ids[order], weights_unlabelled=ids[:0])
    searcher.recalibrated(network, torch.device("cpu"), images=200)
    with torch.no_grad():
        seen = network.stem.conv(world.dataset.train_images[ids] / 255 * 4 - 2)
    # 200 images stand for all of them: within 5 % of the standard deviation, 10 % of the variance.
    deviation = (network.stem.bn.running_mean - seen.mean((0, 2, 3))) / seen.std((0, 2, 3))
    assert deviation.abs().max() < 0.05
    torch.testing.assert_close(network.stem.bn.running_var, seen.var((0, 2, 3)), rtol=0.1, atol=1e-4)
    searcher.recalibrated(network, torch.device("cpu"), images=len(ids))
    torch.testing.assert_close(network.stem.bn.running_mean, seen.mean((0, 2, 3)), rtol=0.02, atol=1e-2)
    assert not network.training and network.stem.bn.momentum == 0.1
