"""The bilevel step: who moves when, what is computed, the order of the alphas, the penalty, the temperature."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import SEARCH, Spy, World
from supernets import Supernet

from kdnas import config
from kdnas.search.annealing import Annealing
from kdnas.search.budget import penalty
from kdnas.search.strategy import KDLDartsModule, SearchTask
from kdnas.space import list_spaces
from kdnas.space.relaxation import Softmax


def test_each_level_moves_and_differentiates_its_own_parameters_alone(
    world: World, spy: Spy, tmp_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = []
    level, whole = SearchTask.training_step, KDLDartsModule.training_step

    def snapshot(module: KDLDartsModule) -> dict[str, list]:
        alphas, weights = module.arch_parameters(), module.weight_parameters()
        return {
            "alphas": [p.detach().clone() for p in alphas],
            "weights": [p.detach().clone() for p in weights],
            "alpha_grads": [None if p.grad is None else p.grad.clone() for p in alphas],
            "weight_grads": [None if p.grad is None else p.grad.clone() for p in weights],
            "alphas_wanted": [all(p.requires_grad for p in alphas), any(p.requires_grad for p in alphas)],
            "weights_wanted": [all(p.requires_grad for p in weights), any(p.requires_grad for p in weights)],
        }

    def at_level(self: SearchTask, batch: Any, index: int) -> Any:
        assert spy.module is not None
        rows.append({"level": "weights" if index % 2 else "alphas", **snapshot(spy.module)})
        return level(self, batch, index)

    def after(self: KDLDartsModule, batch: Any, index: int) -> Any:
        out = whole(self, batch, index)
        rows.append({"level": "end", **snapshot(self)})
        return out

    monkeypatch.setattr(SearchTask, "training_step", at_level)
    monkeypatch.setattr(KDLDartsModule, "training_step", after)
    settings = SEARCH.model_copy(update={"epochs": 2, "steps": 2, "shrink": False, "eigenvalue_every": 0})
    world.searcher().run(settings, config.Loss(), tmp_run, "search", progress=False)

    def same(one: list, other: list) -> bool:
        return all(a is b is None or (a is not None and b is not None and torch.equal(a, b))
                   for a, b in zip(one, other, strict=True))  # fmt: skip

    levels = [row["level"] for row in rows]
    assert levels == ["weights", "end"] * 2 + ["alphas", "weights", "end"] * 4
    for before, later in itertools.pairwise(rows):
        if before["level"] == "alphas":
            assert before["alphas_wanted"] == [True, True] and before["weights_wanted"] == [False, False]
            assert not same(before["alphas"], later["alphas"])
            assert same(before["weights"], later["weights"])
            assert same(before["weight_grads"], later["weight_grads"])
            assert all(grad is not None and grad.any() for grad in later["alpha_grads"])
        if before["level"] == "weights":
            assert before["weights_wanted"] == [True, True] and before["alphas_wanted"] == [False, False]
            assert same(before["alphas"], later["alphas"])
            assert same(before["alpha_grads"], later["alpha_grads"])
            assert not same(before["weights"], later["weights"])


def test_each_level_reads_its_own_split(world: World, tmp_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[int]] = {0: [], 1: []}
    level = SearchTask.training_step

    def spied(self: SearchTask, batch: Any, index: int) -> Any:
        seen[index % 2] += batch.ids.tolist()
        known = batch.labels >= 0
        assert torch.equal(batch.labels[known], world.dataset.train_labels[batch.ids[known]])
        assert known.sum() == 5 and not known[5:].any()
        return level(self, batch, index)

    monkeypatch.setattr(SearchTask, "training_step", spied)
    world.searcher().run(SEARCH, config.Loss(), tmp_run, "search", progress=False)
    s = world.splits
    architecture = set(torch.cat([s.architecture_labelled, s.architecture_unlabelled]).tolist())
    weights = set(torch.cat([s.weights_labelled, s.weights_unlabelled]).tolist())
    assert seen[0] and set(seen[0]) <= architecture and seen[1] and set(seen[1]) <= weights


def test_alphas_stand_in_the_order_of_the_space(world: World, spy: Spy, tmp_run: Path) -> None:
    settings = SEARCH.model_copy(update={"epochs": 1, "steps": 1})
    searcher = world.searcher("cell")
    searcher.run(settings, config.Loss(), tmp_run, "search", progress=False)
    module = spy.module
    assert module is not None
    assert list(module.alphas()) == list(searcher.tables.domains)
    assert all(a is b for a, b in zip(module.arch_parameters(), module.alphas().values(), strict=True))
    optimizer = next(o for o in module.trainer.optimizers if isinstance(o, torch.optim.Adam) and len(
        o.param_groups[0]["params"]) == len(module.alphas()))  # fmt: skip
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], module.arch_parameters(), strict=True))
    ids = {id(p) for p in module.arch_parameters()} | {id(p) for p in module.weight_parameters()}
    assert ids == {id(p) for p in module.training_module.parameters()}
    assert len(ids) == len(module.arch_parameters()) + len(module.weight_parameters())


def test_the_penalty_by_hand() -> None:
    expected = {"params": torch.tensor(50.0), "macs": torch.tensor(300.0), "sram_bytes": torch.tensor(10.0)}
    budgets = {"params": 100.0, "macs": 200.0}
    # Half of the parameters: 0.01 x 0.5. One and a half of the MACs: 0.01 + 0.5. No budget for memory.
    got = penalty(expected, budgets, {"params": 2.0, "macs": 3.0, "sram_bytes": 100.0})
    assert float(got) == pytest.approx(2 * 0.005 + 3 * 0.51)
    assert float(penalty(expected, budgets, {"macs": 0.0})) == 0
    assert float(penalty(expected, {"params": 50.0}, {"params": 1.0})) == pytest.approx(0.01)


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("share", [0.5, 2.0])
@pytest.mark.parametrize("cost", ["params", "macs", "flash_bytes", "latency_s", "energy_j", "sram_bytes"])
def test_the_penalty_has_a_live_gradient(name: str, share: float, cost: str, float64: None) -> None:
    net = Supernet(name)
    budgets = {cost: share * float(net.tables.expected(net.probabilities())[cost].detach())}

    def value() -> torch.Tensor:
        return penalty(net.tables.expected(net.probabilities()), budgets, {cost: 0.7})

    alphas = list(net.alphas.values())
    gradients = torch.autograd.grad(value(), alphas, allow_unused=True)
    largest = max((i for i, g in enumerate(gradients) if g is not None), key=lambda i: float(gradients[i].abs().max()))
    alpha, gradient, step = alphas[largest], gradients[largest], 1e-5
    assert gradient.abs().max() > (1e-6 if share > 1 else 1e-4)
    with torch.no_grad():
        for i in range(len(alpha)):
            alpha[i] += step
            above = float(value())
            alpha[i] -= 2 * step
            below = float(value())
            alpha[i] += step
            assert (above - below) / (2 * step) == pytest.approx(float(gradient[i]), rel=1e-4, abs=1e-9)


def test_the_softmax_is_tempered_and_ends_one_hot() -> None:
    softmax, alpha = Softmax(), torch.tensor([0.3, 0.1, -0.2])
    torch.testing.assert_close(softmax(alpha), alpha.softmax(0))
    softmax.temperature = 0.5
    torch.testing.assert_close(softmax(alpha), (2 * alpha).softmax(0))
    softmax.temperature = 1e-3
    assert torch.equal(softmax(alpha), torch.tensor([1.0, 0.0, 0.0]))


def test_the_temperature_falls_geometrically() -> None:
    anneal = Annealing(4.0, 0.25)
    assert [anneal(p) for p in (-1, 0, 0.25, 0.5, 1, 2)] == pytest.approx([4, 4, 2, 1, 0.25, 0.25])
