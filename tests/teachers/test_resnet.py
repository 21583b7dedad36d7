import torch

from kdnas.knowledge.teacher import folded
from teachers.resnet import ResNet, resnet


def test_shapes_and_size():
    net = resnet()
    assert net(torch.zeros(2, 3, 29, 31)).shape == (2, net.feature_dim)
    assert 0.5e6 < sum(p.numel() for p in net.parameters()) < 1e6


def test_the_seed_alone_sets_the_weights():
    torch.manual_seed(1)
    first = ResNet(seed=3).state_dict()
    torch.manual_seed(2)
    again, other = ResNet(seed=3).state_dict(), ResNet(seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["layers.0.conv.weight"], other["layers.0.conv.weight"])


def test_folding_keeps_the_function_and_leaves_no_batch_norm():
    net = ResNet(widths=(4, 6, 8), depth=1).double()
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(3):  # moves the running statistics
        net(x)
    net.eval()
    fast = folded(net.layers)
    assert torch.allclose(fast(x), net(x), atol=1e-12)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
