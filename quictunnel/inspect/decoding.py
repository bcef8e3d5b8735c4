"""Bodies as a person can read them: content codings undone within a bound, text told from bytes."""

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
RAW_DEFLATE: Final = -15
MAX_WINDOW: Final = 8 * 1024 * 1024
"""Bytes that a body in zstd may have the decoder keep; what RFC 9659 allows in HTTP."""
_TEXT_CONTROLS: Final = frozenset("\t\n\r\f\x1b")


def decoded(body: bytes, encodings: Sequence[bytes]) -> tuple[bytes, str]:
    """The body without its content codings, at most ``limits.MAX_DECODED`` of it, and a word about it."""
    codings = [word.strip().lower() for word in b",".join(encodings).decode("latin-1").split(",")]
    codings = [word for word in codings if word not in ("", "identity")]
    if not codings:
        return body, ""
    if len(codings) > limits.MAX_CODINGS or not _UNDO.keys() >= set(codings):
        return body, f"Content-Encoding {', '.join(codings)[:80]}: shown as it came."
    is_cut = False
    for coding in reversed(codings):
        try:
            body = _UNDO[coding](body)
        except (zlib.error, brotli.error, zstandard.ZstdError):
            return body, "The content coding is not what the header says; shown as it came."
        is_cut = is_cut or len(body) > limits.MAX_DECODED
        body = body[: limits.MAX_DECODED]
    cut = f" Only the first {limits.MAX_DECODED} bytes of what it becomes are shown." if is_cut else ""
    return body, f"Content-Encoding {', '.join(codings)}: undone.{cut}"


# Each makes at least a byte more than may be shown where there are more, and not much more than that.


def _gzip(body: bytes) -> bytes:
    return zlib.decompressobj(ZLIB_OR_GZIP).decompress(body, limits.MAX_DECODED + 1)


def _deflate(body: bytes) -> bytes:
    try:
        return _gzip(body)
    except zlib.error:  # some leave zlib's frame out (RFC 9110 section 8.4.1.2)
        return zlib.decompressobj(RAW_DEFLATE).decompress(body, limits.MAX_DECODED + 1)


def _brotli(body: bytes) -> bytes:
    made: bytes = brotli.Decompressor().process(body, output_buffer_limit=limits.MAX_DECODED + 1)
    return made


def _zstd(body: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
        return reader.read(limits.MAX_DECODED + 1)


_UNDO: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}


def shown(data: bytes, content_type: bytes = b"", *, is_cut: bool = False) -> dict[str, str]:
    """``{"text": ...}``, or ``{"base64": ...}`` of what is no text. ``is_cut``: the end is missing, perhaps in the
    middle of a character."""
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
