"""What a network costs on a device: exact of an architecture, expected (and differentiable) of a relaxed space."""

from kdnas.config import COSTS
from kdnas.cost.base import ON_ANY, Cost
from kdnas.cost.device import costs_of, energy_cost, latency_cost
from kdnas.cost.exact import exact_costs, layer_table
from kdnas.cost.tables import CostTables

__all__ = [
    "COSTS", "ON_ANY", "Cost", "CostTables", "costs_of", "energy_cost", "exact_costs", "latency_cost", "layer_table",
]  # fmt: skip
