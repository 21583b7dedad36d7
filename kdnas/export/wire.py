"""The wire format of symbols: what a transmitter program hands to its radio, and a radio to the receiver program.

A frame holds the symbols of one image, all little-endian::

    bytes  content
        4  "KDNS"
        1  unsigned: version of the format, 1
        1  unsigned: what the effective SNR is, 0: one number for all symbols; 1: one for each
        2  unsigned: k', the complex symbols of the image, 1 ... 65535
        4  float32: SNR in dB that the transmitter encoded for
  4 or 4k'  float32: effective SNR in dB of the symbols in the frame (``Channel.equalise``); at the transmitter, and
           where no fading made it another, the SNR encoded for
      8k'  float32: I of the first symbol, Q of the first, I of the second, and so on

The symbols stand in the order in which they are sent, and their mean power is 1 at the transmitter: each image was
encoded for its length. In the air only symbols travel: a receiver learns k' and the SNR encoded for by other means
(they are agreed, or a control channel carries them, 6 bytes for an image), and estimates the effective SNR itself.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kdnas.errors import InputError

VERSION = 1
_HEADER = struct.Struct("<4sBBHf")
_MAGIC = b"KDNS"
MOST_SYMBOLS = 65_535


class Frame(NamedTuple):
    """The content of a frame.

    Attributes:
        symbols: (k',) complex64.
        snr_db: SNR in dB that the transmitter encoded for.
        effective_snr_db: SNR in dB of ``symbols``: a number, or (k',) float32.
    """

    symbols: np.ndarray
    snr_db: float
    effective_snr_db: float | np.ndarray


def pack(symbols: ArrayLike, snr_db: float, effective_snr_db: ArrayLike | None = None) -> bytes:
    """One image's symbols as a frame.

    Args:
        symbols: (k',) complex, or (k', 2) real numbers, I and Q, as ``transmitter.onnx`` gives them (cut to the length
            sent).
        snr_db: SNR in dB that they were encoded for.
        effective_snr_db: SNR in dB of the symbols, a number or (k',); None: ``snr_db``.

    Raises:
        InputError: Another shape, no or too many symbols, or what is not finite as float32.
    """
    values = np.asarray(symbols)
    if values.ndim == 1:
        values = np.stack([values.real, values.imag], 1)
    if values.ndim != 2 or values.shape[1] != 2 or np.iscomplexobj(values):
        raise InputError(f"a frame holds (k',) complex symbols or (k', 2) I and Q, not the shape {np.shape(symbols)}")
    if not 1 <= len(values) <= MOST_SYMBOLS:
        raise InputError(f"a frame holds 1 to {MOST_SYMBOLS:,} symbols, not {len(values):,}")
    effective = np.asarray(snr_db if effective_snr_db is None else effective_snr_db)
    if effective.shape not in ((), (len(values),)):
        raise InputError(f"a frame of {len(values)} symbols has 1 or {len(values)} effective SNRs")
    with np.errstate(over="ignore"):
        reals = [part.astype("<f4") for part in (np.asarray(snr_db), effective, values)]
    if not all(np.isfinite(part).all() for part in reals):
        raise InputError("symbols and SNRs of a frame must be finite float32 numbers")
    header = _HEADER.pack(_MAGIC, VERSION, effective.ndim, len(values), float(reals[0]))
    return header + reals[1].tobytes() + reals[2].tobytes()


def unpack(data: bytes) -> Frame:
    """The content of a frame.

    Raises:
        InputError: It is no frame, of another version, cut or followed by more, or holds what is not finite.
    """
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise InputError(f"no frame of symbols: it must begin with {_MAGIC.decode()} and a header of 12 bytes")
    _, version, each, length, snr_db = _HEADER.unpack_from(data)
    if version != VERSION or each > 1:
        raise InputError(f"a frame of version {version}.{each}: this kdnas reads {VERSION}.0 and {VERSION}.1")
    snrs = length if each else 1
    size = _HEADER.size + 4 * snrs + 8 * length
    if length == 0 or len(data) != size:
        raise InputError(f"a frame of {length} symbols has {size} bytes (not {len(data)})")
    numbers = np.frombuffer(data, "<f4", offset=_HEADER.size).astype(np.float32)
    if not (np.isfinite(numbers).all() and np.isfinite(snr_db)):
        raise InputError("a frame holds numbers that are not finite: it is damaged")
    return Frame(numbers[snrs:].view(np.complex64), snr_db, numbers[:snrs] if each else float(numbers[0]))
