"""Amounts as a person reads them: bytes, rates, spans of time."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes for a person: at most four digits, decimal units as networks count."""
    if count < 1000:
        return f"{count:.0f} B"
    value = count / 1000
    for unit in _UNITS:
        # 999.5 would be rounded up to a fourth digit before the point.
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.{0 if value >= 99.95 else 1}f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes everything")


def rate(bytes_a_second: float) -> str:
    return f"{size(bytes_a_second)}/s"


def milliseconds(seconds: float) -> str:
    """A round trip: whole milliseconds, and tenths where those say nothing."""
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.00995 else f"{seconds * 1000:.1f} ms"


def span(seconds: float) -> str:
    """How long something lasts, in its largest unit."""
    for name, length in (("day", 86_400), ("hour", 3600), ("min", 60)):
        if seconds >= 2 * length or (name == "min" and seconds >= length):
            count = int(seconds // length)
            return f"{count} {name}{'s' if count != 1 and name != 'min' else ''}"
    return f"{max(0, int(seconds))} s"
