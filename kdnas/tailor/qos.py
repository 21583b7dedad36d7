"""One device and its quality of service: what an image costs it in time and energy, and how long a code it can send."""

from collections.abc import Mapping
from statistics import NormalDist
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from kdnas.device.energy import Spent, spent

Positive = Annotated[float, Field(gt=0)]
SnrDb = Annotated[float, Field(ge=-50, le=80)]
Binding = Literal["latency", "energy", "accuracy", "budget"]


class _Table(BaseModel):
    # strict: "8" is no number and true is no 1. Tuples are eased one by one: TOML and JSON know lists alone.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class NormalSnr(_Table):
    """An SNR whose dB are normally distributed (log-normal shadowing)."""

    mean: SnrDb
    std: Annotated[float, Field(ge=0, le=30)]


Range = Annotated[tuple[SnrDb, SnrDb], Field(strict=False)]
Snr = Annotated[
    Annotated[NormalSnr, Tag("table")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "table" if isinstance(value, Mapping | NormalSnr) else "range"),
]


class EdgeDevice(_Table):
    """One device of a fleet (the TOML table ``[[device]]``).

    Attributes:
        name: Lower-case; it becomes the name of a folder.
        device_class: Its class (the key ``class``): whose budgets bind the encoder, and whose codec it carries.
        compute_hz: f, cycles per second of the core.
        cycles_per_mac: c, cycles for one multiply-accumulate.
        kappa: Effective switched capacitance in J s^2: a cycle at f Hz takes kappa f^2 joules.
        symbol_rate_hz: B, complex symbols per second.
        tx_power_w: P, watts while it transmits.
        channel: Name of the channel.
        snr_db: Distribution of its average SNR E_s/N_0: uniform [low, high], or {mean, std} of a normal one, in dB.
        deadline_s: T_d, seconds from the image to its last symbol.
        energy_j: E_d, joules for an image.
        accuracy_floor: A_d, a fraction.
        budget_units: N_d, distilled units.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    device_class: Annotated[str, Field(alias="class", min_length=1)]
    compute_hz: Positive
    cycles_per_mac: Positive
    kappa: Positive
    symbol_rate_hz: Positive
    tx_power_w: Positive
    channel: Annotated[str, Field(min_length=1)]
    snr_db: Snr
    deadline_s: Positive
    energy_j: Positive
    accuracy_floor: Annotated[float, Field(gt=0, lt=1)]
    budget_units: Annotated[int, Field(gt=0)]

    @field_validator("budget_units", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value  # 40e6 is a float to TOML

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if isinstance(self.snr_db, tuple) and self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db is [low, high], not {list(self.snr_db)}")
        return self

    def cost(self, macs: float, symbols: int) -> Spent:
        """What an image costs.

        Args:
            macs: Multiply-accumulates of the whole transmitter.
            symbols: k, complex symbols sent.
        """
        return spent(
            macs, symbols, clock_hz=self.compute_hz, cycles_per_mac=self.cycles_per_mac, kappa=self.kappa,
            symbol_rate_hz=self.symbol_rate_hz, tx_power_w=self.tx_power_w,
        )  # fmt: skip

    def breaks(self, macs: float, symbols: int) -> Literal["latency", "energy"] | None:
        """The constraint that a code of ``symbols`` breaks, latency first; None where it keeps both."""
        cost = self.cost(macs, symbols)
        if cost.latency_s > self.deadline_s:
            return "latency"
        return "energy" if cost.energy_j > self.energy_j else None

    def longest(self, macs: float, most: int) -> tuple[int, Literal["latency", "energy"] | None]:
        """The longest code inside deadline and energy.

        Args:
            macs: Of the transmitter.
            most: k, the most symbols that the codec has.

        Returns:
            0 … ``most``, and what forbids one symbol more (None where the codec alone does). 0 means that nothing can
            be sent in time, or with that energy.
        """
        low, high = 0, most  # costs rise with the length: the last one that fits
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.breaks(macs, middle) is None else (low, middle - 1)
        return low, self.breaks(macs, low + 1) if low < most else None

    def snrs_db(self, nodes: int) -> list[float]:
        """``nodes`` SNRs in dB that stand for the distribution in equal parts: its quantiles at (i + 1/2)/nodes."""
        shares = [(i + 0.5) / nodes for i in range(nodes)]
        if isinstance(self.snr_db, tuple):
            low, high = self.snr_db
            return [low + (high - low) * share for share in shares]
        normal = NormalDist()
        return [self.snr_db.mean + self.snr_db.std * normal.inv_cdf(share) for share in shares]

    def training_range_db(self) -> tuple[float, float]:
        """Lowest and highest SNR of the training: the whole range, or two standard deviations about the mean."""
        if isinstance(self.snr_db, tuple):
            return self.snr_db
        return self.snr_db.mean - 2 * self.snr_db.std, self.snr_db.mean + 2 * self.snr_db.std
