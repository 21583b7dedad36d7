"""Which prefix to send: a table of accuracies, measured once, and the shortest length that meets what is wanted."""

from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

from kdnas.errors import InputError


class Choice(NamedTuple):
    """A length, and what may be expected of it.

    Attributes:
        symbols: k', complex symbols to send.
        accuracy: The table's bound of the accuracy there, in [0, 1]; 0 where the SNR is below all of the table.
        met: Whether all that was wanted is met.
    """

    symbols: int
    accuracy: float
    met: bool


class AccuracyTable:
    """Lower bounds of the accuracy of one link by channel, SNR and length.

    What it says never exceeds a measurement and is monotone, as chance may not be: an SNR between two of the table
    counts as the lower one, and at each SNR and length the least of all higher SNRs and longer prefixes counts.

    Args:
        rows: Mappings with ``channel``, ``snr_db``, ``symbols``, ``accuracy`` and ``ci95`` (half-width of its 95 %
            interval); every channel has the same SNRs and lengths.
        confidence: Of the bounds, in (0, 1); 0.5 takes the accuracies as they are.

    Raises:
        InputError: No rows, a point twice, or one missing.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], confidence: float = 0.8) -> None:
        rows, errors = list(rows), NormalDist().inv_cdf(confidence) / NormalDist().inv_cdf(0.975)
        at = {
            (row["channel"], float(row["snr_db"]), int(row["symbols"])): max(
                0.0, row["accuracy"] - errors * row["ci95"]
            )
            for row in rows
        }
        self.channels = list(dict.fromkeys(row["channel"] for row in rows))
        self.snrs_db = sorted({snr_db for _, snr_db, _ in at})
        self.lengths = sorted({symbols for _, _, symbols in at})
        if not rows or len(at) != len(rows) or len(at) != len(self.channels) * len(self.snrs_db) * len(self.lengths):
            raise InputError("the adaptation table needs every channel at every SNR and length, each point once")
        self._at: dict[tuple[str, float, int], float] = {}
        for channel in self.channels:
            for i, snr_db in reversed(list(enumerate(self.snrs_db))):
                for j, symbols in reversed(list(enumerate(self.lengths))):
                    above = [self._at[channel, s, symbols] for s in self.snrs_db[i + 1 : i + 2]]
                    longer = [self._at[channel, snr_db, n] for n in self.lengths[j + 1 : j + 2]]
                    self._at[channel, snr_db, symbols] = min(at[channel, snr_db, symbols], *above, *longer, 1.0)

    def accuracy(self, snr_db: float, symbols: int, channel: str | None = None) -> float:
        """The bound of the accuracy at an average SNR in dB and a length; 0 below the table.

        Args:
            snr_db: Any number.
            symbols: Any number from 1: a length between two of the table counts as the shorter one.
            channel: One of the table's; None takes the worst.

        Raises:
            InputError: An unknown channel.
        """
        if channel is not None and channel not in self.channels:
            raise InputError(f"the link has no adaptation table for {channel!r}: choose {', '.join(self.channels)}")
        snrs = [at for at in self.snrs_db if at <= snr_db]
        lengths = [at for at in self.lengths if at <= symbols]
        if not snrs or not lengths:
            return 0.0
        return min(self._at[name, snrs[-1], lengths[-1]] for name in ([channel] if channel else self.channels))

    def choose(
        self, snr_db: float, channel: str | None = None, *, min_accuracy: float | None = None, most: int | None = None
    ) -> Choice:
        """The shortest length of the table that meets ``min_accuracy``.

        Args:
            snr_db: Average SNR in dB.
            channel: As in ``accuracy``.
            min_accuracy: What is wanted, in [0, 1]; None: the best that can be had within ``most``, which below the
                table's SNRs, where it says nothing, is taken to be the longest.
            most: The most symbols that there is time for; None: as many as the table knows.

        Returns:
            The length; where none is accurate enough the longest that there is time for (at least one symbol), and
            ``met`` is false.
        """
        fitting = [n for n in self.lengths if most is None or n <= most]
        if most is not None and not fitting:
            return Choice(max(1, most), 0.0, most >= 1 and min_accuracy is None)
        wanted = self.accuracy(snr_db, fitting[-1], channel) if min_accuracy is None else min_accuracy
        if min_accuracy is None and snr_db < self.snrs_db[0]:
            return Choice(fitting[-1], 0.0, True)
        for symbols in fitting:
            if (found := self.accuracy(snr_db, symbols, channel)) >= wanted:
                return Choice(symbols, found, True)
        return Choice(fitting[-1], self.accuracy(snr_db, fitting[-1], channel), False)
