"""The device class: a checked, frozen record; every number in SI units, bytes, or counts."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from kdnas.device.energy import Spent, spent
from kdnas.run.files import hash_of

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
SnrDb = Annotated[float, Field(ge=-50, le=80)]


def _channel(text: str) -> str:
    # Only the shape: which channels and options there are, torch's rooms know, and a run asks them before it trains.
    if not re.fullmatch(r"[\w.-]+ *(\(.*\))?", text):
        raise PydanticCustomError("channel", "Input should read NAME or NAME(OPTION=VALUE, ...)")
    return text


ChannelText = Annotated[str, AfterValidator(_channel)]
CostKey = Literal["params", "macs", "sram_bytes", "flash_bytes", "latency_s", "energy_j"]


class _Table(BaseModel):
    # strict: "8" is no number and true is no 1. Tuples are eased one by one: TOML and JSON know lists alone.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Hardware(_Table):
    """What the device has, before anything is shared out.

    Attributes:
        macs_per_s: Sustained int8 multiply-accumulates per second of the core that runs the network.
        bytes_per_s: Sustained bytes per second between that core and its weights and activations.
        op_overhead_s: Seconds that each operation costs beside its arithmetic and traffic, such as dispatch.
        sram_bytes: Working memory; None where it does not limit.
        flash_bytes: Memory that keeps the program and its weights; None where it does not limit.
        weight_bytes: Memory that the weights live in while the network runs, when it is not the flash itself:
            the L2 cache of an application processor, whose flash and DRAM limit nothing of this size.
    """

    macs_per_s: Positive
    bytes_per_s: Positive
    op_overhead_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    sram_bytes: Count | None = None
    flash_bytes: Count | None = None
    weight_bytes: Count | None = None


class Energy(_Table):
    """What computing and sending take from the supply (the TOML table ``[energy]``); optional.

    Attributes:
        clock_hz: f, cycles per second of the core that runs the network.
        kappa: Effective switched capacitance in J s^2: a cycle takes kappa f^2 joules, so the core kappa f^3 watts.
        tx_power_w: Watts that the radio takes while it sends.
        image_j: Joules that the supply gives to an image; None where it does not limit.
    """

    clock_hz: Positive
    kappa: Positive
    tx_power_w: Positive
    image_j: Positive | None = None


class Share(_Table):
    """The fraction, in (0, 1], of each limit that this task may use; a key left out limits nothing.

    The rest of the device belongs to its firmware, radio stack, application, other models, and to sleep.
    `DeviceClass.budgets` says which limit each key takes its fraction of.
    """

    params: Fraction | None = None
    macs: Fraction | None = None
    sram_bytes: Fraction | None = None
    flash_bytes: Fraction | None = None
    latency_s: Fraction | None = None
    energy_j: Fraction | None = None


class Notes(_Table):
    """Why each share is what it is, in words."""

    params: Text | None = None
    macs: Text | None = None
    sram_bytes: Text | None = None
    flash_bytes: Text | None = None
    latency_s: Text | None = None
    energy_j: Text | None = None


class Radio(_Table):
    """The link between the device and its server (the TOML table ``[link]``).

    Attributes:
        channels: The channels it is trained and judged on, each ``NAME`` or ``NAME(OPTION=VALUE, ...)`` as
            ``kdnas.channel.get_channel`` reads them.
        snr_db: Lowest and highest E_s/N_0 per complex symbol, in dB.
        symbols: Most complex symbols per image.
        symbol_rate_hz: Complex symbols per second.
        deadline_s: Seconds from the image to the last symbol sent.
    """

    channels: Annotated[tuple[ChannelText, ...], Field(min_length=1, strict=False)]
    snr_db: Annotated[tuple[SnrDb, SnrDb], Field(strict=False)]
    symbols: Count
    symbol_rate_hz: Positive
    deadline_s: Positive


class CodecSize(_Table):
    """The size of this class's channel encoder: tokens per image, width of a token, and number of blocks."""

    tokens: Count
    width: Count
    depth: Count


