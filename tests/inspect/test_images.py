"""Images that the page shows: recognised by their bytes, with a limit for their pixels."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.inspect import limits
from quictunnel.inspect.images import Image, recognise

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 300, 200) + b"\x08\x06\x00\x00\x00"
GIF = b"GIF89a" + struct.pack("<HH", 300, 200) + b"\x00\x00\x00"
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc4\x00\x02\xff\xc2\x00\x11\x08" + struct.pack(">HH", 200, 300) + b"\x03"
)
VP8X = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (299).to_bytes(3, "little") + (199).to_bytes(3, "little")
VP8L = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + (299 | 199 << 14).to_bytes(4, "little") + bytes(8)
VP8 = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 300, 200)


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (PNG, "image/png"),
        (GIF, "image/gif"),
        (JPEG, "image/jpeg"),
        (VP8X, "image/webp"),
        (VP8L, "image/webp"),
        (VP8, "image/webp"),
    ],
)
def test_type_and_size(data: bytes, media: str):
    image = recognise(data)
    assert image == (media, 300, 200)
    assert image is not None
    assert image.is_small


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89",
        PNG[:20],
        JPEG[:12],
        VP8[:20],
        b"\xff\xd8\xff" * 9,
    ],
)
def test_other_data_is_no_image(data: bytes):
    assert recognise(data) is None


def test_segments_before_the_size_are_limited():
    segment = b"\xff\xe1\x00\x02"
    assert recognise(b"\xff\xd8" + segment * (limits.MAX_SEGMENTS - 1) + JPEG[13:]) is not None
    assert recognise(b"\xff\xd8" + segment * limits.MAX_SEGMENTS + JPEG[13:]) is None


@pytest.mark.parametrize(
    ("width", "height", "is_small"),
    [(4096, 4096, True), (4097, 4096, False), (65535, 65535, False), (0, 5, False)],
)
def test_pixels_are_limited(width: int, height: int, is_small: bool):
    assert Image("image/png", width, height).is_small == is_small


@settings(deadline=None)
@given(st.sampled_from([PNG, GIF, JPEG, VP8X, VP8L, VP8, b""]), st.integers(0, 30), st.binary(max_size=40))
def test_any_bytes_are_looked_at_without_an_error(data: bytes, cut: int, more: bytes):
    recognise(data[:cut] + more)
