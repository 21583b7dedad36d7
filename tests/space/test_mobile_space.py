"""The entangled chain: what its relaxed form mixes, for every option."""

import pytest
import torch
from supernets import Supernet

from kdnas.space import make_space
from search_spaces.mobile import RelaxedBlock


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 2.0])
def test_every_width_gives_a_space(width: float) -> None:
    space = make_space("mobile", width=width)
    for label, values in space.domains().items():
        assert len(set(values)) == len(values)
        if label.endswith("/width"):
            assert values == sorted(values) and all(value % 4 == 0 and value > 0 for value in values)
    choices = space.random(torch.Generator().manual_seed(0))
    assert space.network(choices)(torch.rand(1, 1, 28, 28)).shape == (1, 64)


@pytest.mark.parametrize("depth", [1, 3])
def test_all_but_the_first_block_of_a_stage_can_be_skipped(depth: int) -> None:
    space = make_space("mobile", depth=depth)
    keeps = [label for label in space.domains() if label.endswith("/keep")]
    assert len(keeps) == 3 * (depth - 1)
    choices = space.random(torch.Generator().manual_seed(0)) | dict.fromkeys(keeps, False)
    assert sum(block is not None for block in space.network(choices).config["blocks"]) == 3


def test_a_relaxed_kernel_is_the_mean_of_its_centres(float64: None) -> None:
    """With every other choice one-hot, the mixture of kernels is the depthwise convolution with the mean kernel."""
    net = Supernet("mobile", depth=1)
    choices = net.space.random(torch.Generator().manual_seed(0))
    net.choose(choices)
    label = "stage1block0/kernel"
    with torch.no_grad():
        net.alphas[label].copy_(torch.tensor([0.2, -0.3, 0.5]))
    p = net.probabilities()[label].detach()
    block = next(m for m in net.space.modules() if isinstance(m, RelaxedBlock) and label in m.labels.values())
    weight = block.full.depthwise.conv.weight.detach().clone()
    mean = torch.zeros_like(weight)
    for share, kernel in zip(p, (3, 5, 7), strict=True):
        trim = (7 - kernel) // 2
        mean[:, :, trim : 7 - trim, trim : 7 - trim] += share * weight[:, :, trim : 7 - trim, trim : 7 - trim]
    images = torch.rand(3, 1, 28, 28)
    net.space.eval()
    with torch.no_grad():
        mixed = net.space(images)
        net.choose(choices | {label: 7})
        block.full.depthwise.conv.weight.copy_(mean)
        torch.testing.assert_close(net.space(images), mixed, rtol=1e-12, atol=1e-12)


def test_a_half_kept_block_adds_half(float64: None) -> None:
    net = Supernet("mobile")
    choices = net.space.random(torch.Generator().manual_seed(0)) | {"stage0block1/keep": True}
    net.choose(choices)
    block = next(m for m in net.space.modules() if isinstance(m, RelaxedBlock) and "stage0block1/keep" in m.alpha)
    x = torch.rand(2, 16, 7, 7)
    block.eval()
    with torch.no_grad():
        whole = block(x) - x
        net.alphas["stage0block1/keep"].zero_()
        half = block(x) - x
    assert whole.abs().max() > 0
    torch.testing.assert_close(half, whole / 2)
