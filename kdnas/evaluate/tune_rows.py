"""The forms of the rows of the published tables about tuning, and of the report over device classes."""

from typing import Literal

from kdnas.evaluate.fields import Above, Count, Fraction, Name, NotNegative, Positive, Row


class ParetoRow(Row):
    """One run of a device class: test accuracy at one point, and what the transmitter costs."""

    device: Name
    dataset: Name
    seed: int
    channel: Name
    snr_db: float
    symbols: Positive
    accuracy: Fraction
    ci95: NotNegative
    params: Count
    macs: Count
    sram_bytes: Count
    flash_bytes: Count
    latency_s: NotNegative
    teacher_accuracy: Fraction


class TuningRow(Row):
    """One whole run with the weights that a study set, or with fixed ones: test accuracy, the transmitter's costs."""

    device: Name
    seed: int
    system: Literal["study", "default"]
    accuracy: Fraction
    ci95: NotNegative
    params: Count
    macs: Count
    binding_use: NotNegative


class ProxyRow(Row):
    """One architecture: what a cheap measure says of it as a trial, and its accuracy after full training."""

    device: Name
    seed: int
    architecture: Count
    proxy: Name
    judged: Name
    value: Fraction
    trained: Fraction


class WorkersRow(Row):
    """One study with so many workers."""

    workers: Positive
    trials: Positive
    trials_per_hour: Above
    efficiency: Above
