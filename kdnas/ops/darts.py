"""The cells of DARTS in plain torch (arXiv 1806.09055, section 3.1 and appendix A), and what they cost.

The source of the classes is copied as it stands into exported files: nothing in them may use anything but torch.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.ops.blocks import ConvBN
from kdnas.ops.steps import Step, conv_step, pool_step

OPERATIONS = [
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
]  # fmt: skip
# Edge "i_j" leads from state i to state j: 0 and 1 are the cell's inputs, 2 to 5 its nodes.
EDGES = [f"{source}_{node}" for node in (2, 3, 4, 5) for source in range(node)]
# The operation with the most steps is a separable convolution: its ReLU, and twice depthwise and pointwise.
OPERATION_STEPS = 5


class FactorizedReduce(nn.Module):
    """Halves a map without losing half of it: ReLU, two 1x1 convolutions of stride 2 a pixel apart, batch norm.

    Args:
        inputs: Input channels.
        outputs: Output channels; the first convolution makes the larger half of them.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        halves = [outputs - outputs // 2, outputs // 2] if outputs > 1 else [1]
        self.convs = nn.ModuleList(nn.Conv2d(inputs, half, 1, 2, bias=False) for half in halves)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / 2), ceil(W / 2))."""
        x = torch.relu(x)
        # Padded below and to the right, so that odd sizes are halved alike; even ones never read the padding.
        views = (x, F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:])
        return self.bn(torch.cat([conv(view) for conv, view in zip(self.convs, views, strict=False)], 1))


class DartsOperation(nn.Module):
    """What an edge of a cell does; a convolution has its ReLU first and its batch norm last.

    Args:
        kind: ``skip_connect``, ``max_pool_3x3``, ``avg_pool_3x3``, ``sep_conv_KxK`` or ``dil_conv_KxK``.
        channels: Of input and output.
        stride: 1 or 2.
    """

    def __init__(self, kind: str, channels: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if kind == "skip_connect" and stride > 1:
            layers = [FactorizedReduce(channels, channels)]
        elif kind == "max_pool_3x3":
            layers = [nn.MaxPool2d(3, stride, 1)]
        elif kind == "avg_pool_3x3":
            layers = [nn.AvgPool2d(3, stride, 1, count_include_pad=False)]
        elif "conv" in kind:
            layers = [nn.ReLU()]
            kernel, dilation = int(kind[-1]), 2 if kind.startswith("dil") else 1
            padding = kernel // 2 * dilation
            strides = [stride, 1] if kind.startswith("sep") else [stride]
            for turn, step in enumerate(strides, 1):
                depthwise = nn.Conv2d(channels, channels, kernel, step, padding, dilation, channels, bias=False)
                # The ReLU between the two turns of a separable convolution is the first turn's last.
                layers += [depthwise, ConvBN(channels, channels, 1, relu=turn < len(strides))]
        self.layers = nn.Sequential(*layers)
        self.kind, self.channels, self.stride = kind, channels, stride

    def extra_repr(self) -> str:
        """What it is, for pictures."""
        return self.kind

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        return self.layers(x)


class DartsCell(nn.Module):
    """Two inputs, four nodes that sum what their edges bring, and the nodes side by side as the output.

    Args:
        before: Channels of the output of the cell before the previous one.
        inputs: Channels of the output of the previous cell.
        channels: Of each state in this cell; the output has four times as many.
        reduction: Halve the map: edges from the two inputs have stride 2.
        shrink: The first input's map is twice as large as the second's.
        edges: Edge name ("0_2": from state 0 to state 2) to its operation; those not there bring nothing.
    """

    def __init__(
        self, before: int, inputs: int, channels: int, reduction: bool, shrink: bool, edges: nn.ModuleDict
    ) -> None:
        super().__init__()
        pointwise = nn.Sequential(nn.ReLU(), ConvBN(before, channels, 1, relu=False))
        self.first = FactorizedReduce(before, channels) if shrink else pointwise
        self.second = nn.Sequential(nn.ReLU(), ConvBN(inputs, channels, 1, relu=False))
        self.stride = 2 if reduction else 1
        self.edges = edges

    def forward(self, before: Tensor, x: Tensor) -> Tensor:
        """(B, before, H', W'), (B, inputs, H, W) to (B, 4 channels, ceil(H / stride), ceil(W / stride))."""
        states = [self.first(before), self.second(x)]
        for node in (2, 3, 4, 5):
            sources = [source for source in range(node) if f"{source}_{node}" in self.edges]
            parts = [self.edges[f"{source}_{node}"](states[source]) for source in sources]
            nothing = torch.zeros_like(states[1][:, :, :: self.stride, :: self.stride])
            states.append(sum(parts[1:], parts[0]) if parts else nothing)
        return torch.cat(states[2:], 1)


def reduce_step(name: str, inputs: int, outputs: int, size: int, *, held_bytes: int = 0) -> Step:
    """The two convolutions of a ``FactorizedReduce`` on a map of side ``size``, after its ReLU; both read it in place.

    ``held_bytes`` is alive beside what they read and write.
    """
    both = conv_step(name, inputs, outputs, 1, size, stride=2, held_bytes=held_bytes)
    assert both.op is not None
    return replace(both, ops=min(2, outputs), op=both.op._replace(kind="reduce"))


def operation_steps(name: str, kind: str, channels: int, size: int, stride: int, *, held_bytes: int) -> list[Step]:
    """The ``OPERATION_STEPS`` steps of an edge's operation on a square map of side ``size``.

    The ReLU that an operation begins with is a step with an output of its own: other edges read the same state
    without it.

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
    beside = held_bytes - channels * size * size  # the input is held anyway: count it once
    relu = pool_step(f"{name}.relu", channels, size, size, kind="relu", held_bytes=beside)
    if kind == "skip_connect" and stride > 1:
        steps = [relu, reduce_step(f"{name}.reduce", channels, channels, size, held_bytes=held_bytes)]
    elif "pool" in kind:
        steps = [pool_step(f"{name}.pool", channels, size, out, kind=kind, held_bytes=beside)]
    elif "conv" in kind:
        steps = [relu]
        sides = [(size, stride), (out, 1)] if kind.startswith("sep") else [(size, stride)]
        for turn, (side, step) in enumerate(sides):
            depthwise = conv_step(
                f"{name}.depthwise{turn}", channels, channels, int(kind[-1]), side, stride=step, groups=channels,
                dilation=2 if kind.startswith("dil") else 1, held_bytes=held_bytes,
            )  # fmt: skip
            steps.append(replace(depthwise, params=depthwise.weights))  # no batch norm of its own
            steps.append(conv_step(f"{name}.pointwise{turn}", channels, channels, 1, out, held_bytes=held_bytes))
    return steps + [Step(f"{name}.unused{i}", ops=0) for i in range(OPERATION_STEPS - len(steps))]
