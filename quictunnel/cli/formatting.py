"""Formatting of sizes, rates and durations for people."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Format a number of bytes with at most four digits and a decimal unit (1 kB = 1000 B)."""
    if count < 1000:
        return f"{count:.0f} B"
    value = count / 1000
    for unit in _UNITS:
        # 999.5 would be rounded to four digits before the point.
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.{0 if value >= 99.95 else 1}f} {unit}"
        value /= 1000
    raise AssertionError("the last unit has no upper bound")


def rate(bytes_a_second: float) -> str:
    """Format a rate in bytes a second."""
    return f"{size(bytes_a_second)}/s"


def milliseconds(seconds: float) -> str:
    """Format seconds as milliseconds, with one decimal below 10 ms."""
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.00995 else f"{seconds * 1000:.1f} ms"


def elapsed(seconds: float) -> str:
    """Format the duration of a request: whole milliseconds, or seconds from one second on."""
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else span(seconds)


def count_of(count: int, noun: str) -> str:
    """Return a number with its noun: ``1 visitor``, ``8 visitors``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def span(seconds: float) -> str:
    """Format a duration in seconds in its largest unit."""
    for name, length in (("day", 86_400), ("hour", 3600), ("min", 60)):
        if seconds >= 2 * length or (name == "min" and seconds >= length):
            count = int(seconds // length)
            return f"{count} {name}{'s' if count != 1 and name != 'min' else ''}"
    return f"{max(0, int(seconds))} s"
