"""The form of ``results.json`` and of published tables: made, and checked with the bad key named."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from kdnas.config import BASELINES
from kdnas.errors import InputError
from kdnas.evaluate.codec_rows import AdaptationRow, ConstellationRow, OneModelRow, ToldWrongRow, TrainedOnRow
from kdnas.evaluate.cost_rows import LatencyRow, SramRow
from kdnas.evaluate.distill_rows import (
    AllLabelsRow,
    FewLabelsRow,
    LossAblationRow,
    StagesRow,
    StoreRow,
    TailorRow,
)
from kdnas.evaluate.fields import (
    Above,
    Count,
    Difference,
    Fraction,
    Labels,
    Model,
    Name,
    NotNegative,
    Positive,
    Probability,
    Row,
)
from kdnas.evaluate.half_rows import Int8Row, LinkSpeedRow
from kdnas.evaluate.link_rows import EnvelopeRow
from kdnas.evaluate.tune_rows import ParetoRow, ProxyRow, TuningRow, WorkersRow

SCHEMA = 1
COSTS = ("params", "macs", "sram_bytes", "flash_bytes", "latency_s", "energy_j")


class Costs(Model):
    """What a network costs on its device class: counts, bytes at the class's precision, seconds, joules."""

    params: Count
    macs: Count
    sram_bytes: Count
    flash_bytes: Count
    latency_s: float = Field(ge=0)
    energy_j: float = Field(default_factory=float, ge=0)  # left out where the class has no model of it


class Budgets(Model):
    """Limits for the transmitter total, in the units of ``Costs``; a key without a limit is left out."""

    # not Optional: left out is right, null is not
    params: Positive = Field(default_factory=int)
    macs: Positive = Field(default_factory=int)
    sram_bytes: Positive = Field(default_factory=int)
    flash_bytes: Positive = Field(default_factory=int)
    latency_s: float = Field(default_factory=float, gt=0)
    energy_j: float = Field(default_factory=float, gt=0)


class TeacherInfo(Model):
    """The adapted teacher: its name, parameter count, and clean test accuracy."""

    name: Name
    params: Count
    accuracy: Fraction


class Point(Model):
    """One point of a curve. Without a channel, ``channel``, ``snr_db`` and ``symbols`` are null together."""

    system: Literal["kdnas", "kdnas-int8", "no-kd", "teacher", *BASELINES]  # type: ignore[valid-type]
    channel: Name | None
    snr_db: float | None
    symbols: Positive | None
    accuracy: Fraction
    ci95: Annotated[float, Field(ge=0)] | None
    n: Positive
    # Where draws went on until an interval was narrow enough: how many, and the half-width over them that was reached.
    draws: Positive | None = None
    ci95_draws: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _together(self) -> "Point":
        if len({value is None for value in (self.channel, self.snr_db, self.symbols)}) > 1:
            raise ValueError("channel, snr_db and symbols must all be null or none of them")
        if self.system == "teacher" and self.channel is not None:
            raise ValueError("the teacher has no channel: set channel, snr_db and symbols to null")
        return self


class MismatchPoint(Point):
    """A point at which both ends were told an SNR that was ``snr_offset_db`` too high."""

    snr_offset_db: float


class BaselineInfo(Model):
    """What a baseline's transmitter holds: parameters of encoder and channel encoder."""

    transmitter_params: Count


class LayerInfo(Model):
    """One block of a network for the picture of its architecture: shape is (C, H, W) or (D,)."""

    name: Name
    kind: Name
    detail: str
    shape: list[Positive]
    params: Count


class AlphaEpoch(Model):
    """The choice probabilities after one epoch of the search, by label of the choice."""

    epoch: Count
    probs: dict[Name, Annotated[list[Probability], Field(min_length=1)]]


class TrialInfo(Model):
    """One trial: accuracy on the architecture split, and the worst cost as a multiple of its budget."""

    number: Count
    accuracy: Fraction | None
    ratio: Annotated[float, Field(ge=0)] | None
    feasible: bool


class RankPair(Model):
    """An architecture's accuracy as a trial, and after full training."""

    trial_accuracy: Fraction
    trained_accuracy: Fraction


class SearchInfo(Model):
    """What figures of the search need; each part may be absent. ``choices`` names the choices of a label."""

    layers: list[LayerInfo] = Field(default_factory=list)
    alphas: list[AlphaEpoch] = Field(default_factory=list)
    choices: dict[Name, list[str | int | float | bool]] = Field(default_factory=dict)
    trials: list[TrialInfo] = Field(default_factory=list)
    ranks: list[RankPair] = Field(default_factory=list)


