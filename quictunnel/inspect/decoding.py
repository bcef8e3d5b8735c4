"""Bodies as a person can read them: content codings undone within a bound, text told from bytes."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Final

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Sequence

ZLIB_OR_GZIP: Final = 32 + 15
RAW_DEFLATE: Final = -15
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_TEXT_CONTROLS: Final = frozenset("\t\n\r\f\x1b")


def decoded(body: bytes, encodings: Sequence[bytes]) -> tuple[bytes, str]:
    """The body without its content codings, at most ``limits.MAX_DECODED`` of it, and a word about it."""
    codings = [word.strip().lower() for word in b",".join(encodings).decode("latin-1").split(",")]
    codings = [word for word in codings if word not in ("", "identity")]
    if not codings:
        return body, ""
    if len(codings) > limits.MAX_CODINGS or not _INFLATED.issuperset(codings):
        return body, f"Content-Encoding {', '.join(codings)[:80]}: shown as it came."
    is_cut = False
    for coding in reversed(codings):
        try:
            body, was_cut = _inflated(body, coding)
        except zlib.error:
            return body, "The content coding is not what the header says; shown as it came."
        is_cut = is_cut or was_cut
    cut = f" Only the first {limits.MAX_DECODED} bytes of what it becomes are shown." if is_cut else ""
    return body, f"Content-Encoding {', '.join(codings)}: undone.{cut}"


def _inflated(body: bytes, coding: str) -> tuple[bytes, bool]:
    """What it becomes, and whether it would be more. Raises zlib.error."""
    stream = zlib.decompressobj(ZLIB_OR_GZIP)
    try:
        made = stream.decompress(body, limits.MAX_DECODED)
    except zlib.error:
        if coding != "deflate":
            raise
        stream = zlib.decompressobj(RAW_DEFLATE)  # some leave zlib's frame out (RFC 9110 section 8.4.1.2)
        made = stream.decompress(body, limits.MAX_DECODED)
    return made, bool(stream.unconsumed_tail)


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
