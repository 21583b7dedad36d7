"""The upper level's gradients: the unrolled one and the curvature, against torch's own derivatives and differences."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import OPTIONS, SEARCH, Spy, World
from supernets import Supernet
from torch import Tensor, nn
from torch.func import functional_call

from kdnas import config
from kdnas.run.seeds import generator
from kdnas.search import Searcher, SearchResult, strategy
from kdnas.search.bilevel import dominant_eigenvalue, keeping_buffers, unrolled_gradient
from kdnas.search.strategy import KDLDartsModule

TINY = {"in_channels": 1, "image_size": 28, "feature_dim": 16, "depth": 1, "width": 0.5}
SPACES: dict[str, dict[str, Any]] = {
    "mobile": {"depth": 1, "width": 0.5},
    "cell": {"channels": 2, "cells": 3},
    "vit": {"depth": 2, "width": 0.5},
    "nas_bench_201": {"channels": 4, "cells": 1},
}
RATE = 0.5


class TwoLayers:
    """Two layers, each a mixture of three weight matrices, on random data of a train and a val split."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.weights = [nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 6, 2))]
        self.alphas = [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))]
        self.data = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(2)]

    def loss(self, split: int, weights: Sequence[Tensor]) -> Tensor:
        x, y = self.data[split]
        for alpha, w in zip(self.alphas[:2], weights[:2], strict=True):
            x = torch.tanh(x @ torch.tensordot(alpha.softmax(0), w, 1))
        return (x - y).square().mean()


class Net:
    """A real supernet on random images and targets of a train and a val split."""

    def __init__(self, name: str, images: int = 6) -> None:
        net = Supernet(name, feature_dim=4, **SPACES[name])
        self.space, self.weights, self.alphas = net.space, net.weights(), list(net.alphas.values())
        ids = {id(w) for w in self.weights}
        self.names = [key for key, p in self.space.named_parameters() if id(p) in ids]
        random = torch.Generator().manual_seed(1)
        self.images = torch.rand(2, images, 1, 28, 28, generator=random)
        self.targets = torch.randn(2, images, 4, generator=random)

    def loss(self, split: int, weights: Sequence[Tensor]) -> Tensor:
        z = functional_call(self.space, dict(zip(self.names, weights, strict=True)), (self.images[split],))
        return (z - self.targets[split]).square().mean()


Problem = TwoLayers | Net


def flat(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [torch.zeros_like(x).flatten() if t is None else t.flatten() for t, x in zip(tensors, like, strict=True)]
    )


def exactly(problem: Problem, rate: float) -> tuple[Tensor, Tensor]:
    """By autograd through the unrolled step: the gradient in all α, and its part that is of second order."""
    slopes = torch.autograd.grad(
        problem.loss(0, problem.weights), problem.weights, create_graph=True, allow_unused=True
    )
    stepped = [w if s is None else w - rate * s for w, s in zip(problem.weights, slopes, strict=True)]
    whole = torch.autograd.grad(problem.loss(1, stepped), problem.alphas, allow_unused=True)
    there = [w.detach() for w in stepped]
    direct = torch.autograd.grad(problem.loss(1, there), problem.alphas, allow_unused=True)
    total = flat(whole, problem.alphas)
    return total, total - flat(direct, problem.alphas)


def unrolled(problem: Problem, rate: float) -> tuple[Tensor, Tensor]:
    loss, found = unrolled_gradient(
        lambda: problem.loss(0, problem.weights), lambda: problem.loss(1, problem.weights),
        problem.weights, problem.alphas, rate,
    )  # fmt: skip
    assert [g.shape for g in found] == [a.shape for a in problem.alphas]
    return loss, flat(found, problem.alphas)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_gradient_through_the_unrolled_step(seed: int, float64: None) -> None:
    problem = TwoLayers(seed)
    wanted, second = exactly(problem, RATE)
    assert second.norm() > 0.01 * wanted.norm()  # without its factor 1 / (2 ε) it would be another gradient
    loss, found = unrolled(problem, RATE)
    assert error(found, wanted) < 1e-3
    slopes = torch.autograd.grad(problem.loss(0, problem.weights), problem.weights)
    stepped = [w - RATE * s for w, s in zip(problem.weights, slopes, strict=True)]
    torch.testing.assert_close(loss, problem.loss(1, stepped).detach())


