"""Variable-length integers (RFC 9000 section 16), without a buffer object."""

from __future__ import annotations

_SMALL = [bytes((value,)) for value in range(64)]


def encode(value: int) -> bytes:
    """Return the shortest encoding of ``value``."""
    if value < 0x40:
        return _SMALL[value]
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
