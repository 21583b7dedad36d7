"""Candidate operations as plain torch modules, and what each costs."""

from kdnas.ops.blocks import ConvBN, InvertedResidual
from kdnas.ops.steps import Op, Step, Unit, conv_step, linear_step, pool_step

__all__ = ["ConvBN", "InvertedResidual", "Op", "Step", "Unit", "conv_step", "linear_step", "pool_step"]