class Source(_Table):
    """Where numbers come from.

    Attributes:
        numbers: The keys of ``[hardware]``, ``[energy]`` and ``[link]`` that it stands for, as ``table.key``.
        kind: ``datasheet`` (the maker's own), ``standard``, ``published`` (by others), or
            ``assumption`` (ours, with the reason).
        text: The citation or the reason.
    """

    numbers: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    kind: Literal["datasheet", "standard", "published", "assumption"]
    text: Text


class DeviceClass(_Table):
    """A class of devices: hardware, this task's share of it, link, and the size of the channel encoder.

    Attributes:
        name: Letters, digits, _ and -; it becomes part of folder names.
        description: One or two sentences.
        hardware: The table ``[hardware]``.
        share: The table ``[share]``.
        link: The table ``[link]``.
        codec: The table ``[codec]``.
        energy: The table ``[energy]``; optional: without it energy is no cost.
        latency_table: Path of a CSV file with the seconds of each operation, in place of the roofline
            (``kdnas.cost.latency`` says what it holds); in a TOML file relative to that file.
        latency_missing: What becomes of an operation that the table lacks: it is refused (``error``), or has the
            roofline's latency (``roofline``).
        notes: The table ``[notes]``; optional.
        sources: The tables ``[[sources]]``; optional for a user's own device.

    Raises:
        pydantic.ValidationError: Built by hand from wrong values (`load_device` raises ``InputError``).
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9_-]*$")]
    description: Text
    hardware: Hardware
    share: Share
    link: Radio
    codec: CodecSize
    energy: Energy | None = None
    latency_table: Text | None = None
    latency_missing: Literal["error", "roofline"] = "error"
    notes: Notes = Notes()
    sources: Annotated[tuple[Source, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.link.snr_db[0] > self.link.snr_db[1]:
            _refuse("link.snr_db", f"is [low, high], not {list(self.link.snr_db)}")
        if self.window_s <= 0:
            _refuse("link.deadline_s", "leaves no time to compute: it must exceed symbols / symbol_rate_hz")
        if not self.share.model_dump(exclude_none=True):
            _refuse("share", "limits nothing: give at least one of " + ", ".join(Share.model_fields))
        if self.share.sram_bytes and self.hardware.sram_bytes is None:
            _refuse("share.sram_bytes", "needs hardware.sram_bytes")
        if self.share.flash_bytes and self.hardware.flash_bytes is None:
            _refuse("share.flash_bytes", "needs hardware.flash_bytes")
        if self.share.params and self.hardware.weight_bytes is None and self.hardware.flash_bytes is None:
            _refuse("share.params", "needs hardware.weight_bytes or hardware.flash_bytes")
        if self.share.energy_j and (self.energy is None or self.energy.image_j is None):
            _refuse("share.energy_j", "needs energy.image_j")
        if self.latency_missing == "roofline" and self.latency_table is None:
            _refuse("latency_missing", "needs latency_table")
        for key, value in self.budgets.items():
            if value <= 0:
                _refuse(f"share.{key}", "leaves a budget of less than one")
        tables = {"hardware": self.hardware, "energy": self.energy, "link": self.link}
        stated = {f"{name}.{key}" for name, table in tables.items() if table for key in table.model_fields_set}
        for index, source in enumerate(self.sources):
            for number in set(source.numbers) - stated:
                _refuse(f"sources.{index}.numbers", f"names {number!r}, which this file does not give")
        return self

    @property
    def window_s(self) -> float:
        """Seconds of the deadline that are left when the longest message has been sent."""
        return self.link.deadline_s - self.link.symbols / self.link.symbol_rate_hz

    @property
    def budgets(self) -> dict[CostKey, float]:
        """The budgets of the transmitter (encoder and channel encoder); a cost without a limit has no key.

        Each is a limit of the hardware times the share of this task, counts rounded down:

        - ``params``: weights. The memory that holds them while the network runs (``weight_bytes``, or
          ``flash_bytes`` where that is not given) x the share, since an int8 weight takes one byte.
        - ``macs``: multiply-accumulates per image. ``macs_per_s`` x the latency budget x the share: the work
          that fits into the time, less the part of it in which the core sleeps, waits for memory, or
          dispatches. Where latency has no share, the whole of ``window_s`` counts.
        - ``sram_bytes``: peak bytes of int8 activations. ``hardware.sram_bytes`` x the share.
        - ``flash_bytes``: bytes of the stored network with its scales. ``hardware.flash_bytes`` x the share.
        - ``latency_s``: seconds of computing per image. ``window_s``, the deadline less
          ``symbols / symbol_rate_hz``, x the share.
        - ``energy_j``: joules per image, of computing and of sending all symbols. ``energy.image_j`` x the share.
        """
        hardware, share = self.hardware, self.share
        weight_bytes = hardware.weight_bytes or hardware.flash_bytes
        latency_s = self.window_s * (share.latency_s or 1)
        budgets: dict[CostKey, float] = {}
        if share.params and weight_bytes:
            budgets["params"] = int(weight_bytes * share.params)
        if share.macs:
            budgets["macs"] = int(hardware.macs_per_s * latency_s * share.macs)
        if share.sram_bytes and hardware.sram_bytes:
            budgets["sram_bytes"] = int(hardware.sram_bytes * share.sram_bytes)
        if share.flash_bytes and hardware.flash_bytes:
            budgets["flash_bytes"] = int(hardware.flash_bytes * share.flash_bytes)
        if share.latency_s:
            budgets["latency_s"] = latency_s
        if share.energy_j and self.energy and self.energy.image_j:
            budgets["energy_j"] = self.energy.image_j * share.energy_j
        return budgets

    def latency_s(self, macs: Any, bytes_moved: Any, operations: Any = 1) -> Any:
        """Roofline per operation: max(macs / macs_per_s, bytes / bytes_per_s) + operations x overhead.

        Plain arithmetic, so numbers, numpy arrays and tensors (with gradients) all do; a network's latency is
        the sum. Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009; the overhead is ours.

        Args:
            macs: Multiply-accumulates per operation, any shape.
            bytes_moved: Bytes read and written per operation (weights and activations), the same shape.
            operations: How many operations an entry stands for: 1, 0 if it is not run, or its probability.

        Returns:
            Seconds, in the shape of the arguments.
        """
        compute_s, memory_s = macs / self.hardware.macs_per_s, bytes_moved / self.hardware.bytes_per_s
        bound = compute_s >= memory_s  # max() written so that one formula serves every array library
        return compute_s * bound + memory_s * (1 - 1 * bound) + operations * self.hardware.op_overhead_s

    def spent(self, macs: float, symbols: float) -> Spent | None:
        """Seconds at ``macs_per_s`` and joules for this work; None without the table ``[energy]``.

        Args:
            macs: Multiply-accumulates.
            symbols: Complex symbols sent.
        """
        if self.energy is None:
            return None
        return spent(
            macs, symbols, clock_hz=self.energy.clock_hz, kappa=self.energy.kappa, tx_power_w=self.energy.tx_power_w,
            cycles_per_mac=self.energy.clock_hz / self.hardware.macs_per_s, symbol_rate_hz=self.link.symbol_rate_hz,
        )  # fmt: skip

    @property
    def hash(self) -> str:
        """16 hex digits of all that acts on a result: name, numbers, the latency table's content; no words."""
        acts = {"name", "hardware", "share", "link", "codec", "energy", "latency_missing"}
        # What is no text is refused, by its name, when it is read as a table.
        table = Path(self.latency_table).read_text(encoding="utf-8", errors="replace") if self.latency_table else None
        return hash_of(self.model_dump(mode="json", include=acts), table)


def _refuse(key: str, reason: str) -> None:
    raise PydanticCustomError("device", "{reason}", {"key": key, "reason": reason})
