"""The multipliers of the budgets by hand, the terms against collapse in closed form, and both in a search."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import OPTIONS, SEARCH, TEACHER_DIM, Spy, World
from supernets import Supernet
from torch import Tensor

from kdnas import config
from kdnas.loss import KnowledgeLoss
from kdnas.search.budget import Multipliers, penalty
from kdnas.search.strategy import KDLDartsModule, SearchTask

TINY = {"in_channels": 1, "image_size": 28, "feature_dim": 16, "depth": 1, "width": 0.5}


def settings(**changes: Any) -> config.Search:
    return config.Search(
        **{"penalty": {"params": 0.3, "macs": 0.2}, "dual_rate": 0.5, "use_penalty": 0.4, "budget_use": 0.8, **changes}
    )


def costs(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}


BUDGETS = {"params": 100.0, "macs": 200.0}


def test_the_first_multipliers_are_those_of_the_settings() -> None:
    multipliers = Multipliers(settings(), {"params": 100.0, "flash_bytes": 5.0})
    assert multipliers.values == {"params": 0.3, "use": 0.4}  # no budget for macs; no weight for flash
    assert multipliers.target == pytest.approx(0.9)
    assert Multipliers(settings(budget_use=0.0), BUDGETS).values["use"] == 0


def test_dual_ascent_by_hand() -> None:
    multipliers = Multipliers(settings(), BUDGETS)
    multipliers.step(costs(params=150.0, macs=50.0))  # shares 1.5 and 0.25; the binding one is above 0.9
    assert multipliers.values == pytest.approx(
        {"params": 0.3 * math.exp(0.5 * 0.5), "macs": 0.2 * math.exp(0.5 * -0.75), "use": 0.4 * math.exp(0.5 * -0.6)}
    )
    multipliers.step(costs(params=60.0, macs=100.0))  # shares 0.6 and 0.5: room is left
    assert multipliers.values == pytest.approx(
        {
            "params": 0.3 * math.exp(0.5 * (0.5 - 0.4)),
            "macs": 0.2 * math.exp(0.5 * (-0.75 - 0.5)),
            "use": 0.4 * math.exp(0.5 * (-0.6 + 0.3)),
        }
    )


def test_a_multiplier_of_zero_stays_zero() -> None:
    multipliers = Multipliers(settings(penalty={"params": 0.0, "macs": 0.2}, use_penalty=0.0), BUDGETS)
    for params in (1e9, 1.0):
        multipliers.step(costs(params=params, macs=1.0))
        assert multipliers.values["params"] == multipliers.values["use"] == 0
    assert 0 < multipliers.values["macs"] < 0.2


def test_multipliers_stay_within_a_span_of_the_first() -> None:
    multipliers = Multipliers(settings(dual_rate=3.0), BUDGETS)
    for _ in range(20):
        multipliers.step(costs(params=1000.0, macs=0.0))
    assert multipliers.values == pytest.approx({"params": 30.0, "macs": 0.002, "use": 0.004})
    for _ in range(20):
        multipliers.step(costs(params=0.0, macs=0.0))
    assert multipliers.values == pytest.approx({"params": 0.003, "macs": 0.002, "use": 40.0})


def test_a_wild_violation_counts_as_ten() -> None:
    one, other = (Multipliers(settings(dual_rate=0.1), BUDGETS) for _ in range(2))
    one.step(costs(params=1e30, macs=200.0))
    other.step(costs(params=1100.0, macs=200.0))
    assert one.values["params"] == other.values["params"] == pytest.approx(0.3 * math.e)


def test_a_rate_of_zero_keeps_all() -> None:
    multipliers = Multipliers(settings(dual_rate=0.0), BUDGETS)
    multipliers.step(costs(params=1e6, macs=1.0))
    assert multipliers.values == {"params": 0.3, "macs": 0.2, "use": 0.4}


def test_the_term_by_hand() -> None:
    multipliers = Multipliers(settings(), BUDGETS)
    expected = costs(params=60.0, macs=100.0)  # shares 0.6 (the binding one) and 0.5; the target is 0.9
    term = multipliers.term(expected)
    assert term.item() == pytest.approx(0.3 * 0.006 + 0.2 * 0.005 + 0.4 * 0.3)
    term.backward()
    assert float(expected["params"].grad) == pytest.approx((0.3 * 0.01 - 0.4) / 100)
    assert float(expected["macs"].grad) == pytest.approx(0.2 * 0.01 / 200)

    multipliers.values = {"params": 2.0, "macs": 3.0, "use": 5.0}
    expected = costs(params=60.0, macs=190.0)  # the binding share is above the target
    term = multipliers.term(expected)
    assert term.item() == pytest.approx(2 * 0.006 + 3 * 0.0095)
    term.backward()
    assert float(expected["macs"].grad) == pytest.approx(3 * 0.01 / 200)

    expected = costs(params=150.0, macs=100.0)  # outside
    term = multipliers.term(expected)
    assert term.item() == pytest.approx(2 * (0.01 + 0.5) + 3 * 0.005)
    term.backward()
    assert float(expected["params"].grad) == pytest.approx(2 / 100)


def test_without_use_the_term_is_the_penalty() -> None:
    expected = costs(params=60.0, macs=300.0)
    for changes in ({"budget_use": 0.0}, {"use_penalty": 0.0}):
        term = Multipliers(settings(**changes), BUDGETS).term(expected)
        assert term.item() == penalty(expected, BUDGETS, {"params": 0.3, "macs": 0.2}).item()


def test_without_budgets_nothing_pulls() -> None:
    multipliers = Multipliers(settings(), {})
    expected = costs(params=60.0, macs=100.0)
    assert float(multipliers.term(expected)) == 0
    multipliers.step(expected)
    assert multipliers.values == {"use": 0.0}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "mobile", TINY)


def test_in_a_search_the_violated_budget_gains_weight_and_the_slack_one_loses_it(
    tiny: None, world: World, tmp_run: Path
) -> None:
    net = Supernet("mobile", **TINY)
    uniform = {label: torch.full((len(v),), 1 / len(v)) for label, v in net.domains.items()}
    at_first = {name: float(value) for name, value in net.tables.expected(uniform).items()}
    budgets = {"macs": 0.7 * at_first["macs"], "params": 4 * at_first["params"]}
    changes = {
        "warmup_epochs": 0, "epochs": 3, "steps": 1, "batch_size": 8, "eigenvalue_every": 0, "shrink": False,
        "alpha_learning_rate": 0.01, "dual_rate": 0.5, "temperature": (1.0, 1.0),
    }  # fmt: skip
    history = world.searcher(budgets=budgets).run(
        SEARCH.model_copy(update=changes), config.Loss(), tmp_run, "search", progress=False
    ).history  # fmt: skip
    rows = [row["multipliers"] for row in history]
    assert [set(row) for row in rows] == [{"macs", "params", "use"}] * 3
    assert 0.3 < rows[0]["macs"] < rows[1]["macs"] < rows[2]["macs"]
    assert 0.3 > rows[0]["params"] > rows[1]["params"] > rows[2]["params"]
    assert 0.3 > rows[0]["use"] > rows[1]["use"] > rows[2]["use"]  # the binding budget is more than used
    # The first step is made at uniform probabilities, each later one at those that the row before wrote down.
    shares = [1 / 0.7, *(row["expected"]["macs"] / budgets["macs"] for row in history[:-1])]
    assert [row["macs"] for row in rows] == pytest.approx(
        [0.3 * math.exp(0.5 * sum(share - 1 for share in shares[: i + 1])) for i in range(3)], rel=1e-5
    )


def make_module(name: str, options: dict[str, Any], **changes: Any) -> KDLDartsModule:
    """The search's module around a real supernet with random α, without a trainer."""
    net, chosen = Supernet(name, **options), config.Search(**changes)
    flat = torch.zeros(TEACHER_DIM), torch.ones(TEACHER_DIM)
    loss = KnowledgeLoss(config.Loss(), 16, *flat)
    task = SearchTask(None, loss, 16, 10, chosen, 10)  # type: ignore[arg-type]
    task.set_model(net.space)
    return KDLDartsModule(
        task, space=net.space, relaxation=net.softmax, tables=net.tables, budgets={}, settings=chosen, on_epoch=None
    )


