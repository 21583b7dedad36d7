"""A mixture of operations: what it computes, what it runs, its gradients, and what partial channels do to a map."""

import pytest
import torch
from nni.mutable import frozen_context
from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from kdnas.ops.cells import OPERATIONS, CellOperation, ZeroOperation
from kdnas.space.mixture import Mixture
from kdnas.space.relaxation import make_relaxation

LABEL = "edge"


def make_mixture(relaxation: str = "softmax", channels: int = 8, stride: int = 1, seed: int = 0) -> Mixture:
    """An edge of a cell among all operations, its alphas drawn from a normal distribution."""
    torch.manual_seed(seed)
    candidates = {kind: CellOperation(kind, channels, stride) for kind in OPERATIONS[1:]}
    with frozen_context():  # as NNI has it while it mutates a space
        source = LayerChoice({"none": ZeroOperation(stride), **candidates}, label=LABEL)
    return Mixture(source, {LABEL: nn.Parameter(torch.randn(len(OPERATIONS)))}, make_relaxation(relaxation))


def count_calls(mixture: Mixture) -> list[str]:
    """The kinds of operation that have run, as they run."""
    ran: list[str] = []
    for kind, operation in mixture.operations.items():
        operation.register_forward_pre_hook(lambda *_, kind=kind: ran.append(kind))
    return ran


