"""What a network costs on a device: exact of an architecture, expected (and differentiable) of a relaxed space."""

from kdnas.cost.exact import COSTS, exact_costs, layer_table
from kdnas.cost.tables import CostTables

__all__ = ["COSTS", "CostTables", "exact_costs", "layer_table"]