@pytest.mark.parametrize("name", SPACES)
def test_it_is_the_gradient_through_the_unrolled_step_of_a_supernet(name: str, float64: None) -> None:
    problem = Net(name)
    with keeping_buffers(problem.space):
        wanted, second = exactly(problem, 0.01)
    assert second.norm() > 0.01 * wanted.norm()
    before = {key: value.clone() for key, value in problem.space.state_dict().items()}
    with keeping_buffers(problem.space):
        _, found = unrolled(problem, 0.01)
    assert error(found, wanted) < 1e-3
    after = problem.space.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(p.grad is None for p in problem.space.parameters())


def test_without_a_step_it_is_the_first_order_gradient(float64: None) -> None:
    for problem in (TwoLayers(), Net("mobile")):
        loss = problem.loss(1, problem.weights)
        wanted = torch.autograd.grad(loss, problem.alphas)
        found_loss, found = unrolled(problem, 0.0)
        assert torch.equal(found, flat(wanted, problem.alphas))
        assert torch.equal(found_loss, loss.detach())


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_weights_and_statistics_stand_as_before_when_a_loss_fails(failing: int, float64: None) -> None:
    problem, calls = Net("mobile"), 0
    before = {key: value.clone() for key, value in problem.space.state_dict().items()}

    def loss(split: int) -> Tensor:
        nonlocal calls
        calls += 1
        found = problem.loss(split, problem.weights)  # moves the statistics of batch norm
        if calls == failing:
            raise ArithmeticError("the loss is not finite")
        return found

    def attempt() -> None:
        with keeping_buffers(problem.space):
            unrolled_gradient(lambda: loss(0), lambda: loss(1), problem.weights, problem.alphas, RATE)

    try:
        attempt()
    except ArithmeticError:
        assert calls == failing
    else:
        assert calls < failing  # it needs no more passes than these
    after = problem.space.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_what_a_loss_does_not_depend_on_has_no_gradient(float64: None) -> None:
    problem = TwoLayers()
    problem.weights.append(nn.Parameter(torch.randn(3)))
    problem.alphas.append(nn.Parameter(torch.randn(2)))
    wanted, _ = exactly(problem, RATE)
    _, found = unrolled(problem, RATE)
    assert error(found, wanted) < 1e-3
    assert torch.equal(found[-2:], torch.zeros(2))


def test_a_loss_of_alphas_alone_has_its_direct_gradient(float64: None) -> None:
    alpha, w = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.ones(3))
    loss, (found,) = unrolled_gradient(lambda: (alpha.sum() * w).sum(), lambda: alpha.pow(2).sum(), [w], [alpha], 0.1)
    assert float(loss) == 5
    assert torch.equal(found, torch.tensor([2.0, -4.0]))
    assert torch.equal(w, torch.ones(3))


# The search that uses it.


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "mobile", TINY)
        yield


def run(searcher: Searcher, directory: Path, on_epoch: Any = None, **changes: object) -> SearchResult:
    settings = SEARCH.model_copy(update={"steps": 2, "batch_size": 8, "eigenvalue_every": 0, "order": 2, **changes})
    return searcher.run(settings, config.Loss(), directory, "search", progress=False, on_epoch=on_epoch)


class Recorded:
    """One search of second order, and what each of its architecture steps was made of."""

    def __init__(self, world: World, directory: Path) -> None:
        self.steps: list[dict[str, Any]] = []
        step, log = KDLDartsModule._architecture_step, KDLDartsModule._log_parts

        def unrolled(train: Callable, val: Callable, weights: list, alphas: list, rate: float, *more: Any) -> Any:
            self.steps[-1] |= {"rate": rate, "weights": weights, "alphas": alphas}
            self.steps[-1] |= {"train": train().detach(), "val": val().detach()}
            loss, gradients = unrolled_gradient(train, val, weights, alphas, rate, *more)
            self.steps[-1] |= {"loss": loss, "gradients": gradients}
            return loss, gradients

        def spied(module: KDLDartsModule, batch: Any, index: int, progress: float) -> None:
            task, alphas = module.training_module, module.arch_parameters()
            with keeping_buffers(task):
                own = {level: task.training_step(batch[level], 0)["loss"].detach() for level in ("train", "val")}
            term = module.multipliers.term(module.tables.expected(module.probabilities()))
            pull = torch.autograd.grad(term, alphas, allow_unused=True)
            kept = {key: value.clone() for key, value in module.state_dict().items() if ".alpha." not in key}
            self.steps.append({"own": own, "pull": pull, "wanted": [module.weight_parameters(), alphas]})
            step(module, batch, index, progress)
            self.steps[-1]["grads"] = [alpha.grad.clone() for alpha in alphas]
            self.steps[-1]["unmoved"] = all(torch.equal(module.state_dict()[key], v) for key, v in kept.items())

        def logged(module: KDLDartsModule, level: str, parts: Any) -> None:
            if level == "architecture":
                self.steps[-1]["logged"] = parts["loss"].detach().clone()
            log(module, level, parts)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(strategy, "unrolled_gradient", unrolled)
            patch.setattr(KDLDartsModule, "_architecture_step", spied)
            patch.setattr(KDLDartsModule, "_log_parts", logged)
            run(world.searcher(), directory, shrink=False)


