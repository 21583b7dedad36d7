"""What an operation costs, written down as integers: the ground of every exact and every expected cost.

A network runs as a list of steps, one after another. Each step knows its parameters, its multiply-accumulates, the
bytes of int8 activations that must be held while it runs, and the bytes it moves. Batch normalisation is folded into
the convolution before it and ReLU is free, as on every int8 runtime; a residual sum is made in place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Op(NamedTuple):
    """What an operation is to a table of latencies: two of the same numbers take the same time.

    Attributes:
        kind: ``conv`` (batch norm and ReLU in it), ``linear``, ``attention`` (both products and the softmax),
            ``relu`` (by itself), ``pool`` or another word for what it does.
        inputs: Input channels.
        outputs: Output channels.
        kernel: Side of the kernel.
        stride: Of a convolution; of a pooling, input side over output side, rounded up.
        groups: Of the convolution; heads of an attention.
        dilation: Of the convolution.
        size: Side of the input map; vectors that a linear layer is applied to; tokens.
    """

    kind: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    size: int = 1


@dataclass(frozen=True)
class Step:
    """One operation as a device runs it.

    Attributes:
        name: Where it stands in the network.
        params: Trainable parameters (convolution or linear weights, biases, and the scale and shift of a norm).
        macs: Multiply-accumulates for one image.
        weights: Weights stored as int8, one byte each.
        channels: Output channels; each stores an int32 bias and a float32 scale beside the weights.
        held_bytes: Activation bytes (int8) alive while the step runs: inputs, outputs, and any held shortcut.
        moved_bytes: Bytes read and written: inputs, weights, outputs.
        ops: Operations dispatched (0 for a step that a choice leaves out, or that the radio does).
        symbols: Complex symbols sent.
        op: What it is to a table of latencies; None for a step that is in no such table.
    """

    name: str
    params: int = 0
    macs: int = 0
    weights: int = 0
    channels: int = 0
    held_bytes: int = 0
    moved_bytes: int = 0
    ops: int = 1
    symbols: int = 0
    op: Op | None = None


@dataclass(frozen=True)
class Unit:
    """A part of a search space whose cost depends on a few choices alone.

    Attributes:
        name: Of the part.
        labels: The choices it depends on.
        steps: From the values of those choices to the steps; their number must not depend on the values.
    """

    name: str
    labels: tuple[str, ...]
    steps: Callable[[Mapping[str, Any]], Sequence[Step]]


def conv_step(
    name: str,
    inputs: int,
    outputs: int,
    kernel: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    held_bytes: int = 0,
) -> Step:
    """A convolution with folded batch norm on a square map of side ``size``; ``held_bytes`` is alive beside it."""
    out = -(-size // stride)
    weights = outputs * (inputs // groups) * kernel * kernel
    read, written = inputs * size * size, outputs * out * out
    return Step(
        name=name,
        params=weights + 2 * outputs,
        macs=weights * out * out,
        weights=weights,
        channels=outputs,
        held_bytes=read + written + held_bytes,
        moved_bytes=read + written + weights,
        op=Op("conv", inputs, outputs, kernel, stride, groups, dilation, size),
    )


def linear_step(name: str, inputs: int, outputs: int, *, rows: int = 1, bias: bool = True, held_bytes: int = 0) -> Step:
    """A linear layer applied to ``rows`` vectors; ``held_bytes`` is alive beside its input and output."""
    weights = inputs * outputs
    read, written = rows * inputs, rows * outputs
    return Step(
        name=name,
        params=weights + (outputs if bias else 0),
        macs=rows * weights,
        weights=weights,
        channels=outputs,
        held_bytes=read + written + held_bytes,
        moved_bytes=read + written + weights,
        op=Op("linear", inputs, outputs, size=rows),
    )


def pool_step(name: str, channels: int, size: int, out: int, *, kind: str = "pool", held_bytes: int = 0) -> Step:
    """A pooling from side ``size`` to side ``out``: no parameters and no multiply-accumulates."""
    read, written = channels * size * size, channels * out * out
    return Step(
        name=name,
        held_bytes=read + written + held_bytes,
        moved_bytes=read + written,
        op=Op(kind, channels, channels, stride=-(-size // out), size=size),
    )
