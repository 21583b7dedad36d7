"""What several processes do together: reduce, compare, wait for the first, and stop when one of them fails."""

from typing import Any

import pytest
import torch
from processes import in_ranks
from torch import Tensor, nn
from torch.func import functional_call

from kdnas.errors import InputError
from kdnas.run import ranks

SIZES = (5, 3)  # images of each rank


def inputs() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(sum(SIZES), 4, 6, 5, generator=random, dtype=torch.float64)
    return x, torch.randn(x.shape, generator=random, dtype=torch.float64)


def norm_pass(x: Tensor, coefficients: Tensor, momentum: float | None, synchronise: bool) -> dict[str, Tensor]:
    """Two steps of training through a batch norm with scaled parameters, as the supernets use it."""
    block = nn.Sequential(nn.BatchNorm2d(4, momentum=momentum)).double()
    norm = block[0]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0, 0.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, 3.0, 0.5]))
    if synchronise:
        ranks.synchronise(block)
        assert type(norm) is not nn.BatchNorm2d
    scale = torch.tensor([1.0, 0.25, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x = x.clone().requires_grad_()
    for _ in range(2):
        y = functional_call(norm, {"weight": norm.weight * scale, "bias": norm.bias * scale}, (block(x) + x.square(),))
        (y * coefficients).sum().backward()
    found = {"y": y.detach(), "dx": x.grad, "dw": norm.weight.grad, "db": norm.bias.grad, "ds": scale.grad}
    block.eval()
    return {**found, **{name: value.clone() for name, value in norm.named_buffers()}, "eval": block(x).detach()}


def norm_of_share(momentum: float | None) -> dict[str, Tensor]:
    x, coefficients = (part.split(SIZES)[ranks.rank()] for part in inputs())
    return norm_pass(x, coefficients, momentum, True)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_ranks_is_that_of_the_whole_batch(momentum: float | None) -> None:
    whole = norm_pass(*inputs(), momentum, False)
    parts = in_ranks(norm_of_share, momentum)
    for name, wanted in whole.items():
        if name in ("y", "dx", "eval"):  # of images
            got = torch.cat([part[name] for part in parts])
        elif name in ("dw", "db", "ds"):  # each rank has the part of its own images
            got = parts[0][name] + parts[1][name]
        else:
            assert torch.equal(parts[0][name], parts[1][name])
            got = parts[0][name]
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12, msg=name)


def second_order(x: Tensor, coefficients: Tensor, direction: Tensor) -> list[Tensor]:
    """The gradient in all that enters of (the gradient in x and in the weights, along a direction)."""
    block = nn.Sequential(nn.BatchNorm2d(4)).double()
    ranks.synchronise(block)
    x, scale = x.clone().requires_grad_(), torch.full((), 1.5, dtype=torch.float64, requires_grad=True)
    loss = (block(x * scale + x.square()).tanh() * coefficients).sum()
    first = torch.autograd.grad(loss, [x, *block.parameters()], create_graph=True)
    # Linear in the gradients, so that the ranks' parts add up to the whole's.
    along = (first[0] * direction).sum() + first[1].sum() + 2 * first[2].sum()
    return list(torch.autograd.grad(along, [x, scale, *block.parameters()]))


def second_order_of_share() -> list[Tensor]:
    x, coefficients = inputs()
    parts = (part.split(SIZES)[ranks.rank()] for part in (x, coefficients, coefficients.flip(0)))
    return second_order(*parts)


def test_batch_norm_over_ranks_can_be_differentiated_twice() -> None:
    x, coefficients = inputs()
    whole, parts = second_order(x, coefficients, coefficients.flip(0)), in_ranks(second_order_of_share)
    got = [torch.cat([part[0] for part in parts]), *(a + b for a, b in zip(*(p[1:] for p in parts), strict=True))]
    for one, other in zip(got, whole, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def reduce() -> dict[str, Any]:
    own = ranks.rank() + 1.0
    weights = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(()))]
    weights[0].grad = torch.full((2, 3), own)
    weights[2].grad = torch.tensor(10 * own)
    ranks.average_gradients(weights)
    with ranks.alone():
        own = torch.zeros(1)
        inside = (ranks.world(), ranks.processes(), ranks.share(torch.arange(6)).tolist(), *ranks.mean([own]))
    ranks.check_equal([weights[0].grad, torch.arange(3)], "gradients")
    return {"grads": [w.grad for w in weights], "alone": inside, "share": ranks.share(torch.arange(6)).tolist()}


def test_gradients_become_their_means_and_batches_are_shared() -> None:
    outcomes = in_ranks(reduce, world=3)
    for rank, outcome in enumerate(outcomes):
        assert torch.equal(outcome["grads"][0], torch.full((2, 3), 2.0)) and float(outcome["grads"][2]) == 20
        assert outcome["grads"][1] is None
        assert outcome["share"] == [rank, rank + 3]
        assert outcome["alone"][:3] == (1, 3, list(range(6))) and float(outcome["alone"][3]) == 0


def test_one_process_computes_nothing_of_it() -> None:
    weight = torch.ones(2)
    module = nn.Sequential(nn.BatchNorm2d(2))
    ranks.synchronise(module)
    ranks.check_equal([weight], "weights")
    assert ranks.mean([weight])[0] is weight and ranks.share(weight) is weight and type(module[0]) is nn.BatchNorm2d
    assert (ranks.rank(), ranks.world(), ranks.launched()) == (0, 1, (0, 1))
    with ranks.joined():
        assert ranks.world() == 1 and ranks.by_main(lambda: 7) == 7


def differ() -> None:
    value = torch.ones(5)
    if ranks.rank() == 1:
        value[3] += 1e-7
    ranks.check_equal([value], "α after step 3 of epoch 2")


def test_a_difference_stops_all_ranks_and_is_named() -> None:
    for outcome in in_ranks(differ):
        assert isinstance(outcome, ranks.RanksError)
        assert str(outcome).startswith("α after step 3 of epoch 2 differ between the processes (hashes ")


def by_main(fault: bool) -> Any:
    def work() -> list[int]:
        assert ranks.rank() == 0 and ranks.world() == 1
        if fault:
            raise InputError("no such thing")
        return [1, 2]

    return ranks.by_main(work)


def test_the_first_rank_works_alone_and_all_learn_what_came_of_it() -> None:
    assert in_ranks(by_main, False) == [[1, 2], [1, 2]]
    first, second = in_ranks(by_main, True)
    assert type(first) is InputError and type(second) is ranks.ToldError
    assert str(first) == str(second) == "no such thing"


def one_stops(at: str) -> None:
    if ranks.rank() == 0:
        raise ValueError("a fault of our own")
    if at == "exchange":
        ranks.mean([torch.ones(3)])
    ranks.by_main(lambda: 0)


@pytest.mark.parametrize("at", ["exchange", "wait"])
def test_a_rank_that_is_gone_does_not_leave_the_others_waiting(at: str) -> None:
    first, second = in_ranks(one_stops, at, seconds=60)
    assert isinstance(first, ValueError)
    assert isinstance(second, ranks.RanksError) and "another process of this search has stopped" in str(second)


def unequal() -> None:
    ranks.check_shares("search.batch_size", (5, 11))


def test_batches_that_cannot_be_shared_equally_are_refused() -> None:
    ranks.check_shares("search.batch_size", (5, 11))
    for outcome in in_ranks(unequal):
        assert isinstance(outcome, InputError) and "a batch of 16 images with 5 labelled" in str(outcome)
        assert "search.batch_size" in str(outcome)
