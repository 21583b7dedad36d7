"""From α to the weights of a mixture: the exact softmax, the sampled value, partial channels, and what is dropped."""

import math
from collections.abc import Iterator

import pytest
import torch
from supernets import Supernet
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.space import make_space
from kdnas.space.relaxation import GumbelSoftmax, PartialChannels, Relaxation, Softmax, make_relaxation


@pytest.fixture(autouse=True)
def in_float64(float64: None) -> Iterator[None]:
    yield


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def drawn(alphas: dict[str, Tensor], *key: object, temperature: float = 0.7) -> GumbelSoftmax:
    relaxation = GumbelSoftmax()
    relaxation.temperature = temperature
    relaxation.draw(alphas, *key)
    return relaxation


def test_each_name_makes_its_relaxation() -> None:
    for name, kind, partial in (("softmax", Softmax, 1), ("gumbel", GumbelSoftmax, 1), ("partial", PartialChannels, 4)):
        made = make_relaxation(name)
        assert type(made) is kind and made.name == name and made.partial == partial
        assert made.alive == made.fixed == {}
    with pytest.raises(InputError, match="unknown relaxation 'hard'; there are softmax, gumbel, partial"):
        make_relaxation("hard")


@pytest.mark.parametrize("kind", [Softmax, PartialChannels])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_exact_mixture_is_a_tempered_softmax_with_its_gradient(kind: type[Relaxation], temperature: float) -> None:
    relaxation, alpha, weights = kind(), parameter(0.5, -1.0, 0.2), torch.tensor([1.0, 2.0, -3.0])
    relaxation.temperature = temperature
    p = relaxation(alpha, "x")
    exps = [math.exp(float(a) / temperature) for a in alpha]
    torch.testing.assert_close(p, torch.tensor([e / sum(exps) for e in exps]))
    (gradient,) = torch.autograd.grad((weights * p).sum(), alpha)
    p = p.detach()
    torch.testing.assert_close(gradient, p * (weights - weights @ p) / temperature)
    relaxation.draw({"x": alpha}, "any")  # nothing is random
    assert torch.equal(relaxation(alpha, "x"), p)


def test_the_sample_is_one_hot_to_the_bit() -> None:
    alphas = {"a": parameter(0.3, -0.2, 0.1), "b": parameter(0.0, 0.0)}
    relaxation = GumbelSoftmax()
    for key in range(50):
        relaxation.draw(alphas, key)
        for label, alpha in alphas.items():
            p = relaxation(alpha, label)
            assert sorted(p.tolist()) == [0.0] * (len(alpha) - 1) + [1.0]


@pytest.mark.parametrize("temperature", [0.05, 5.0])
def test_samples_follow_the_softmax_of_alpha(temperature: float) -> None:
    alpha, count = parameter(1.0, 0.0, -0.5, -1.5), 4000
    relaxation = GumbelSoftmax()
    relaxation.temperature = temperature  # of the backward pass alone
    hits = torch.zeros(4)
    for key in range(count):
        relaxation.draw({"x": alpha}, "step", key)
        hits += relaxation(alpha, "x").detach()
    wanted = alpha.detach().softmax(0) * count
    chi_square = float(((hits - wanted).square() / wanted).sum())
    assert chi_square < 16.27  # 99.9 % of draws from the right distribution, at three degrees of freedom


def test_labels_are_drawn_independently() -> None:
    alphas, count = {"a": parameter(0.0, 0.0), "b": parameter(0.0, 0.0)}, 2000
    relaxation, equal = GumbelSoftmax(), 0
    for key in range(count):
        relaxation.draw(alphas, key)
        equal += int(torch.equal(relaxation(alphas["a"], "a"), relaxation(alphas["b"], "b")))
    assert abs(equal - count / 2) < 3.3 * math.sqrt(count / 4)  # 99.9 %


def test_the_gradient_is_that_of_the_soft_sample() -> None:
    alpha, weights, temperature = parameter(0.4, -0.3, 0.9), torch.tensor([2.0, -1.0, 0.5]), 0.7
    relaxation = drawn({"x": alpha}, "step", temperature=temperature)
    (gradient,) = torch.autograd.grad((weights * relaxation(alpha, "x")).sum(), alpha)
    soft = ((alpha.detach().log_softmax(0) + relaxation.noise["x"]) / temperature).softmax(0)
    # d soft_j / d α_k = soft_j (1[j = k] - soft_k) / T: the normaliser of log softmax shifts all logits alike.
    torch.testing.assert_close(gradient, soft * (weights - weights @ soft) / temperature)
    assert gradient.abs().min() > 1e-3

    # And by differences of the soft sample.
    step = 1e-6
    for i in range(3):
        sides = []
        for sign in (1, -1):
            moved = alpha.detach().clone()
            moved[i] += sign * step
            sides.append(weights @ ((moved.log_softmax(0) + relaxation.noise["x"]) / temperature).softmax(0))
        assert float(sides[0] - sides[1]) / (2 * step) == pytest.approx(float(gradient[i]), rel=1e-5)