def plain(kind: str, channels: int, stride: int, mixture: Mixture) -> nn.Module:
    """The candidate ``kind`` in torch's own layers, with its weights in ``mixture``."""
    if kind == "none":
        return ZeroOperation(stride)
    operation = CellOperation(kind, channels, stride)
    operation.load_state_dict(mixture.operations[kind].state_dict())
    return operation


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_explicit_sum_with_all_its_gradients(stride: int, size: int, training: bool, float64: None) -> None:
    mixture = make_mixture(stride=stride).train(training)
    alpha = mixture.alpha[LABEL].detach().clone().requires_grad_()
    operations = nn.ModuleDict({kind: plain(kind, 8, stride, mixture).train(training) for kind in OPERATIONS})
    x, other = (torch.randn(3, 8, size, size, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    x.requires_grad_()
    other.requires_grad_()
    p = alpha.softmax(0)
    every = [q * operation(other) for q, operation in zip(p, operations.values(), strict=True)]
    expected, got = torch.stack(every).sum(0), mixture(x)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)
    target = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * target).sum(), [alpha, other, *operations.parameters()])
    found = torch.autograd.grad((got * target).sum(), [mixture.alpha[LABEL], x, *mixture.operations.parameters()])
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
def test_without_a_gradient_of_alpha_the_values_and_weight_gradients_are_the_same(stride: int, float64: None) -> None:
    mixture, x = make_mixture(stride=stride), torch.randn(3, 8, 8, 8)
    weights = list(mixture.operations.parameters())
    both = mixture(x)
    wanted = torch.autograd.grad(both.square().sum(), weights)
    mixture.alpha[LABEL].requires_grad_(False)
    alone = mixture(x)
    torch.testing.assert_close(alone, both, rtol=1e-14, atol=1e-14)
    for one, two in zip(torch.autograd.grad(alone.square().sum(), weights), wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("trains_alpha", [True, False])
def test_values_without_a_share_are_not_run_and_nothing_changes(trains_alpha: bool, float64: None) -> None:
    mixture, x = make_mixture(), torch.randn(2, 8, 8, 8)
    mixture.alpha[LABEL].requires_grad_(trains_alpha)
    alive = torch.tensor([True, False, True, False, True, False, False])
    mixture.softmax.alive[LABEL] = alive
    ran = count_calls(mixture)
    got = mixture(x)
    assert ran == ["max_pool_3x3", "sep_conv_3x3"]
    p = mixture.probabilities("operation")
    assert p[~alive].eq(0).all() and p[alive].gt(0).all()
    every = [q * plain(kind, 8, 1, mixture)(x) for q, kind in zip(p, OPERATIONS, strict=True)]
    torch.testing.assert_close(got, torch.stack(every).sum(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
@pytest.mark.parametrize("stride", [1, 2])
def test_only_none_gives_zeros(relaxation: str, stride: int) -> None:
    mixture = make_mixture(relaxation, stride=stride)
    with mixture.softmax.choosing({LABEL: 0}):
        out = mixture(torch.rand(2, 8, 7, 7))
    assert out.shape == (2, 8, -(-7 // stride), -(-7 // stride)) and not out.any()


@pytest.mark.parametrize("kind", OPERATIONS)
def test_one_operation_alone_is_itself_to_the_bit(kind: str, float64: None) -> None:
    for stride in (1, 2):
        mixture, x = make_mixture(stride=stride), torch.randn(2, 8, 7, 7)
        with mixture.softmax.choosing({LABEL: OPERATIONS.index(kind)}):
            assert torch.equal(mixture(x), plain(kind, 8, stride, mixture)(x))
        frozen = mixture.freeze({LABEL: kind})
        assert torch.equal(frozen(x), plain(kind, 8, stride, mixture)(x))
        own = {p.data_ptr() for p in mixture.parameters()}
        assert not own & {p.data_ptr() for p in frozen.parameters()}


# 8: two mixed of eight; 6: one of six (6 is no multiple of 4); 9: two of nine, which does not divide; 3: one of three.
@pytest.mark.parametrize(("channels", "part"), [(8, 2), (6, 1), (9, 2), (3, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_partial_channels_mix_a_part_and_let_the_rest_pass(
    channels: int, part: int, stride: int, size: int, float64: None
) -> None:
    mixture, x = make_mixture("partial", channels, stride), torch.randn(2, channels, size, size)
    out, side = mixture(x), -(-size // stride)
    assert out.shape == (2, channels, side, side)
    p = mixture.probabilities("operation")
    operations = [plain(kind, part, stride, mixture) for kind in OPERATIONS]
    mixed = torch.stack([q * op(x[:, :part]) for q, op in zip(p, operations, strict=True)]).sum(0)
    rest = x[:, part:]
    if stride == 2:
        rest = nn.functional.max_pool2d(rest, 2, 2, ceil_mode=True)
    expected = list(torch.cat([mixed, rest], 1).unbind(1))
    places = []
    for channel in out.unbind(1):  # each is one of the expected, and no two are the same
        match = [i for i, other in enumerate(expected) if torch.allclose(channel, other, rtol=1e-13, atol=1e-13)]
        assert len(match) == 1
        places += match
    assert sorted(places) == list(range(channels))
    # The next edge mixes others: of what it takes, not all was mixed here, unless there is but one channel to take.
    assert set(places[:part]) != set(range(part)) or part == 1


def test_partial_channels_bypass_has_the_gradient_of_a_copy(float64: None) -> None:
    mixture, x = make_mixture("partial"), torch.randn(2, 8, 5, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixture(x).sum(), x)
    assert torch.equal(gradient[:, 2:], torch.ones(2, 6, 5, 5))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("step", range(4))
def test_the_single_path_runs_one_operation_and_has_the_gradient_of_gumbel_softmax(
    temperature: float, step: int, float64: None
) -> None:
    mixture, x = make_mixture("gumbel").train(), torch.randn(2, 8, 8, 8)
    relaxation, alpha = mixture.softmax, mixture.alpha[LABEL]
    relaxation.temperature = temperature
    relaxation.draw({LABEL: alpha}, step)
    soft = ((alpha.detach() + relaxation.noise[LABEL]) / temperature).softmax(0)
    sampled = int(soft.argmax())
    ran = count_calls(mixture)
    out, target = mixture(x), torch.randn(2, 8, 8, 8)
    assert ran == [OPERATIONS[sampled]]
    operation_out = plain(OPERATIONS[sampled], 8, 1, mixture)(x)
    assert torch.equal(out, operation_out)
    if OPERATIONS[sampled] == "none":
        assert not out.requires_grad
        return
    (got,) = torch.autograd.grad((out * target).sum(), alpha)
    # d p_s / d α_j of the soft sample; what was not run says nothing.
    unit = torch.eye(len(soft))[sampled]
    expected = (operation_out * target).sum() * soft[sampled] * (unit - soft) / temperature
    torch.testing.assert_close(got, expected.detach(), rtol=1e-10, atol=1e-12)


def test_the_supernet_keeps_names_and_weights_of_the_candidates() -> None:
    mixture: Mixture = make_mixture(stride=2)
    for kind in OPERATIONS[1:]:
        found: dict[str, Tensor] = mixture.operations[kind].state_dict()
        assert {k: v.shape for k, v in found.items()} == {
            k: v.shape for k, v in CellOperation(kind, 8, 2).state_dict().items()
        }
