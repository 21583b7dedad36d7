"""What a cost is: a number for each step, and how the steps of a network make one of it.

A cost of one's own is a ``Cost`` too: ``kdnas.testing.check_cost`` tells whether it keeps what the search relies on.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kdnas.ops import Step


@dataclass(frozen=True)
class Cost:
    """One cost of a network that runs step after step.

    Attributes:
        name: As budgets and results name it; it ends with its unit where that is no count (``_bytes``, ``_s``, ``_j``).
        of: The cost of one step, at least 0; of a step that is left out, 0.
        peak: The network's cost is the largest of its steps'; else it is their sum.
    """

    name: str
    of: Callable[[Step], float]
    peak: bool = False

    @property
    def unit(self) -> str:
        """``bytes``, ``s``, ``J``, or nothing for a count."""
        return {"bytes": "bytes", "s": "s", "j": "J"}.get(self.name.rpartition("_")[2], "")


def flash_bytes(step: Step) -> float:
    """One byte per int8 weight; for each output channel an int32 bias and a float32 scale.

    What else a network needs in flash is the same for every network, or nearly so, and is left to the rest of the
    device's share: the kernels' code (tens of KiB, once for all networks), and for each operation its shapes,
    addresses and zero points (some tens of bytes).
    """
    return step.weights + 8 * step.channels


PARAMS = Cost("params", lambda step: step.params)
MACS = Cost("macs", lambda step: step.macs)
FLASH = Cost("flash_bytes", flash_bytes)
SRAM = Cost("sram_bytes", lambda step: step.held_bytes, peak=True)
ON_ANY = (PARAMS, MACS, FLASH, SRAM)
"""What a network costs whatever runs it."""
