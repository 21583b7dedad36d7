"""Conformance suites for what users write beside ours: ``AssertionError`` with one line where something is wrong."""

from kdnas.testing.channel import check_channel
from kdnas.testing.cost import check_cost

__all__ = ["check_channel", "check_cost"]
