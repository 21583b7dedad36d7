"""Building blocks in plain torch: their source is copied as it stands into every exported ``encoder.py``.

Nothing here may use anything but torch. Constructor arguments are plain numbers, so that a network can be written
down as a call.
"""

import torch
from torch import Tensor, nn


class ConvBN(nn.Module):
    """Convolution, batch normalisation and (by default) ReLU; 'same' padding at stride 1.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Odd side length of the kernel.
        stride: Stride.
        groups: Groups of the convolution (``inputs`` for a depthwise one).
        relu: End with a ReLU.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        c = self.conv
        return f"{c.kernel_size[0]}x{c.kernel_size[0]}, {c.in_channels} to {c.out_channels}, stride {c.stride[0]}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        x = self.bn(self.conv(x))
        return torch.relu(x) if self.relu else x


class InvertedResidual(nn.Module):
    """The block of MobileNetV2 (arXiv 1801.04381): expand 1x1, depthwise, project 1x1, and a shortcut where asked.

    Args:
        inputs: Input channels.
        hidden: Channels between expansion and projection.
        outputs: Output channels.
        kernel: Odd side length of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        residual: Add the input to the output (needs equal shapes).
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        self.expand = ConvBN(inputs, hidden, 1)
        self.depthwise = ConvBN(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvBN(hidden, outputs, 1, relu=False)
        self.residual = residual

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        c = self.depthwise.conv
        shortcut = ", shortcut" if self.residual else ""
        return f"{c.kernel_size[0]}x{c.kernel_size[0]}, hidden {c.out_channels}, stride {c.stride[0]}{shortcut}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y
