import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.errors import InputError
from kdnas.export import pack, unpack

reals = st.floats(width=32, allow_nan=False, allow_infinity=False)
codes = st.lists(st.tuples(reals, reals), min_size=1, max_size=70)


@given(codes, reals, st.none() | reals)
def test_what_was_packed_is_unpacked_to_the_bit(
    code: list[tuple[float, float]], snr_db: float, effective: float | None
) -> None:
    pairs = np.array(code, np.float32)
    symbols = pairs.view(np.complex64)[:, 0]
    data = pack(symbols, snr_db, effective)
    assert data == pack(pairs, snr_db, effective) and len(data) == 16 + 8 * len(code)
    frame = unpack(data)
    assert frame.symbols.dtype == np.complex64 and frame.symbols.tobytes() == symbols.tobytes()
    assert (frame.snr_db, frame.effective_snr_db) == (snr_db, snr_db if effective is None else effective)
    each = pack(symbols, snr_db, pairs[:, 0])
    assert len(each) == 12 + 12 * len(code)
    frame = unpack(each)
    assert frame.symbols.tobytes() == symbols.tobytes() and frame.snr_db == snr_db
    assert np.array_equal(frame.effective_snr_db, pairs[:, 0])


def test_the_bytes_are_those_of_the_description() -> None:
    data = pack([1 - 2j, 0.5 + 0j], 10.0, 7.5)
    payload = struct.pack("<ffff", 1.0, -2.0, 0.5, 0.0)
    assert data == b"KDNS" + struct.pack("<BBHff", 1, 0, 2, 10.0, 7.5) + payload
    frame = unpack(data)
    assert frame.symbols.tolist() == [1 - 2j, 0.5] and (frame.snr_db, frame.effective_snr_db) == (10.0, 7.5)
    data = pack([1 - 2j, 0.5 + 0j], 10.0, [7.5, -120.0])
    assert data == b"KDNS" + struct.pack("<BBHfff", 1, 1, 2, 10.0, 7.5, -120.0) + payload


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(InputError):
        unpack(b"\0" + data)
    for beginning in (b"KDNS", b"KDNS\x01\x00", b"KDNS\x01\x01\x02\x00"):
        try:
            frame = unpack(beginning + data)
        except InputError:
            continue
        assert pack(frame.symbols, frame.snr_db, frame.effective_snr_db) == beginning + data


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d[:-1], "has 32 bytes"),
        (lambda d: d + b"\0", "has 32 bytes"),
        (lambda d: d[:10], "no frame"),
        (lambda d: d[:4] + b"\x02" + d[5:], "version 2"),
        (lambda d: d[:5] + b"\x02" + d[6:], "version 1.2"),
        (lambda d: d[:5] + b"\x01" + d[6:], "has 36 bytes"),
        (lambda d: d[:6] + b"\0\0" + d[8:16], "frame of 0 symbols"),
        (lambda d: d[:16] + struct.pack("<f", float("nan")) + d[20:], "not finite"),
    ],
)
def test_a_damaged_frame_is_named(change, word: str) -> None:
    with pytest.raises(InputError, match=word):
        unpack(change(pack([1j, 1.0], 3.0)))


@pytest.mark.parametrize("symbols", [[], [[1j, 2j]], [[1.0, 2.0, 3.0]], 1j, [float("inf")], [1e300], np.ones(65_536)])
def test_what_makes_no_frame_is_refused(symbols: object) -> None:
    with pytest.raises(InputError, match="frame"):
        pack(symbols, 3.0)
    with pytest.raises(InputError, match="finite"):
        pack([1j], float("nan"))
    with pytest.raises(InputError, match="1 or 2 effective"):
        pack([1j, 1.0], 0.0, [1.0])
