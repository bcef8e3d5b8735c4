"""Bodies as a person can read them, and what a compression bomb costs."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import pytest
import zstandard

from quictunnel.inspect import limits
from quictunnel.inspect.decoding import decode_body, text_or_base64

TEXT = b"a little text, " * 20
TWICE = gzip.compress(zlib.compress(TEXT), mtime=0)


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("body", "encodings", "expected", "note"),
    [
        (TEXT, [], TEXT, ""),
        (TEXT, [b"identity"], TEXT, ""),
        (gzip.compress(TEXT, mtime=0), [b"gzip"], TEXT, "Content-Encoding gzip: decoded."),
        (gzip.compress(TEXT, mtime=0), [b" X-GZIP "], TEXT, "Content-Encoding x-gzip: decoded."),
        (zlib.compress(TEXT), [b"deflate"], TEXT, "Content-Encoding deflate: decoded."),
        (raw_deflate(TEXT), [b"deflate"], TEXT, "Content-Encoding deflate: decoded."),
        (TWICE, [b"deflate, gzip"], TEXT, "Content-Encoding deflate, gzip: decoded."),
        (TWICE, [b"deflate", b"gzip"], TEXT, "Content-Encoding deflate, gzip: decoded."),
        (gzip.compress(TEXT, mtime=0)[:-20], [b"gzip"], None, "Content-Encoding gzip: decoded."),
        (b"", [b"gzip"], b"", "Content-Encoding gzip: decoded."),
        (brotli.compress(TEXT), [b"br"], TEXT, "Content-Encoding br: decoded."),
        (brotli.compress(TEXT)[:-8], [b"br"], None, "Content-Encoding br: decoded."),
        (zstandard.compress(TEXT), [b"zstd"], TEXT, "Content-Encoding zstd: decoded."),
        (zstandard.compress(TEXT) * 2, [b"zstd"], TEXT * 2, "Content-Encoding zstd: decoded."),
        (zstandard.compress(TEXT)[:-3], [b"zstd"], None, "Content-Encoding zstd: decoded."),
        (
            b"abcdefgh",
            [b"br"],
            b"abcdefgh",
            "The body does not have the content coding of its header; shown undecoded.",
        ),
        (
            b"abcdefgh",
            [b"zstd"],
            b"abcdefgh",
            "The body does not have the content coding of its header; shown undecoded.",
        ),
        (b"abc", [b"compress"], b"abc", "Content-Encoding compress: shown undecoded."),
        (b"abc", [b"gzip"], b"abc", "The body does not have the content coding of its header; shown undecoded."),
        (b"abc", [b"gzip,gzip,gzip,gzip"], b"abc", "Content-Encoding gzip, gzip, gzip, gzip: shown undecoded."),
    ],
    ids=range(20),
)
def test_codings(body: bytes, encodings: list[bytes], expected: bytes | None, note: str) -> None:
    found, said = decode_body(body, encodings)
    assert said == note
    assert found == expected if expected is not None else TEXT.startswith(found)


@pytest.mark.parametrize(
    ("bomb", "encoding"),
    [
        (gzip.compress(gzip.compress(bytes(200_000_000))), b"gzip, gzip"),
        (brotli.compress(bytes(50_000_000)), b"br"),
        (zstandard.compress(zstandard.compress(bytes(200_000_000))), b"zstd, zstd"),
    ],
    ids=["gzip", "br", "zstd"],
)
def test_a_bomb(bomb: bytes, encoding: bytes) -> None:
    assert len(bomb) < 2000
    tracemalloc.start()
    try:
        found, note = decode_body(bomb, [encoding])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == limits.MAX_DECODED
    assert f"first {limits.MAX_DECODED} decoded bytes" in note
    assert peak < 4 * limits.MAX_DECODED


def test_a_window_that_no_client_has_to_have_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    body = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    wide = body.compress(TEXT) + body.flush()
    assert decode_body(wide, [b"zstd"]) == (
        wide,
        "The body does not have the content coding of its header; shown undecoded.",
    )


@pytest.mark.parametrize(
    ("data", "media", "is_cut", "expected"),
    [
        (b"abc\r\n\t", b"", False, {"text": "abc\r\n\t"}),
        ("grüß".encode(), b"text/plain", False, {"text": "grüß"}),
        ("grüß".encode("latin-1"), b'text/plain; charset="ISO-8859-1"; x', False, {"text": "grüß"}),
        ("grüß".encode("latin-1"), b"", False, {"base64": "Z3L83w=="}),
        ("grü€".encode()[:-1], b"", True, {"text": "grü"}),
        ("grü€".encode()[:-1], b"", False, {"base64": "Z3LDvOKC"}),
        (b"\x00\x01", b"text/plain", False, {"base64": "AAE="}),
        (b"", b"", False, {"text": ""}),
    ],
)
def test_text_or_bytes(data: bytes, media: bytes, is_cut: bool, expected: dict[str, str]) -> None:
    assert text_or_base64(data, media, is_cut=is_cut) == expected
