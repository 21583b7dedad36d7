"""Conformance suites for what users write beside ours: ``AssertionError`` with one line where something is wrong."""

from kdnas.testing.channel import check_channel

__all__ = ["check_channel"]
