"""Exact costs of a list of steps."""

from collections.abc import Callable, Sequence
from typing import Any

from kdnas.ops import Step

COSTS = ("params", "macs", "flash_bytes", "latency_s", "sram_bytes")
"""Every cost by name; all but the last are sums over steps, the last is a maximum."""

SUMS = COSTS[:-1]

Roofline = Callable[[float, float, float], float]
"""(MACs, bytes moved, operations dispatched) of one step to seconds."""


def sums_of(step: Step, roofline: Roofline | None) -> tuple[float, ...]:
    """The additive costs of one step, in the order of ``SUMS``.

    Flash holds one byte per int8 weight and, for each output channel, an int32 bias and a float32 scale.
    """
    latency = roofline(step.macs, step.moved_bytes, step.ops) if roofline and step.ops else 0.0
    return step.params, step.macs, step.weights + 8 * step.channels, latency


def exact_costs(steps: Sequence[Step], roofline: Roofline | None = None) -> dict[str, float]:
    """The costs of a network that runs ``steps`` one after another.

    Args:
        steps: Of one network, or of several that run in turn (encoder, then channel encoder).
        roofline: Seconds of one step on the device; without it ``latency_s`` is left out.

    Returns:
        ``params`` and ``macs`` as counts, ``flash_bytes`` at int8, ``sram_bytes`` as the peak of int8 activations, and
        ``latency_s`` in seconds.
    """
    totals = [sum(column) for column in zip(*(sums_of(step, roofline) for step in steps), strict=True)]
    costs: dict[str, float] = dict(zip(SUMS, totals, strict=True))
    costs["sram_bytes"] = max(step.held_bytes for step in steps)
    if roofline is None:
        del costs["latency_s"]
    return costs


def layer_table(steps: Sequence[Step], roofline: Roofline | None = None) -> list[dict[str, Any]]:
    """One row per step that runs: its name, its own costs, and whether it holds the peak of activation memory."""
    peak = max(step.held_bytes for step in steps)
    rows = []
    for step in steps:
        if step.ops:
            row = {"name": step.name, **exact_costs([step], roofline)}
            rows.append({**row, "peak": step.held_bytes == peak})
    return rows
