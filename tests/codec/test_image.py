"""JPEG and WebP without headers: what is counted is what must be sent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.codec.image import MODE_BITS, NEVER, RUNGS, Rung, decode, encode, make_ladder, payload_bytes


def pictures(n=3, channels=1, side=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(n, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")
    return (255 * smooth).to(torch.uint8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), rung=st.sampled_from([rung for rung in RUNGS if rung.codec == "JPEG"]))
def test_a_jpeg_is_its_payload_in_headers_that_another_image_has_too(seed, rung):
    ours, other = (one.permute(1, 2, 0).numpy() for one in pictures(2, seed=seed))
    file, foreign = encode(ours, rung), encode(other, rung)
    payload = file[len(file) - 2 - payload_bytes(file) : -2]
    headers = foreign[: len(foreign) - 2 - payload_bytes(foreign)]
    assert np.array_equal(decode(headers + payload + b"\xff\xd9", ours.shape), decode(file, ours.shape))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_webp_is_riff_and_frame_headers_and_its_payload(channels):
    image = pictures(1, channels)[0].permute(1, 2, 0).numpy()
    file = encode(image, Rung("WEBP", 1, 50))
    assert file[:4] == b"RIFF" and file[8:16] == b"WEBPVP8 "
    assert file[23:26] == b"\x9d\x01\x2a"  # the start code after the 3 bytes of the frame tag (RFC 6386, 9.1)
    assert 0 <= len(file) - 30 - payload_bytes(file) <= 1  # a chunk of odd length is padded


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 33)])
def test_a_ladder_rises_in_bits_and_falls_in_error(channels, side):
    images = pictures(3, channels, side)
    ladder, decoded = make_ladder(images)
    assert ladder.bits.shape == ladder.rungs.shape
    for number, image in enumerate(images):
        kept = ladder.rungs[number] >= 0
        bits, rungs = ladder.bits[number][kept].tolist(), ladder.rungs[number][kept].tolist()
        assert (ladder.bits[number][~kept] == NEVER).all() and bits == sorted(set(bits))
        errors = [float((decoded[rung][number].float() - image.float()).square().mean()) for rung in rungs]
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
        file = encode(image.permute(1, 2, 0).numpy(), RUNGS[rungs[0]])
        assert bits[0] == 8 * payload_bytes(file) + MODE_BITS
