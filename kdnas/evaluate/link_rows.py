"""The forms of the rows of the published tables about the link."""

from pydantic import Field, model_validator

from kdnas.evaluate.fields import Count, Difference, Fraction, Name, NotNegative, Positive, Row


class EnvelopeRow(Row):
    """One system at one point, one seed, and its difference to kdnas on the same images, draws and noise.

    Without a channel (the teacher), ``channel``, ``snr_db`` and ``symbols`` are null together.
    """

    dataset: Name
    device: Name
    channel: Name | None
    snr_db: float | None
    symbols: Positive | None
    system: Name
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None
    transmitter_params: Count | None
    teacher_params: Count
    teacher_accuracy: Fraction
    difference: Difference | None = Field(default=None)
    difference_ci95: NotNegative | None = Field(default=None)

    @model_validator(mode="after")
    def _together(self) -> "EnvelopeRow":
        if len({value is None for value in (self.channel, self.snr_db, self.symbols)}) > 1:
            raise ValueError("channel, snr_db and symbols must all be null or none of them")
        return self
