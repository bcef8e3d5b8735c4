"""Recognition of the raster images that the page shows: by their first bytes, with their size in pixels.

A browser decodes the whole image, so a small file could use any amount of its memory. Only types whose size is
known before are shown. SVG is not one of them: it is a document with scripts and links, and is shown as text.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from quictunnel.inspect import limits

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG segments with the size of the image (ITU-T T.81, table B.1)."""


class Image(NamedTuple):
    """Recognised image."""

    media_type: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        """True if a browser can decode the image without much memory."""
        return 0 < self.width * self.height <= limits.MAX_PIXELS


def recognise(data: bytes) -> Image | None:
    """Return type and size of a PNG, GIF, JPEG or WebP image; None for other data."""
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        return Image("image/png", _big(data, 16, 4), _big(data, 20, 4))
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return Image("image/gif", _little(data, 6, 2), _little(data, 8, 2))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Image | None:
    at = 2
    for _ in range(limits.MAX_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _JPEG_SIZES:
            return Image("image/jpeg", _big(data, at + 7, 2), _big(data, at + 5, 2))
        at += 1 if marker == 0xFF else 2 + _big(data, at + 2, 2)  # 0xFF: a fill byte
    return None


def _webp(data: bytes) -> Image | None:
    """Return the size of a WebP image (RFC 9649 section 2)."""
    match data[12:16]:
        case b"VP8X":
            return Image("image/webp", 1 + _little(data, 24, 3), 1 + _little(data, 27, 3))
        case b"VP8L":
            bits = _little(data, 21, 4)
            return Image("image/webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        case b"VP8 ":
            return Image("image/webp", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF)
    return None


def _big(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
