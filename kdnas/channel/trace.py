"""A measured trace drives the channel: a CSV file of SNRs, and perhaps of complex gains, by time."""

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from kdnas.channel.fading import Fading
from kdnas.channel.noise import Randomness, uniform
from kdnas.errors import InputError

COLUMNS = ("snr_db", "h_re", "h_im")


@dataclass(frozen=True)
class Trace:
    """Gains out of a file, each row equally likely.

    A row's gain is sqrt(SNR) h over a factor that makes E|gain|^2 = 1 (h = 1 where the file has none). The
    trace thus shapes the fading, and the link's SNR sets its mean: at ``mean_snr_db`` it is as it was measured.
    The mean gain is turned to phase 0, which a receiver tracks.

    Attributes:
        gains: (R,) complex64, by row.
        mean: E h, real.
        mean_snr_db: SNR in dB of the mean received power of the trace.
        fading: ``block``: a code word meets one row; ``fast``: its symbols meet one row after the other, from one
            that is drawn; after the last comes the first.
    """

    gains: Tensor
    mean: float
    mean_snr_db: float
    fading: Fading = "block"

    @property
    def variance(self) -> float:
        """E|h - E h|^2."""
        return max(0.0, 1 - self.mean**2)

    def draw(self, batch: int, symbols: int, generator: Randomness) -> Tensor:
        """(B, 1) or (B, k) complex64 (see ``Law.draw``)."""
        level = uniform(generator, batch, 1, stream="fading")
        rows = (level * len(self.gains)).long().clamp_max(len(self.gains) - 1)  # (B, 1)
        if self.fading == "fast":
            rows = (rows + torch.arange(symbols, device=rows.device)) % len(self.gains)  # (B, k)
        return self.gains.to(rows.device)[rows]


def read_trace(path: str | Path, fading: Fading = "block") -> Trace:
    """Read a trace: a CSV file with the column ``snr_db``, or with it ``h_re`` and ``h_im``; others are ignored.

    Args:
        path: Of the file; its first line names the columns.
        fading: As in ``Trace``.

    Raises:
        InputError: It cannot be read, lacks a column or has no rows, or a line has no number; named with the line.
    """
    path = Path(path)
    try:
        told = path.stat()
    except OSError as error:
        raise InputError(f"cannot read the trace {path}: {error.strerror}") from None
    return Trace(*_read(path, told.st_mtime_ns, told.st_size), fading)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> tuple[Tensor, float, float]:
    """Gains, their mean, and the mean SNR in dB; read again only when the file has changed."""
    snr_db, h = _columns(path)
    gains = torch.pow(10.0, snr_db / 20) * h  # (R,) complex128
    power, mean = float(gains.abs().square().mean()), gains.mean()
    if power == 0:
        raise InputError(f"{path}: h_re and h_im are 0 in every row: a trace needs a signal")
    turned = gains * torch.polar(torch.ones_like(mean.real), -mean.angle()) / math.sqrt(power)
    return turned.to(torch.complex64), float(mean.abs()) / math.sqrt(power), 10 * math.log10(power)


def _columns(path: Path) -> tuple[Tensor, Tensor]:
    """SNRs in dB (R,) float64, and h (R,) complex128."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, skipinitialspace=True)
            names = [name.strip() for name in lines.fieldnames or ()]
            lines.fieldnames = names
            if "snr_db" not in names or ("h_re" in names) != ("h_im" in names):
                raise InputError(
                    f"{path}: line 1: a trace has the column snr_db, or snr_db, h_re and h_im, not {', '.join(names)}"
                )
            columns = [name for name in COLUMNS if name in names]
            rows = [[_number(row[name], f"{path}: line {lines.line_num}: {name}") for name in columns] for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file of text: {error}") from None
    if not rows:
        raise InputError(f"{path}: the trace has no rows below its column names")
    table = torch.tensor(rows, dtype=torch.float64)
    h = torch.complex(table[:, 1], table[:, 2]) if len(columns) == 3 else torch.ones(len(rows), dtype=torch.complex128)
    return table[:, 0], h


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not abs(value) <= 1000:
        raise InputError(f"{where} should be a number from -1000 to 1000, not {(text or '')[:40]!r}")
    return value
