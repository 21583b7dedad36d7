"""Cells in plain torch, as DARTS has them (arXiv 1806.09055), and what their operations cost.

Unlike there, an operation applies its ReLU last, where an int8 runtime fuses it into the convolution, and
poolings have no batch norm of their own. The source of the classes is copied as it stands into exported
files: nothing in them may use anything but torch.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from kdnas.ops.blocks import ConvBN
from kdnas.ops.steps import Step, conv_step, pool_step

OPERATIONS = [
    "none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
]  # fmt: skip
# Edge "i_j" leads from state i to state j: 0 and 1 are the cell's inputs, 2 to 4 its nodes.
EDGES = [f"{source}_{node}" for node in (2, 3, 4) for source in range(node)]
# The operation with the most steps is a separable convolution: twice depthwise and pointwise.
OPERATION_STEPS = 4


class CellOperation(nn.Module):
    """What an edge of a cell does.

    Args:
        kind: ``skip_connect``, ``max_pool_3x3``, ``avg_pool_3x3``, ``sep_conv_KxK`` or ``dil_conv_KxK``.
        channels: Of input and output.
        stride: 1 or 2.
    """

    def __init__(self, kind: str, channels: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if kind == "skip_connect" and stride > 1:
            layers = [nn.AvgPool2d(stride, ceil_mode=True), ConvBN(channels, channels, 1)]
        elif kind == "max_pool_3x3":
            layers = [nn.MaxPool2d(3, stride, 1)]
        elif kind == "avg_pool_3x3":
            layers = [nn.AvgPool2d(3, stride, 1, count_include_pad=False)]
        elif "conv" in kind:
            kernel, dilation = int(kind[-1]), 2 if kind.startswith("dil") else 1
            padding = kernel // 2 * dilation
            for step in [stride, 1] if kind.startswith("sep") else [stride]:
                depthwise = nn.Conv2d(channels, channels, kernel, step, padding, dilation, channels, bias=False)
                layers += [depthwise, ConvBN(channels, channels, 1)]
        self.layers = nn.Sequential(*layers)
        self.kind, self.channels, self.stride = kind, channels, stride

    def extra_repr(self) -> str:
        """What it is, for pictures."""
        return self.kind

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        return self.layers(x)


class ZeroOperation(nn.Module):
    """The operation ``none`` of a search space: an edge that is not there. Found networks leave it out.

    Args:
        stride: 1 or 2.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to zeros of (B, channels, ceil(H / stride), ceil(W / stride))."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Cell(nn.Module):
    """Two inputs, three nodes that sum what their edges bring, and the nodes side by side as the output.

    Args:
        before: Channels of the output of the cell before the previous one.
        inputs: Channels of the output of the previous cell.
        channels: Of each state in this cell; the output has three times as many.
        reduction: Halve the map: edges from the two inputs have stride 2.
        shrink: The first input's map is twice as large as the second's.
        edges: Edge name ("0_2": from state 0 to state 2) to its operation; those not there bring nothing.
    """

    def __init__(
        self, before: int, inputs: int, channels: int, reduction: bool, shrink: bool, edges: nn.ModuleDict
    ) -> None:
        super().__init__()
        self.shrink = nn.AvgPool2d(2, ceil_mode=True) if shrink else nn.Identity()
        self.first = ConvBN(before, channels, 1)
        self.second = ConvBN(inputs, channels, 1)
        self.stride = 2 if reduction else 1
        self.edges = edges

    def forward(self, before: Tensor, x: Tensor) -> Tensor:
        """(B, before, H', W'), (B, inputs, H, W) to (B, 3 channels, ceil(H / stride), ceil(W / stride))."""
        states = [self.first(self.shrink(before)), self.second(x)]
        for node in (2, 3, 4):
            names = [f"{source}_{node}" for source in range(node)]
            parts = [self.edges[name](states[int(name[0])]) for name in names if name in self.edges]
            if parts:
                states.append(sum(parts[1:], parts[0]))
            else:
                states.append(torch.zeros_like(states[1][:, :, :: self.stride, :: self.stride]))
        return torch.cat(states[2:], 1)


def operation_steps(name: str, kind: str, channels: int, size: int, stride: int, *, held_bytes: int) -> list[Step]:
    """The ``OPERATION_STEPS`` steps of an edge's operation on a square map of side ``size``.

    Args:
        name: Of the edge.
        kind: One of ``OPERATIONS``.
        channels: Of input and output.
        size: Side of the input map.
        stride: 1 or 2.
        held_bytes: Alive all the while, the operation's input among it.
    """
    steps: list[Step] = []
    out = -(-size // stride)
    entry = channels * size * size  # the input is held anyway: count it once
    if kind == "skip_connect" and stride > 1:
        steps = [
            pool_step(f"{name}.pool", channels, size, out, held_bytes=held_bytes - entry),
            conv_step(f"{name}.pointwise", channels, channels, 1, out, held_bytes=held_bytes),
        ]
    elif "pool" in kind:
        steps = [pool_step(f"{name}.pool", channels, size, out, kind=kind, held_bytes=held_bytes - entry)]
    elif "conv" in kind:
        sides = [(size, stride), (out, 1)] if kind.startswith("sep") else [(size, stride)]
        for turn, (side, step) in enumerate(sides):
            depthwise = conv_step(
                f"{name}.depthwise{turn}", channels, channels, int(kind[-1]), side, stride=step,
                groups=channels, dilation=2 if kind.startswith("dil") else 1,
                held_bytes=held_bytes - (0 if turn else entry),
            )  # fmt: skip
            steps.append(replace(depthwise, params=depthwise.weights))  # no batch norm of its own
            steps.append(conv_step(f"{name}.pointwise{turn}", channels, channels, 1, out, held_bytes=held_bytes))
    return steps + [Step(f"{name}.unused{i}", ops=0) for i in range(OPERATION_STEPS - len(steps))]
