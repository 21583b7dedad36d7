"""The forms of the rows of the published tables about distillation."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdnas.evaluate.fields import Above, Count, Fraction, Labels, Name, NotNegative, Positive, Row


class FewLabelsRow(Row):
    """One student trained with so many labels, one seed; the teacher's accuracy is that with the same labels."""

    dataset: Name
    labels: Labels
    system: Literal["ce", "kd", "kd-all", "ib", "full"]
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None = None
    teacher_accuracy: Fraction | None = None
    images: Positive | None = None

    @model_validator(mode="after")
    def _labelled_images(self) -> "FewLabelsRow":
        if self.images is not None and self.labels != "all" and self.labels > self.images:
            raise ValueError(f"{self.labels} labels are more than the {self.images} images")
        return self


class AllLabelsRow(FewLabelsRow):
    """The same, how long the student was trained, and the teacher's name."""

    epochs: Above
    teacher: Name | None = None


class LossAblationRow(Row):
    """One student by the whole loss (``full``), all but a part, one part only, or the default weights; one seed."""

    dataset: Name
    labels: Labels
    system: Annotated[str, Field(pattern=r"^(full|default|no-.+|only-.+)$")]
    seed: int
    accuracy: Fraction


class StoreRow(Row):
    """One form of stored knowledge, one seed: bytes of a view, seconds of an epoch, the student's accuracy.

    ``bytes_per_view`` is null or 0 where nothing is stored (no teacher, or the live one).
    """

    dataset: Name
    form: Name
    seed: int
    bytes_per_view: NotNegative | None
    image_bytes: Above
    epoch_s: Above
    epoch_no_teacher_s: Above
    epoch_live_s: Above | None
    accuracy: Fraction
    dims: Positive | None = None


class TailorRow(Row):
    """What one way of distillation made for one device, one seed; what does not apply is null.

    Times and energies are those of one image: the whole, and its part in computing (the rest is transmitting).
    """

    dataset: Name
    system: Literal["dynamic", "static", "none"]
    device: Name
    device_class: Name
    seed: int
    accuracy: Fraction | None
    accuracy_floor: Fraction
    latency_s: NotNegative | None
    latency_compute_s: NotNegative | None
    energy_j: NotNegative | None
    energy_compute_j: NotNegative | None
    symbols: Count | None
    units: NotNegative | None
    feasible: bool
    binding: Name | None
    steps: Count | list[Any]

    @model_validator(mode="after")
    def _consistent(self) -> "TailorRow":
        if not self.feasible and self.binding is None:
            raise ValueError("binding is null though feasible is false: name the constraint")
        for whole in ("accuracy", "latency_s", "energy_j", "units"):
            if self.feasible and getattr(self, whole) is None:
                raise ValueError(f"{whole} is null though feasible is true")
        for whole, part in (("latency_s", "latency_compute_s"), ("energy_j", "energy_compute_j")):
            total, computing = getattr(self, whole), getattr(self, part)
            if (total is None) != (computing is None):
                raise ValueError(f"{whole} and {part} must both be null or neither")
            if total is not None and computing > total * (1 + 1e-9):
                raise ValueError(f"{part} is above {whole}, which holds it")
        return self


class StagesRow(Row):
    """One way of training for the channel at one SNR, one seed."""

    dataset: Name
    channel: Name
    system: Name
    snr_db: float
    seed: int
    accuracy: Fraction