class Results(Model):
    """A run's ``results.json``; accuracies are fractions, and what does not apply is null."""

    schema_: Literal[1] = Field(alias="schema")
    device: Name
    dataset: Name
    seed: int
    labels: Labels | None = None
    draws: Positive | None = None
    transmitter: Costs
    encoder: Costs
    budgets: Budgets
    teacher: TeacherInfo
    curves: list[Point] = Field(min_length=1)
    mismatch: list[MismatchPoint] = Field(default_factory=list)
    baselines: dict[Name, BaselineInfo] = Field(default_factory=dict)
    search: SearchInfo | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Results":
        for key in COSTS:
            if getattr(self.transmitter, key) < getattr(self.encoder, key):
                raise ValueError(f"transmitter.{key} is below encoder.{key}, which it holds")
        _no_twins("curves", self.curves, ("system", "channel", "snr_db", "symbols"))
        _no_twins("mismatch", self.mismatch, ("system", "channel", "snr_db", "symbols", "snr_offset_db"))
        return self


class PublishedRow(Model):
    """One row of a published table: one seed of one system at one point."""

    device: Name
    dataset: Name
    seed: int
    system: Name
    labels: Labels
    channel: Name | None
    snr_db: float | None
    symbols: Positive | None
    accuracy: Fraction
    ci95: Annotated[float, Field(ge=0)] | None
    params: Count | None
    macs: Count | None
    sram_bytes: Count | None
    flash_bytes: Count | None


class Published(Model):
    """A table of ``runs/published/``: the command that made it, and its rows."""

    command: Name
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Published":
        key = ("device", "dataset", "seed", "system", "labels", "channel", "snr_db", "symbols")
        _no_twins("rows", self.rows, key)
        return self


class SearchSpeedRow(Row):
    """One system on one space: seconds of a step, memory over what the process held before."""

    space: Name
    system: Name
    relaxation: Name | None
    step_s: Above
    peak_bytes: Positive
    images_per_s: Above
    ratio_to_largest: Above | None
    device: Name | None = None
    batch_size: Positive | None = None
    threads: Positive | None = None


class BudgetRow(Row):
    """One cost of the transmitter found for a device class with one seed, and its limit, in the units of ``Costs``."""

    device: Name
    seed: int
    cost: Name
    value: NotNegative
    budget: Above
    largest_fits: bool


class CollapseRow(Row):
    """One search under one protection: the gap is the accuracy of the supernet less that of the derived network."""

    space: Name
    device: Name
    protection: Name
    seed: int
    gap: Difference
    accuracy_relaxed: Fraction
    accuracy_derived: Fraction
    accuracy_unlabelled: Fraction
    skips: NotNegative
    eigenvalue: float | None
    entropy: float
    binding_use: NotNegative
    likely_over_budget: NotNegative


class SearchBaselineRow(Row):
    """One way to an architecture, with one seed: test accuracy after the same training, the transmitter's costs."""

    device: Name
    system: Name
    seed: int
    accuracy: Fraction
    ci95: NotNegative | None
    params: Count
    macs: Count
    in_budget: bool


class NasBench201Row(Row):
    """One search in NAS-Bench-201: its string, what the benchmark lists for it, and how the search ended."""

    system: Name
    seed: int
    arch: Name
    published_params: NotNegative
    published_macs: NotNegative
    skips: Count
    accuracy_relaxed: Fraction
    accuracy_derived: Fraction
    gap: Difference
    eigenvalues: list[float]
    search_s: NotNegative
    steps: Positive
    channels: Positive
    cells: Positive