VIT = {"feature_dim": 16, "depth": 3, "width": 0.5}


def test_terms_of_weight_zero_are_absent() -> None:
    assert make_module("vit", VIT)._protection(0.5) == {}


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_beta_decay_in_closed_form(progress: float, float64: None) -> None:
    module = make_module("vit", VIT, beta_decay=0.7)
    (name, term), *rest = module._protection(progress).items()
    assert name == "beta decay" and not rest
    alphas = module.alphas().values()
    wanted = sum(math.log(sum(math.exp(float(a)) for a in alpha)) for alpha in alphas) / len(alphas)
    assert term.item() == pytest.approx(0.7 * progress * wanted)
    gradients = torch.autograd.grad(term, list(alphas))
    for alpha, gradient in zip(alphas, gradients, strict=True):
        # The descent lowers the largest α of a choice the most: they draw together.
        torch.testing.assert_close(gradient, 0.7 * progress / len(alphas) * alpha.detach().softmax(0))


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_skip_decay_in_closed_form(progress: float, float64: None) -> None:
    for name, options, skips in (
        ("vit", VIT, (False,)),
        ("cell", {"feature_dim": 16, "channels": 4, "cells": 3}, ("none", "skip_connect")),
    ):
        module = make_module(name, options, skip_decay=0.6)
        module.relaxation.temperature = 0.5
        domains = module.space_rules[0]
        ((kind, term),) = module._protection(progress).items()
        assert kind == "skip decay"
        shares = {
            label: float(sum(p for v, p in zip(domains[label], (2 * alpha).softmax(0), strict=True) if v in skips))
            for label, alpha in module.alphas().items()
            if name == "cell" or label.endswith("/keep")
        }
        assert len(shares) == (18 if name == "cell" else 2)
        assert term.item() == pytest.approx(0.6 * (1 - progress) * sum(shares.values()) / len(shares))
        gradients = torch.autograd.grad(term, list(module.alphas().values()), allow_unused=True)
        for (label, alpha), gradient in zip(module.alphas().items(), gradients, strict=True):
            if label not in shares:
                assert gradient is None
                continue
            # d share / d α = (1 / T) p (1[skip] - share): down with the skips, up with the rest.
            is_skip = torch.tensor([float(value in skips) for value in domains[label]])
            slope = 2 * (2 * alpha.detach()).softmax(0) * (is_skip - shares[label])
            torch.testing.assert_close(gradient, 0.6 * (1 - progress) / len(shares) * slope)


