"""The cells of NAS-Bench-201 in plain torch (arXiv 2001.00326, figure 1 and section 2.1), and what they cost.

The source of the classes is copied as it stands into exported files: nothing in them may use anything but torch.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from kdnas.ops.blocks import ConvBN
from kdnas.ops.steps import Op, Step, conv_step, pool_step

OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
# Edge "i_j" leads from node i to node j: 0 is the cell's input, 3 its output. In the order of the published string.
EDGES = [f"{source}_{node}" for node in (1, 2, 3) for source in range(node)]
# The operation with the most steps is a convolution: the ReLU before it, and itself.
OPERATION_STEPS = 2


class BenchOperation(nn.Module):
    """What an edge of a cell does; a convolution has its ReLU first and its batch norm last.

    Args:
        kind: ``skip_connect``, ``nor_conv_1x1``, ``nor_conv_3x3`` or ``avg_pool_3x3``.
        channels: Of input and output.
        stride: 1: cells of this space keep the size of their map.
    """

    def __init__(self, kind: str, channels: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if "conv" in kind:
            layers = [nn.ReLU(), ConvBN(channels, channels, int(kind[-1]), stride, relu=False)]
        elif "pool" in kind:
            layers = [nn.AvgPool2d(3, stride, 1, count_include_pad=False)]
        self.layers = nn.Sequential(*layers)
        self.kind, self.channels, self.stride = kind, channels, stride

    def extra_repr(self) -> str:
        """What it is, for pictures."""
        return self.kind

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        return self.layers(x)


class BenchCell(nn.Module):
    """Four nodes, each the sum of what the edges from all earlier ones bring; the last is the output.

    Args:
        edges: Edge name ("0_1": from node 0 to node 1) to its operation; those not there bring nothing.
    """

    def __init__(self, edges: nn.ModuleDict) -> None:
        super().__init__()
        self.edges = edges

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        nodes = [x]
        for node in (1, 2, 3):
            sources = [source for source in range(node) if f"{source}_{node}" in self.edges]
            parts = [self.edges[f"{source}_{node}"](nodes[source]) for source in sources]
            nodes.append(sum(parts[1:], parts[0]) if parts else torch.zeros_like(x))
        return nodes[3]


class BenchReduction(nn.Module):
    """The residual block between two stages: twice ReLU, convolution 3x3 and batch norm, the first with stride 2.

    Args:
        inputs: Input channels.
        outputs: Output channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        pool = nn.AvgPool2d(2, ceil_mode=True)
        self.shortcut = nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False))
        self.first = ConvBN(inputs, outputs, 3, 2)  # ends with the second convolution's ReLU
        self.second = ConvBN(outputs, outputs, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / 2), ceil(W / 2))."""
        return self.shortcut(x) + self.second(self.first(torch.relu(x)))


def inplace_step(name: str, channels: int, size: int, *, params: int = 0, held_bytes: int = 0) -> Step:
    """Something done to each value of a map where it lies; ``held_bytes`` is alive beside the map."""
    area = channels * size * size
    op = Op("relu", channels, channels, size=size)
    return Step(name, params=params, held_bytes=area + held_bytes, moved_bytes=2 * area, op=op)


def operation_steps(name: str, kind: str, channels: int, size: int, *, held_bytes: int) -> list[Step]:
    """The ``OPERATION_STEPS`` steps of an edge's operation on a square map of side ``size``.

    A convolution's ReLU is a step with an output of its own: other edges read the same node without it.

    Args:
        name: Of the edge.
        kind: One of ``OPERATIONS``.
        channels: Of input and output.
        size: Side of the map.
        held_bytes: Alive all the while, the operation's input among it.
    """
    steps: list[Step] = []
    beside = held_bytes - channels * size * size  # the input is held anyway: count it once
    if "conv" in kind:
        steps = [
            pool_step(f"{name}.relu", channels, size, size, kind="relu", held_bytes=beside),
            conv_step(f"{name}.conv", channels, channels, int(kind[-1]), size, held_bytes=held_bytes),
        ]
    elif "pool" in kind:
        steps = [pool_step(f"{name}.pool", channels, size, size, kind=kind, held_bytes=beside)]
    return steps + [Step(f"{name}.unused{i}", ops=0) for i in range(OPERATION_STEPS - len(steps))]


def reduction_steps(name: str, inputs: int, outputs: int, size: int) -> list[Step]:
    """The steps of a ``BenchReduction`` on a square map of side ``size``, its shortcut first.

    The input is held until the shortcut is done, then the shortcut until the sum; the ReLU of the input is made in
    place, for nothing reads the input after it.
    """
    out = -(-size // 2)
    before, after = inputs * size * size, outputs * out * out  # bytes
    shortcut = conv_step(f"{name}.shortcut", inputs, outputs, 1, out, held_bytes=before)
    return [
        pool_step(f"{name}.pool", inputs, size, out),
        replace(shortcut, params=shortcut.weights),  # no batch norm of its own
        inplace_step(f"{name}.relu", inputs, size, held_bytes=after),
        conv_step(f"{name}.first", inputs, outputs, 3, size, stride=2, held_bytes=after),
        conv_step(f"{name}.second", outputs, outputs, 3, out, held_bytes=after),
    ]
