"""Permissions of tokens as people write them: in ``python -m edge_server token`` and on the operator's page."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_ports as parse_port_range
from quictunnel.shared.address import short_repr
from quictunnel.wire.labels import domain_validation_error, validation_error

if TYPE_CHECKING:
    from collections.abc import Callable

RATE_UNITS: Final = {"": 1, "k": 1000, "M": 1_000_000, "G": 1_000_000_000}
"""Factors of the suffixes of a rate."""
MIN_BANDWIDTH: Final = 1000
"""Bytes a second, below which no visitor's program works."""
MAX_NAMES: Final = 100
"""Names, and domains, of one token."""
MAX_COUNT: Final = 10**9 - 1
"""Largest number of tunnels or visitors."""
TIME_UNITS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Seconds of the suffixes of a duration."""


class PermissionTextError(Exception):
    """A text that is no permission; the message says what is wrong with it."""


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names of ``A,B*``, each exact or with ``*``; none of ``none``. Raises PermissionTextError."""
    return () if text == "none" else _listed(text, lambda name: validation_error(name.replace("*", "x")))


def parse_domains(text: str) -> tuple[str, ...] | None:
    """Return the domains of ``A,*.B``; none of ``none``, and None, which stands for every domain, of ``all``.
    Raises PermissionTextError."""
    if text in ("none", "all"):
        return () if text == "none" else None
    return _listed(text.lower(), lambda domain: domain_validation_error(domain.removeprefix("*.")))


def parse_ports(text: str, *, what: str = "--tcp-ports") -> range:
    """Return the ports of ``A-B``; none of ``none``. ``what``: name of the value in errors.
    Raises PermissionTextError."""
    try:
        return range(0) if text == "none" else parse_port_range(text, what=what)
    except ConfigError as error:
        raise PermissionTextError(str(error)) from None


def format_ports(ports: range) -> str:
    """Return a range of ports as :func:`parse_ports` reads it."""
    return f"{ports[0]}-{ports[-1]}" if ports else "none"


def parse_bandwidth(text: str) -> int:
    """Return the bytes a second of ``500k``, ``10M`` or ``1G``. Raises PermissionTextError."""
    found = re.fullmatch(r"([0-9]{1,9})([kMG]?)", text)
    rate = int(found[1]) * RATE_UNITS[found[2]] if found else 0
    if rate < MIN_BANDWIDTH:
        raise PermissionTextError(f"{short_repr(text)} is not a rate of at least {MIN_BANDWIDTH} bytes a second.")
    return rate


def parse_expiry(text: str, now: int) -> int:
    """Return the end of a duration that begins now, or the beginning of a day, in seconds since the epoch.
    Raises PermissionTextError."""
    if found := re.fullmatch(r"([0-9]{1,5})([hdw])", text):
        return now + int(found[1]) * TIME_UNITS[found[2]]
    try:
        expiry = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise PermissionTextError(
            f"{short_repr(text)} is neither a duration (12h, 30d, 8w) nor a day (2027-01-31)."
        ) from None
    if expiry <= now:
        raise PermissionTextError(f"{text} is in the past.")
    return expiry


def _listed(text: str, validate: Callable[[str], str | None]) -> tuple[str, ...]:
    """Return the different parts of a list with commas. ``validate`` says what is wrong with one."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in parts:
        if (wrong := validate(part)) is not None:
            raise PermissionTextError(f"{short_repr(part)} {wrong}.")
    if len(parts) > MAX_NAMES:
        raise PermissionTextError(f"At most {MAX_NAMES} are possible.")
    return parts
