"""What an image costs in joules, to compute and to send: the one place of these formulas.

T_comp = c MACs / f, E_comp = kappa c MACs f^2, T_tx = symbols / B, E_tx = P T_tx (the switched-capacitance model of
mobile-edge computing: Mao et al., "A Survey on Mobile Edge Computing", IEEE Communications Surveys & Tutorials 19(4),
2017, section III-A).
"""

from typing import NamedTuple


class Spent(NamedTuple):
    """What one image costs a device, split into computing and transmitting: seconds and joules."""

    compute_s: float
    transmit_s: float
    compute_j: float
    transmit_j: float

    @property
    def latency_s(self) -> float:
        """T_comp + T_tx."""
        return self.compute_s + self.transmit_s

    @property
    def energy_j(self) -> float:
        """E_comp + E_tx."""
        return self.compute_j + self.transmit_j


def spent(
    macs: float, symbols: float, *, clock_hz: float, cycles_per_mac: float, kappa: float, symbol_rate_hz: float,
    tx_power_w: float,
) -> Spent:  # fmt: skip
    """What an image costs.

    Args:
        macs: Multiply-accumulates.
        symbols: Complex symbols sent.
        clock_hz: f, cycles per second of the core.
        cycles_per_mac: c, cycles for one multiply-accumulate.
        kappa: Effective switched capacitance in J s^2: a cycle at f Hz takes kappa f^2 joules.
        symbol_rate_hz: B, complex symbols per second.
        tx_power_w: P, watts while it transmits.
    """
    cycles, transmit_s = cycles_per_mac * macs, symbols / symbol_rate_hz
    return Spent(cycles / clock_hz, transmit_s, kappa * cycles * clock_hz**2, tx_power_w * transmit_s)
