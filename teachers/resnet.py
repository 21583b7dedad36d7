"""A small residual network for small images, trained from scratch: a teacher without shipped weights."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kdnas.run.seeds import generator


class Residual(nn.Module):
    """The basic block (arXiv 1512.03385, fig. 5 left), with a 1x1 convolution where the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                norm1=nn.BatchNorm2d(outputs),
                act=nn.ReLU(),
                conv2=nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
                norm2=nn.BatchNorm2d(outputs),
            )
        )
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.short = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm=nn.BatchNorm2d(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        return torch.relu(self.body(x) + self.short(x))


class ResNet(nn.Module):
    """A CIFAR-style ResNet (arXiv 1512.03385, section 4.2): a 3x3 stem without pooling and three stages.

    Attributes: as ``kdnas.knowledge.Backbone`` asks.

    Args:
        widths: Channels of the three stages.
        depth: Blocks in a stage.
        seed: Of the initial weights (He et al., arXiv 1502.01852).
    """

    name = "resnet"
    channels = 3
    mean = (0.5,) * 3
    std = (0.25,) * 3
    pretrained = False
    frozen = 0

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128), depth: int = 2, seed: int = 0) -> None:
        super().__init__()
        stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
                norm=nn.BatchNorm2d(widths[0]),
                act=nn.ReLU(),
            )
        )
        blocks = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(depth):
                blocks.append(Residual(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.feature_dim = inputs
        self.layers = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        draws = generator("resnet", seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=draws)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, F)."""
        return self.layers(x)


def resnet() -> ResNet:
    """The small ResNet with random weights: 0.7 million parameters; fine-tuning makes a teacher of it."""
    return ResNet()
