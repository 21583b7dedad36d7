"""The costs of a device class: those of any device, and its seconds and joules."""

from collections.abc import Callable

from kdnas.cost.base import FLASH, MACS, PARAMS, SRAM, Cost
from kdnas.device import DeviceClass
from kdnas.ops import Step

COSTS = ("params", "macs", "flash_bytes", "latency_s", "energy_j", "sram_bytes")
"""Every cost by name, in the order in which they are told."""


def costs_of(device: DeviceClass) -> list[Cost]:
    """Every cost of a network on ``device``; ``energy_j`` where its file has the table ``[energy]``."""
    energy = [energy_cost(device)] if device.energy else []
    return [PARAMS, MACS, FLASH, latency_cost(device.latency_s), *energy, SRAM]


def latency_cost(seconds: Callable[[float, float, float], float]) -> Cost:
    """Seconds of computing by a roofline: (MACs, bytes moved, operations dispatched) of a step to seconds."""
    return Cost("latency_s", lambda step: seconds(step.macs, step.moved_bytes, step.ops) if step.ops else 0.0)


def energy_cost(device: DeviceClass) -> Cost:
    """Joules of computing, and of sending the symbols that a step sends."""

    def joules(step: Step) -> float:
        spent = device.spent(step.macs, step.symbols)
        return spent.energy_j if spent else 0.0

    return Cost("energy_j", joules)
