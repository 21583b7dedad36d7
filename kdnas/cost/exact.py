"""Exact costs of a list of steps."""

from collections.abc import Sequence
from typing import Any

from kdnas.cost.base import ON_ANY, SRAM, Cost
from kdnas.ops import Step


def exact_costs(steps: Sequence[Step], costs: Sequence[Cost] = ON_ANY) -> dict[str, float]:
    """The costs of a network that runs ``steps`` one after another.

    Args:
        steps: Of one network, or of several that run in turn (encoder, then channel encoder).
        costs: Which ones (``costs_of`` a device class); what a network costs on any device, unless given.

    Returns:
        By name: ``params`` and ``macs`` as counts, ``flash_bytes`` at int8, ``sram_bytes`` as the peak of int8
        activations, ``latency_s`` in seconds, ``energy_j`` in joules.
    """
    return {cost.name: (max if cost.peak else sum)(cost.of(step) for step in steps) for cost in costs}


def layer_table(steps: Sequence[Step], costs: Sequence[Cost] = ON_ANY) -> list[dict[str, Any]]:
    """One row per step that runs: its name, its own costs, and whether it holds the peak of activation memory."""
    peak = max(SRAM.of(step) for step in steps)
    return [
        {"name": step.name, **exact_costs([step], costs), "peak": SRAM.of(step) == peak}
        for step in steps
        if step.ops or step.symbols
    ]
