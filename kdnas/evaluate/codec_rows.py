"""The forms of the rows of the published tables about the codec."""

from typing import Literal

from kdnas.evaluate.fields import Above, Fraction, Name, NotNegative, Positive, Row


class OneModelRow(Row):
    """One point of the model for all SNRs and lengths, or of one made for that length or SNR alone; one seed."""

    dataset: Name
    channel: Name
    system: Literal["one-model", "dedicated"]
    symbols: Positive
    snr_db: float
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None


class ConstellationRow(Row):
    """One point of a model whose symbols are points of a constellation (``none``: any complex number); one seed."""

    dataset: Name
    channel: Name
    constellation: Name
    symbols: Positive
    snr_db: float
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None


class TrainedOnRow(Row):
    """One point of a model trained on all channels of its device (``trained_on`` is ``all``) or on one; one seed."""

    dataset: Name
    channel: Name
    trained_on: Name
    symbols: Positive
    snr_db: float
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None


class ToldWrongRow(Row):
    """One point of a model where both ends are told an SNR that is ``snr_offset_db`` too high; one seed."""

    dataset: Name
    channel: Name
    system: Literal["one-model", "told-wrong"]
    symbols: Positive
    snr_db: float
    snr_offset_db: float
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None


class AdaptationRow(Row):
    """Length chosen at each SNR for a wanted accuracy, or fixed; means over SNRs; one channel, one seed.

    ``promised`` is the share of SNRs at which the table said that the accuracy is met, ``met`` at which it was.
    """

    dataset: Name
    channel: Name
    system: Literal["adaptive", "fixed"]
    target: Fraction | None
    mean_symbols: Above
    seed: int
    accuracy: Fraction
    promised: Fraction | None
    met: Fraction | None
