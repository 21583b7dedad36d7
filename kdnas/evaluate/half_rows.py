"""The forms of the rows of the published tables about a link's halves: how fast they are, and what int8 costs."""

from typing import Literal

from pydantic import model_validator

from kdnas.evaluate.fields import Above, Count, Difference, Fraction, Name, NotNegative, Positive, Row


class LinkSpeedRow(Row):
    """The throughput of one part of a device class's link; ``share`` is that of the channel in a training step."""

    device: Name
    part: Name
    runtime: Literal["torch", "onnxruntime"]
    dtype: Literal["fp32", "int8"]
    batch: Positive
    images_per_s: Above
    share: NotNegative | None
    channels: Name | None = None
    threads: Positive | None = None


class Int8Row(Row):
    """A link with its transmitter in float32 and in int8 at one point, one seed; bytes are those of the ONNX files."""

    device: Name
    dataset: Name
    seed: int
    channel: Name
    snr_db: float
    symbols: Positive
    accuracy_fp32: Fraction
    accuracy_int8: Fraction
    difference: Difference
    difference_ci95: NotNegative
    bytes_fp32: Positive
    bytes_int8: Positive
    operations_int8: Count
    operations_float: Count
    # What the transmitter takes of the class's budgets; flash as it is counted, and as the int8 file has it.
    binding: Name
    binding_use: NotNegative
    flash_bytes: Positive
    flash_bytes_file: Positive
    flash_budget: Above | None

    @model_validator(mode="after")
    def _difference(self) -> "Int8Row":
        if abs(self.accuracy_int8 - self.accuracy_fp32 - self.difference) > 1e-6:
            raise ValueError("difference is not accuracy_int8 less accuracy_fp32")
        return self