def test_skip_decay_of_a_space_without_skips_is_absent() -> None:
    assert make_module("mobile", TINY, skip_decay=0.6)._protection(0.0) == {}


def test_the_terms_act_in_a_search(world: World, spy: Spy, tmp_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "vit", {"in_channels": 1, "image_size": 28, **VIT})

    def search(name: str, **changes: Any) -> dict[str, Tensor]:
        quick = {
            "warmup_epochs": 0, "epochs": 1, "steps": 3, "batch_size": 8, "eigenvalue_every": 0, "shrink": False,
            "temperature": (1.0, 1.0),
        }  # fmt: skip
        chosen = SEARCH.model_copy(update=quick | changes)
        world.searcher("vit", budgets={}).run(chosen, config.Loss(), tmp_run / name, "search", progress=False)
        return spy.alphas()

    free, skips, beta = search("free"), search("skips", skip_decay=100.0), search("beta", beta_decay=100.0)
    keeps = [label for label in free if label.endswith("/keep")]
    assert keeps
    for label in keeps:  # values [True, False]
        assert skips[label].softmax(0)[1] < free[label].softmax(0)[1]
        assert skips[label].softmax(0)[1] < 0.5
    assert sum(float(a.logsumexp(0)) for a in beta.values()) < sum(float(a.logsumexp(0)) for a in free.values()) - 0.1