# By the kind of table: the form of a row, and the columns in which no two rows agree.
_TABLES: dict[str, tuple[type[Model], tuple[str, ...]]] = {
    "quick": (PublishedRow, ()),
    "search speed": (SearchSpeedRow, ("space", "system", "relaxation", "device")),
    "budgets": (BudgetRow, ("device", "seed", "cost")),
    "collapse": (CollapseRow, ("space", "device", "protection", "seed")),
    "search baselines": (SearchBaselineRow, ("device", "system", "seed")),
    "NAS-Bench-201": (NasBench201Row, ("system", "seed")),
    "few labels": (FewLabelsRow, ("dataset", "labels", "system", "seed")),
    "all labels": (AllLabelsRow, ("dataset", "labels", "teacher", "system", "epochs", "seed")),
    "loss ablation": (LossAblationRow, ("dataset", "labels", "system", "seed")),
    "store": (StoreRow, ("dataset", "form", "seed")),
    "tailor": (TailorRow, ("dataset", "device", "system", "seed")),
    "latency": (LatencyRow, ("space", "network", "dtype")),
    "sram": (SramRow, ("space", "network")),
    "stages": (StagesRow, ("dataset", "channel", "system", "snr_db", "seed")),
    "one model": (OneModelRow, ("dataset", "channel", "system", "symbols", "snr_db", "seed")),
    "constellation": (ConstellationRow, ("dataset", "channel", "constellation", "symbols", "snr_db", "seed")),
    "adaptation": (AdaptationRow, ("dataset", "channel", "system", "target", "mean_symbols", "seed")),
    "told wrong": (ToldWrongRow, ("dataset", "channel", "system", "symbols", "snr_db", "snr_offset_db", "seed")),
    "trained on": (TrainedOnRow, ("dataset", "channel", "trained_on", "symbols", "snr_db", "seed")),
    "pareto": (ParetoRow, ("dataset", "device", "seed")),
    "tuning": (TuningRow, ("device", "system", "seed")),
    "proxies": (ProxyRow, ("device", "seed", "architecture", "proxy", "judged")),
    "workers": (WorkersRow, ("workers",)),
    "link speed": (LinkSpeedRow, ("device", "part", "runtime", "dtype", "batch", "channels")),
    "int8": (Int8Row, ("device", "dataset", "seed", "channel", "snr_db", "symbols")),
    "envelope": (EnvelopeRow, ("dataset", "device", "channel", "snr_db", "symbols", "system", "seed")),
}