def test_the_same_key_draws_the_same_and_parts_share_it() -> None:
    alphas = {"a": parameter(0.0, 0.0, 0.0), "b": parameter(0.0, 0.0, 0.0)}
    one, other, third = drawn(alphas, "weights", 3, 1), drawn(alphas, "weights", 3, 1), drawn(alphas, "weights", 3, 2)
    for label in alphas:
        assert torch.equal(one.noise[label], other.noise[label])
        assert not torch.equal(one.noise[label], third.noise[label])
    assert torch.equal(one(alphas["a"], "a"), one(alphas["a"], "a"))  # two parts that share an α
    state = torch.get_rng_state()
    one.draw(alphas, "weights", 4, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_parts_of_a_supernet_see_one_sample_and_evaluation_sees_the_mixture() -> None:
    net = Supernet("mobile", depth=1, width=0.5)
    relaxation = GumbelSoftmax()
    for module in net.space.modules():
        if hasattr(module, "softmax"):
            module.softmax = relaxation
    relaxation.draw(net.alphas, "step")
    net.space.train()
    seen: dict[str, list[Tensor]] = {label: [] for label in net.alphas}
    for module in net.space.modules():
        for argument, label in getattr(module, "labels", {}).items():
            seen[label].append(module.probabilities(argument))
    assert len(seen["stage0/width"]) == 2  # the output of one block and the input of the next
    assert all(sorted(p.tolist())[-2:] == [0, 1] and torch.equal(p, ps[0]) for ps in seen.values() for p in ps)
    assert all(ps for ps in seen.values())
    net.space.eval()
    for label, alpha in net.alphas.items():
        torch.testing.assert_close(relaxation(alpha, label), alpha.softmax(0))


def test_before_the_first_draw_it_is_the_mixture() -> None:
    alpha = parameter(0.3, 0.1)
    torch.testing.assert_close(GumbelSoftmax()(alpha, "x"), alpha.softmax(0))


@pytest.mark.parametrize("kind", [Softmax, GumbelSoftmax, PartialChannels])
def test_what_is_dropped_has_probability_and_gradient_zero(kind: type[Relaxation]) -> None:
    relaxation, alpha = kind(), parameter(9.0, 0.3, 0.2, 8.0)
    relaxation.temperature = 0.5
    relaxation.alive["x"] = torch.tensor([False, True, True, False])
    soft = relaxation.soft(alpha, "x")
    assert soft[0] == soft[3] == 0
    torch.testing.assert_close(soft[1:3], (2 * alpha[1:3]).softmax(0))
    (gradient,) = torch.autograd.grad((torch.arange(4.0) * soft).sum(), alpha)
    assert gradient[0] == gradient[3] == 0 and gradient[2] > 0.1
    torch.testing.assert_close(gradient[1], -gradient[2])

    seen = torch.zeros(4)
    for key in range(60):
        relaxation.draw({"x": alpha}, key)
        p = relaxation(alpha, "x")
        (gradient,) = torch.autograd.grad((torch.tensor([5.0, 1.0, 2.0, 7.0]) * p).sum(), alpha)
        assert gradient.isfinite().all()
        assert gradient[[0, 3]].abs().max() < 1e-15
        seen += p.detach()
    assert seen[0] == seen[3] == 0 and (seen[1:3] > 0).all()
    torch.testing.assert_close(relaxation.soft(alpha, "of another label"), (2 * alpha).softmax(0))


@pytest.mark.parametrize("kind", [Softmax, GumbelSoftmax, PartialChannels])
def test_one_value_left_is_certain(kind: type[Relaxation]) -> None:
    relaxation, alpha = kind(), parameter(9.0, 0.3)
    relaxation.alive["x"] = torch.tensor([False, True])
    relaxation.draw({"x": alpha}, "step")
    p = relaxation(alpha, "x")
    assert p.tolist() == [0, 1]
    (gradient,) = torch.autograd.grad((torch.tensor([3.0, 5.0]) * p).sum(), alpha)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("kind", [Softmax, GumbelSoftmax, PartialChannels])
def test_choosing_is_one_hot_inside_the_block_alone(kind: type[Relaxation]) -> None:
    relaxation, alpha, other = kind(), parameter(9.0, 0.3, 0.1), parameter(0.2, 0.1)
    relaxation.draw({"x": alpha, "y": other}, "step")
    before = relaxation(alpha, "x").detach()
    with relaxation.choosing({"x": 2}):
        assert relaxation(alpha, "x").tolist() == [0, 0, 1]
        assert relaxation(alpha, "x").dtype == alpha.dtype
        torch.testing.assert_close(relaxation.soft(alpha, "x"), alpha.softmax(0))  # expected costs are of α
        assert relaxation(other, "y").tolist() != [0, 0]
    assert torch.equal(relaxation(alpha, "x"), before)
    with pytest.raises(RuntimeError, match="inside"), relaxation.choosing({"x": 1}):
        raise RuntimeError("inside")
    assert relaxation.fixed == {} and torch.equal(relaxation(alpha, "x"), before)


@pytest.mark.parametrize("name", ["mobile", "vit"])
def test_partial_channels_need_branches(name: str) -> None:
    space = make_space(name)
    with pytest.raises(InputError, match=f"relaxation 'partial' needs branches to mix, and space '{name}' has none"):
        space.check_relaxation("partial")
    assert space.check_relaxation("softmax") is space.check_relaxation("gumbel") is None
    make_space("cell").check_relaxation("partial")
