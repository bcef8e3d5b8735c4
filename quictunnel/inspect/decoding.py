"""Decoding of bodies for display: content codings within a size limit, text or base64."""

from __future__ import annotations

import base64
import io
import zlib
from typing import TYPE_CHECKING, Final

import brotli  # type: ignore[import-untyped]  # it has no types
import zstandard

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ZLIB_OR_GZIP: Final = 32 + 15
"""``wbits`` of zlib for data with a zlib or gzip header."""
RAW_DEFLATE: Final = -15
"""``wbits`` of zlib for data without a header."""
MAX_WINDOW: Final = 8 * 1024 * 1024
"""Bytes of a zstd decoder's window: the limit of RFC 9659 for HTTP."""
_TEXT_CONTROLS: Final = frozenset("\t\n\r\f\x1b")


def decode_body(body: bytes, encodings: Sequence[bytes]) -> tuple[bytes, str]:
    """Decode a body.

    Args:
        body: the bytes as received.
        encodings: values of the Content-Encoding headers.

    Returns:
        At most ``limits.MAX_DECODED`` bytes, and a note about the decoding ("" without one).
    """
    codings = [coding.strip().lower() for coding in b",".join(encodings).decode("latin-1").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return body, ""
    if len(codings) > limits.MAX_CODINGS or not _DECODERS.keys() >= set(codings):
        return body, f"Content-Encoding {', '.join(codings)[:80]}: shown undecoded."
    is_cut = False
    for coding in reversed(codings):
        try:
            body = _DECODERS[coding](body)
        except (zlib.error, brotli.error, zstandard.ZstdError):
            return body, "The body does not have the content coding of its header; shown undecoded."
        is_cut = is_cut or len(body) > limits.MAX_DECODED
        body = body[: limits.MAX_DECODED]
    cut = f" Only the first {limits.MAX_DECODED} decoded bytes are shown." if is_cut else ""
    return body, f"Content-Encoding {', '.join(codings)}: decoded.{cut}"


# Each decoder returns at most a little more than MAX_DECODED bytes, and at least one more if there are more.


def _gzip(body: bytes) -> bytes:
    return zlib.decompressobj(ZLIB_OR_GZIP).decompress(body, limits.MAX_DECODED + 1)


def _deflate(body: bytes) -> bytes:
    try:
        return _gzip(body)
    except zlib.error:  # some servers omit the zlib header (RFC 9110 section 8.4.1.2)
        return zlib.decompressobj(RAW_DEFLATE).decompress(body, limits.MAX_DECODED + 1)


def _brotli(body: bytes) -> bytes:
    made: bytes = brotli.Decompressor().process(body, output_buffer_limit=limits.MAX_DECODED + 1)
    return made


def _zstd(body: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
        return reader.read(limits.MAX_DECODED + 1)


_DECODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}


def text_or_base64(data: bytes, content_type: bytes = b"", *, is_cut: bool = False) -> dict[str, str]:
    """Return ``{"text": ...}``, or ``{"base64": ...}`` for data that is not text.

    Args:
        data: the bytes.
        content_type: value of the Content-Type header, for its charset.
        is_cut: True if the end is missing, perhaps within a character.
    """
    text = _text(data, content_type, is_cut=is_cut)
    return {"base64": base64.b64encode(data).decode()} if text is None else {"text": text}


def _text(data: bytes, content_type: bytes, *, is_cut: bool) -> str | None:
    charset = content_type.lower().partition(b"charset=")[2].strip(b' "').partition(b";")[0].strip(b' "')
    if charset in (b"iso-8859-1", b"latin-1", b"latin1", b"windows-1252"):
        text = data.decode("cp1252", "replace")
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            if not is_cut or error.start < len(data) - 3:
                return None
            text = data[: error.start].decode()
    if any(character < " " and character not in _TEXT_CONTROLS for character in text):
        return None
    return text