@pytest.fixture(scope="module")
def recorded(world: World, tmp_path_factory: pytest.TempPathFactory, tiny: None) -> Recorded:
    return Recorded(world, tmp_path_factory.mktemp("recorded"))


def test_the_second_order_step_unrolls_on_the_weights_split(recorded: Recorded) -> None:
    assert len(recorded.steps) == SEARCH.epochs * 2
    for index, step in enumerate(recorded.steps[:2]):
        assert torch.equal(step["train"], step["own"]["train"]) and torch.equal(step["val"], step["own"]["val"])
        assert not torch.equal(step["train"], step["val"])
        for found, wanted in zip((step["weights"], step["alphas"]), step["wanted"], strict=True):
            assert all(a is b for a, b in zip(found, wanted, strict=True))
        done = SEARCH.warmup_epochs * 2 + index
        cosine = (1 + math.cos(math.pi * done / ((SEARCH.warmup_epochs + SEARCH.epochs) * 2))) / 2
        assert step["rate"] == pytest.approx(SEARCH.learning_rate * (0.01 + 0.99 * cosine))


def test_the_second_order_step_moves_alphas_alone_by_gradient_and_penalty(recorded: Recorded) -> None:
    for step in recorded.steps:
        assert step["unmoved"]
        for got, gradient, pull in zip(step["grads"], step["gradients"], step["pull"], strict=True):
            torch.testing.assert_close(got, gradient if pull is None else gradient + pull)
    assert any(gradient.any() for gradient in recorded.steps[0]["gradients"])


def test_the_curve_of_the_architecture_loss_is_that_of_its_own_split(recorded: Recorded) -> None:
    for step in recorded.steps:
        assert torch.equal(step["logged"], step["loss"])


class Killed(Exception):
    pass


def test_a_search_of_second_order_differs_and_goes_on_to_the_bit(world: World, spy: Spy, tmp_run: Path) -> None:
    def watch(epoch: int, accuracy: float, costs: dict[str, float]) -> None:
        assert 0 <= accuracy <= 1

    def kill(epoch: int, accuracy: float, costs: dict[str, float]) -> None:
        if epoch == 1:
            raise Killed

    first = run(world.searcher(), tmp_run / "first", order=1, on_epoch=watch)
    alphas_of_first = spy.alphas()
    whole = run(world.searcher(), tmp_run / "whole", on_epoch=watch)
    wanted = spy.alphas()
    with pytest.raises(Killed):
        run(world.searcher(), tmp_run / "parts", on_epoch=kill)
    torch.manual_seed(99)
    again = run(world.searcher(), tmp_run / "parts", on_epoch=watch)
    assert all(torch.equal(alpha, wanted[label]) for label, alpha in spy.alphas().items())
    assert all(torch.equal(again.weights[key], value) for key, value in whole.weights.items())
    assert (again.history, again.choices, again.costs) == (whole.history, whole.choices, whole.costs)
    assert (again.accuracy_relaxed, again.accuracy_derived) == (whole.accuracy_relaxed, whole.accuracy_derived)
    assert any(not torch.equal(alpha, wanted[label]) for label, alpha in alphas_of_first.items())
    assert first.history != whole.history


def test_a_search_of_second_order_needs_no_budget(world: World, tmp_run: Path) -> None:
    result = run(world.searcher(budgets={}), tmp_run, warmup_epochs=0, epochs=1, steps=1)
    (row,) = result.history
    assert any(max(p) > 1 / len(p) + 1e-3 for p in row["probabilities"].values())  # α moved


# The curvature.


def hessian_of(spectrum: Sequence[float]) -> Tensor:
    turn, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=torch.Generator().manual_seed(0)))
    return turn @ torch.diag(torch.tensor(spectrum)) @ turn.T


