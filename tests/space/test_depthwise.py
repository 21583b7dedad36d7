"""Depthwise convolutions with fast gradients: the values and all derivatives of torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnas.space.depthwise import DepthwiseConv2d, depthwise_conv2d, speed_up

# (kernel, stride, padding, dilation, side): those with ways of their own, and those without
SHAPES = [
    (3, 1, 1, 1, 8), (5, 2, 2, 1, 9), (7, 1, 3, 1, 8), (7, 1, 3, 1, 4), (7, 2, 3, 1, 9), (7, 2, 3, 1, 10),
    (7, 1, 2, 1, 9), (3, 1, 2, 2, 7), (3, 2, 2, 2, 7), (3, 2, 2, 2, 8), (5, 1, 4, 2, 9), (5, 2, 4, 2, 9),
    (5, 3, 4, 2, 11), (3, 2, 3, 2, 9), (7, 1, 3, 1, 18),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], needs: tuple[bool, bool], memory_format: torch.memory_format, float64: None
) -> None:
    kernel, stride, padding, dilation, side = shape
    torch.manual_seed(0)
    x = torch.randn(3, 4, side, side).to(memory_format=memory_format).requires_grad_(needs[0])
    weight = torch.randn(4, 1, kernel, kernel, requires_grad=needs[1])
    got = depthwise_conv2d(x, weight, stride, padding, dilation)
    expected = F.conv2d(x, weight, None, stride, padding, dilation, 4)
    if memory_format == torch.contiguous_format:
        assert torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)
    target, inputs = torch.randn_like(got), [t for t in (x, weight) if t.requires_grad]
    found, wanted = (torch.autograd.grad((y * target).sum(), inputs) for y in (got, expected))
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 1, 3, 1, 5), (7, 2, 3, 1, 6), (3, 1, 2, 2, 5), (3, 2, 2, 2, 5)])
def test_second_derivatives_match_finite_differences(shape: tuple[int, ...], float64: None) -> None:
    kernel, stride, padding, dilation, side = shape
    torch.manual_seed(0)
    x, weight = torch.randn(2, 2, side, side, requires_grad=True), torch.randn(2, 1, kernel, kernel, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, b: depthwise_conv2d(a, b, stride, padding, dilation), (x, weight))


def test_only_depthwise_convolutions_change_and_weights_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.Conv2d(8, 8, (3, 5), groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", groups=8, bias=False),
    )
    before = network.state_dict(keep_vars=True)
    x = torch.rand(2, 4, 16, 16)
    expected = network(x)
    speed_up(network)
    assert [type(layer) is DepthwiseConv2d for layer in network] == [True] + [False] * 6
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert torch.equal(network(x), expected)
