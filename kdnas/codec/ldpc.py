"""Bits through 5G LDPC and QAM, by Sionna (extra ``baselines``): the digital radio to compare with."""

import math
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdnas.errors import InputError


class Mcs(NamedTuple):
    """A modulation and coding scheme.

    Attributes:
        bits: Of a symbol: 1 BPSK, 2 QPSK, 4, 6 and 8 QAM of 16, 64 and 256 points (Gray mapping).
        rate: Information bits over coded bits.
    """

    bits: int
    rate: Fraction

    @property
    def efficiency(self) -> float:
        """Information bits per complex symbol."""
        return float(self.bits * self.rate)

    @property
    def name(self) -> str:
        """For example ``16-QAM 2/3``."""
        return f"{ {1: 'BPSK', 2: 'QPSK'}.get(self.bits, f'{2**self.bits}-QAM') } {self.rate}"

    def payload(self, symbols: int) -> int:
        """Information bits in a block of so many symbols."""
        return math.ceil(symbols * self.bits * self.rate)


# From the lowest rate of 5G LDPC to the highest that SNRs up to 20 dB carry; one step is 1 to 3 dB.
MCS = tuple(
    Mcs(bits, Fraction(rate))
    for bits, rates in (
        (1, ("1/5",)), (2, ("1/5", "1/3", "1/2", "2/3")), (4, ("1/2", "2/3", "5/6")), (6, ("2/3", "3/4", "5/6")),
        (8, ("3/4", "5/6")),
    )
    for rate in rates
)  # fmt: skip
SHORTEST = 12  # information bits in a block of 5G LDPC


def sionna() -> Any:
    """The modules of Sionna that are needed.

    Raises:
        InputError: Sionna is not installed.
    """
    try:
        from sionna.phy import mapping
        from sionna.phy.fec import ldpc
    except ImportError as error:
        raise InputError(
            f"digital baselines need Sionna ({error}): pip install 'kdnas[baselines]', or name other baselines"
        ) from None
    return mapping, ldpc


class BlockCode:
    """One code word for each block of symbols.

    5G NR LDPC (3GPP TS 38.212, section 5.3.2) with rate matching and the interleaver of section 5.4.2.2, Gray-mapped
    QAM of unit average power over its points, exact demapping (``app``), 20 iterations of belief propagation.

    Args:
        mcs: Modulation and rate.
        symbols: Complex symbols of a block.

    Raises:
        InputError: Sionna is not installed, or the block holds fewer than ``SHORTEST`` information bits.
    """

    def __init__(self, mcs: Mcs, symbols: int) -> None:
        self.mcs, self.symbols, self.payload = mcs, symbols, mcs.payload(symbols)
        if self.payload < SHORTEST:
            raise InputError(f"{symbols} symbols of {mcs.name} hold {self.payload} bits; 5G LDPC needs {SHORTEST}")

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any, Any]:
        mapping, ldpc = sionna()
        bits = self.mcs.bits
        encoder = ldpc.LDPC5GEncoder(self.payload, self.symbols * bits, num_bits_per_symbol=bits, device="cpu")
        decoder = ldpc.LDPC5GDecoder(encoder, device="cpu")
        points = mapping.Constellation("pam" if bits == 1 else "qam", bits, device="cpu")
        mapper = mapping.Mapper(constellation=points, device="cpu")
        return encoder, decoder, mapper, mapping.Demapper("app", constellation=points, device="cpu")

    def encode(self, bits: Tensor) -> Tensor:
        """Information bits (B, payload), float32 0 or 1, to symbols (B, symbols) complex64."""
        encoder, _, mapper, _ = self._parts
        return mapper(encoder(bits))

    def decode(self, y: Tensor, snr_db: Tensor) -> Tensor:
        """Equalised symbols (B, symbols), of SNR in dB (B,), or (B, symbols), to information bits (B, payload)."""
        _, decoder, _, demapper = self._parts
        noise = torch.pow(10.0, -snr_db / 10).view(len(y), -1).expand(y.shape).contiguous()
        return decoder(demapper(y, noise))