def results_document(
    *,
    device: str,
    dataset: str,
    seed: int,
    transmitter: Mapping[str, float],
    encoder: Mapping[str, float],
    budgets: Mapping[str, float | None],
    teacher: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]],
    mismatch: Sequence[Mapping[str, Any]] = (),
    labels: int | str | None = None,
    draws: int | None = None,
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Assemble and check the content of ``results.json``.

    Args:
        device: Device class.
        dataset: Data set.
        seed: Of the run.
        transmitter: Costs of encoder + channel encoder: ``params``, ``macs``, ``sram_bytes``,
            ``flash_bytes``, ``latency_s``, and ``energy_j`` where it is modelled; keys beside these are left out.
        encoder: The same of the encoder alone.
        budgets: The same keys; those that are absent or None have no limit.
        teacher: ``name``, ``params``, ``accuracy`` (fraction).
        curves: Rows of ``evaluate_link`` and ``evaluate_teacher``.
        mismatch: Rows of ``evaluate_link`` with an ``snr_offset_db``.
        labels: How many labels the run saw, or ``"all"``.
        draws: Channel draws for each image and point, at least.
        baselines: By system: ``transmitter_params``.
        search: For the figures of the search, each optional: ``layers`` (``{name, kind, detail, shape,
            params}``), ``alphas`` (``{epoch, probs: {label: [...]}}``), ``choices`` (``{label:
            [names]}``), ``trials`` (``{number, accuracy, ratio, feasible}``, ``ratio`` being the worst cost
            over its budget), ``ranks`` (``{trial_accuracy, trained_accuracy}``).

    Returns:
        Plain values, ready for ``write_json``.

    Raises:
        InputError: Something is missing or out of range, named by its key.
    """
    document: dict[str, Any] = {"schema": SCHEMA, "device": device, "dataset": dataset, "seed": seed}
    if labels is not None:
        document["labels"] = labels
    if draws is not None:
        document["draws"] = draws
    document |= {
        "transmitter": {key: transmitter[key] for key in COSTS if key in transmitter},
        "encoder": {key: encoder[key] for key in COSTS if key in encoder},
        "budgets": {key: value for key, value in budgets.items() if value is not None},
        "teacher": dict(teacher),
        "curves": [dict(row) for row in curves],
    }
    if mismatch:
        document["mismatch"] = [dict(row) for row in mismatch]
    if baselines:
        document["baselines"] = {name: dict(info) for name, info in baselines.items()}
    if search is not None:
        document["search"] = dict(search)
    return validate_results(document)


def validate_results(value: Any, source: str = "results.json") -> dict[str, Any]:
    """Check a ``results.json`` document; unknown keys are errors.

    Args:
        value: What was read from the file.
        source: How the message names the file.

    Returns:
        ``value`` itself.

    Raises:
        InputError: One line that names the first bad key.
    """
    return _validate(Results, value, source)


def validate_published(value: Any, source: str = "the published table") -> dict[str, Any]:
    """Check a table of ``runs/published/``: ``{"command": ..., "rows": [...]}``; as ``validate_results``."""
    return _validate(Published, value, source)


def table_kind(value: Any, source: str = "the table") -> str:
    """Recognise a table of ``runs/published/`` by the keys of its first row.

    Some kinds share their keys, and are told apart by what stands in the rows: a loss ablation has systems
    ``no-...`` or ``only-...``; all labels has one number of labels and says the epochs; few labels is the rest. One
    model has no systems but ``one-model`` and ``dedicated``, as stages do not.

    Args:
        value: What was read from the file.
        source: How the message names the file.

    Returns:
        ``"quick"``, ``"search speed"``, ``"budgets"``, ``"collapse"``, ``"search baselines"``, ``"NAS-Bench-201"``,
        ``"few labels"``, ``"all labels"``, ``"loss ablation"``, ``"store"``, ``"tailor"``, ``"stages"``,
        ``"one model"``, ``"constellation"``, ``"adaptation"``, ``"told wrong"``, ``"trained on"``, ``"pareto"``,
        ``"tuning"``, ``"proxies"``, ``"workers"``, ``"link speed"``, ``"int8"`` or ``"envelope"``.

    Raises:
        InputError: It is no table, or none of these; the line names the keys that the nearest kind needs also.
    """
    rows = value.get("rows") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise InputError(f'{source}: rows: missing or empty; a table is {{"command": ..., "rows": [{{...}}, ...]}}')
    needed = {
        kind: [key for key, field in model.model_fields.items() if field.is_required()]
        for kind, (model, _) in _TABLES.items()
    }
    missing = {kind: [key for key in keys if key not in rows[0]] for kind, keys in needed.items()}
    possible = [kind for kind in needed if len(missing[kind]) < len(needed[kind])]
    if not possible:
        raise InputError(f"{source}: rows[0]: no key of any table that can be drawn ({', '.join(needed)})")
    # Keys of one kind may all be keys of another: most keys win, and one that is absent costs two that are there,
    # so that a row with a key forgotten is still nearest to its own kind.
    nearest = max(possible, key=lambda kind: len(needed[kind]) - 3 * len(missing[kind]))
    if missing[nearest]:
        raise InputError(
            f"{source}: rows[0]: no table that can be drawn; nearest to {nearest}, which needs also: "
            f"{', '.join(missing[nearest])}"
        )
    return _by_content(nearest, [row for row in rows if isinstance(row, dict)])


def validate_table(value: Any, source: str = "the table") -> str:
    """Check any table of ``runs/published/``; unknown keys are errors in ``quick`` alone.

    Args:
        value: What was read from the file.
        source: How the message names the file.

    Returns:
        The kind of table, as from ``table_kind``.

    Raises:
        InputError: One line that names the first bad key.
    """
    kind = table_kind(value, source)
    row, key = _TABLES[kind]
    if kind == "quick":
        _validate(Published, value, source)
        return kind

    class Table(Model):
        command: Name
        rows: list[row]  # type: ignore[valid-type]

        @model_validator(mode="after")
        def _consistent(self) -> "Table":
            _no_twins("rows", self.rows, key)
            return self

    _validate(Table, value, source)
    return kind


def _by_content(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if kind in ("stages", "one model"):
        return "one model" if {row.get("system") for row in rows} <= {"one-model", "dedicated"} else "stages"
    if kind not in ("few labels", "all labels"):
        return kind
    if any(str(row.get("system")).startswith(("no-", "only-")) for row in rows):
        return "loss ablation"
    return "few labels" if len({str(row.get("labels")) for row in rows}) > 1 else kind


def _validate(model: type[BaseModel], value: Any, source: str) -> dict[str, Any]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        steps = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]]
        where = "".join(steps).lstrip(".")
        what = first["msg"].removeprefix("Value error, ").replace("\n", " ")
        message = "unknown key, remove it" if first["type"] == "extra_forbidden" else what
        raise InputError(f"{source}: {f'{where}: ' if where else ''}{message}") from None
    return value


def _no_twins(name: str, rows: Sequence[BaseModel], key: tuple[str, ...]) -> None:
    seen: set[tuple[Any, ...]] = set()
    for index, row in enumerate(rows):
        point = tuple(getattr(row, part) for part in key)
        if point in seen:
            raise ValueError(f"{name}[{index}] repeats an earlier row (same {', '.join(key)})")
        seen.add(point)
