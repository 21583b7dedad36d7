"""The rows of the published tables about costs: latency against a measurement, activation memory against a plan."""

from typing import Literal

from kdnas.evaluate.fields import Above, Name, Positive, Row


class LatencyRow(Row):
    """One network that was left out of the fit: seconds for an image."""

    space: Name
    network: Name
    dtype: Literal["fp32", "int8"]
    predicted_s: Above
    measured_s: Above


class SramRow(Row):
    """One network: bytes of int8 activations by the steps, in the best order, and as torch runs it."""

    space: Name
    network: Name
    model_bytes: Positive
    planner_bytes: Positive
    measured_bytes: Positive
