"""The costs of a device class: those of any device, and its seconds and joules."""

from collections.abc import Callable

from kdnas.cost.base import FLASH, MACS, PARAMS, SRAM, Cost
from kdnas.cost.latency import load_table
from kdnas.device import DeviceClass
from kdnas.errors import InputError
from kdnas.ops import Step


def costs_of(device: DeviceClass) -> list[Cost]:
    """Every cost of a network on ``device``; ``energy_j`` where its file has the table ``[energy]``.

    Raises:
        InputError: As in ``latency_of``.
    """
    energy = [energy_cost(device)] if device.energy else []
    return [PARAMS, MACS, FLASH, latency_of(device), *energy, SRAM]


def latency_of(device: DeviceClass) -> Cost:
    """Seconds of computing: by the device's table where it has one, else by its roofline.

    Raises:
        InputError: The table is faulty (at once), or lacks an operation (when that is costed), unless the device says
            ``latency_missing = "roofline"``.
    """
    roofline = latency_cost(device.latency_s)
    if device.latency_table is None:
        return roofline
    table = load_table(device.latency_table)

    def seconds(step: Step) -> float:
        if not step.ops:
            return 0.0
        if step.op in table:
            return table[step.op]
        if device.latency_missing == "roofline":
            return roofline.of(step)
        told = " ".join(f"{key}={value}" for key, value in step.op._asdict().items()) if step.op else "it"
        raise InputError(
            f"{device.latency_table} has no latency for {step.name} ({told}): measure it (`kdnas device measure`), "
            "or set latency_missing = 'roofline' in the device's file"
        )

    return Cost("latency_s", seconds)


def latency_cost(seconds: Callable[[float, float, float], float]) -> Cost:
    """Seconds of computing by a roofline: (MACs, bytes moved, operations dispatched) of a step to seconds."""
    return Cost("latency_s", lambda step: seconds(step.macs, step.moved_bytes, step.ops) if step.ops else 0.0)


def energy_cost(device: DeviceClass) -> Cost:
    """Joules of computing, and of sending the symbols that a step sends."""

    def joules(step: Step) -> float:
        spent = device.spent(step.macs, step.symbols)
        return spent.energy_j if spent else 0.0

    return Cost("energy_j", joules)