@pytest.mark.parametrize("spectrum", [[-5.0, 3.0, 1.0, 0.5, 0.0], [4.0, -3.0, -2.0, 1.0, 0.1], [1e-6, 0, 0, 0, 0.0]])
def test_the_eigenvalue_of_largest_magnitude_keeps_its_sign(spectrum: list[float], float64: None) -> None:
    hessian = hessian_of(spectrum)
    alphas = [nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(3))]

    def loss() -> Tensor:
        a = torch.cat(list(alphas))
        return 0.5 * a @ hessian @ a + a.sum()

    found = dominant_eigenvalue(loss, alphas, generator("test"), iterations=80)
    assert found == pytest.approx(spectrum[0], rel=1e-9)
    spread = 2 * max(map(abs, spectrum))  # what a few products give is an eigenvalue's neighbour at worst
    assert abs(dominant_eigenvalue(loss, alphas, generator("test")) - spectrum[0]) < spread
    assert all(alpha.grad is None for alpha in alphas)


@pytest.mark.parametrize("seed", range(3))
def test_the_eigenvalue_is_that_of_torch_s_own_hessian(seed: int, float64: None) -> None:
    problem = TwoLayers(seed)

    def value(*alphas: Tensor) -> Tensor:
        problem.alphas = list(alphas)  # type: ignore[arg-type]
        return problem.loss(1, problem.weights)

    alphas = tuple(problem.alphas)
    blocks = torch.autograd.functional.hessian(value, alphas)
    eigenvalues = torch.linalg.eigvalsh(torch.cat([torch.cat(row, 1) for row in blocks]))
    wanted = float(eigenvalues[eigenvalues.abs().argmax()])
    problem.alphas = list(alphas)
    found = dominant_eigenvalue(
        lambda: problem.loss(1, problem.weights), alphas, generator("test", seed), iterations=300
    )
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_eigenvalue_of_a_supernet_is_that_of_differences_of_its_gradients(float64: None) -> None:
    problem, step = Net("mobile", images=4), 1e-6
    rows = []
    for alpha in problem.alphas:
        for i in range(len(alpha)):
            sides = []
            for sign in (1, -2):
                with torch.no_grad():
                    alpha[i] += sign * step
                loss = problem.loss(1, problem.weights)
                sides.append(flat(torch.autograd.grad(loss, problem.alphas), problem.alphas))
            with torch.no_grad():
                alpha[i] += step
            rows.append((sides[0] - sides[1]) / (2 * step))
    hessian = torch.stack(rows)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-4, atol=1e-5 * float(hessian.abs().max()))
    eigenvalues = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    wanted = float(eigenvalues[eigenvalues.abs().argmax()])
    found = dominant_eigenvalue(
        lambda: problem.loss(1, problem.weights), problem.alphas, generator("test"), iterations=25
    )
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    "loss",
    [lambda a: 0 * a.pow(2).sum(), lambda a: (torch.arange(3.0) * a).sum(), lambda a: torch.ones(())],
    ids=["zero", "linear", "constant"],
)
def test_no_curvature_is_zero(loss: Callable[[Tensor], Tensor], float64: None) -> None:
    alpha, other = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(()))
    assert dominant_eigenvalue(lambda: loss(alpha) + other, [alpha], generator("test")) == 0


def test_the_search_measures_it_and_leaves_no_trace(
    world: World, spy: Spy, tmp_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(world.searcher(), tmp_run, order=1, shrink=False, eigenvalue_every=1, relaxation="gumbel", epochs=1)
    module = spy.module
    assert module is not None
    task = module.training_module
    monkeypatch.setattr(task, "log", lambda *args, **kwargs: None)  # there is no trainer any more
    before = {key: value.clone() for key, value in module.state_dict().items()}
    random = torch.get_rng_state()
    found = module._eigenvalue(0)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert module.relaxation.training and all(p.requires_grad for p in task.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert module._eigenvalue(0) == found == pytest.approx(result.history[0]["eigenvalue"], rel=1e-5)

    # All of the Hessian of the soft mixture, row by row.
    module.relaxation.eval()
    alphas = module.arch_parameters()
    slopes = torch.autograd.grad(task.training_step(module._last_val, 0)["loss"], alphas, create_graph=True)
    rows = [
        flat(torch.autograd.grad(slope, alphas, retain_graph=True, allow_unused=True), alphas)
        for slope in torch.cat(slopes)
    ]
    eigenvalues = torch.linalg.eigvalsh(torch.stack(rows).double())
    wanted = float(eigenvalues[eigenvalues.abs().argmax()])
    assert found == pytest.approx(wanted, rel=0.1)
