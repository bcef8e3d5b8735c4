"""Types of options: reading from text and from TOML, display, and description.

``what`` in a reader is how its errors begin: ``--quic``, ``QUICTUNNEL_EDGE_SERVER_QUIC`` or ``edge.toml:7: quic``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from quictunnel.errors import ConfigError
from quictunnel.shared.address import format_address, parse_address, shown
from quictunnel.shared.paths import expanded
from quictunnel.wire.labels import LABEL
from quictunnel.wire.messages import is_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

MAX_SECONDS: Final = 3600
MAX_HOSTS: Final = 16
"""Names of one machine; more are a mistake."""
_ADDRESS: Final = r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):[0-9]{1,5}$"
_PORTS: Final = r"^[0-9]{1,5}-[0-9]{1,5}$"


@dataclass(frozen=True, slots=True)
class OptionType(Generic[T]):
    """A type of options. ``read`` and ``from_toml`` raise ConfigError that begins with ``what``."""

    metavar: str
    """Name of a value in ``--help``; empty for a switch."""
    words: str
    """Description of a value, for the documents."""
    read: Callable[[str, str], T]
    """Reads text from the command line or the environment; the second argument is ``what``."""
    schema: Mapping[str, object]
    """JSON Schema of a value in TOML."""
    from_toml: Callable[[object, str], T]
    show: Callable[[T], str] = str
    """The inverse of ``read``."""
    choices: tuple[str, ...] = ()
    is_path: bool = False
    """In a file it is relative to that file."""


def _kind(
    metavar: str,
    words: str,
    read: Callable[[str, str], T],
    *,
    pattern: str = "",
    show: Callable[[T], str] = str,
    choices: tuple[str, ...] = (),
    is_path: bool = False,
) -> OptionType[T]:
    """One whose values are text in TOML as well."""
    schema: dict[str, object] = {"type": "string"}
    if pattern:
        schema["pattern"] = pattern
    if choices:
        schema["enum"] = list(choices)
    return OptionType(
        metavar,
        words,
        lambda text, what: read(_printable(text, what), what),
        schema,
        lambda value, what: read(_text(value, what), what),
        show,
        choices,
        is_path,
    )


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{what} should be text, not {shown(repr(value))}.")
    return _printable(value, what)


def _printable(text: str, what: str) -> str:
    if not text.isprintable():
        raise ConfigError(f"{what} contains a character that cannot be printed: {shown(text)}.")
    return text


def choice(*allowed: str) -> OptionType[str]:
    """Return the type of options that are one of these words."""

    def read(text: str, what: str) -> str:
        if text not in allowed:
            raise ConfigError(f"{what} should be one of {', '.join(allowed)}, not {shown(text)}.")
        return text

    return _kind("WORD", "one of " + ", ".join(allowed), read, choices=allowed)


def _path(text: str, what: str) -> Path | None:
    return expanded(text, what) if text else None


def _state_dir(text: str, what: str) -> Path:
    if not text:
        raise ConfigError(f"{what} should be a directory, not empty.")
    return expanded(text, what).absolute()


def _domain(text: str, what: str) -> str:
    domain = text.lower().rstrip(".")
    labels = domain.split(".")
    # 63 characters of a tunnel's label and a dot must still fit into a DNS name.
    if len(domain) > 253 - 64 or not all(LABEL.fullmatch(label) for label in labels):
        raise ConfigError(f"{what} should be a DNS name such as tunnel.example.com, not {shown(text)}.")
    return domain


def _address(text: str, what: str) -> tuple[str, int]:
    return parse_address(text, what=what, any_port=True)


def _own_address(text: str, what: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return parse_address(f"{host or '127.0.0.1'}:{port}", what=what, any_port=True)


def _host(text: str, what: str) -> str:
    # What clients are told must fit into what they take; whether it resolves is for networks to say.
    if text and not is_host(text):
        raise ConfigError(f"{what} should be a host name or an address, not {shown(text)}.")
    return text


def _hosts(text: str, what: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",")) if text else ()
    if len(names) > MAX_HOSTS:
        raise ConfigError(f"{what} should be at most {MAX_HOSTS} names.")
    for name in names:
        if not all(LABEL.fullmatch(label) for label in name.split(".")):
            raise ConfigError(f"{what} should be DNS names with commas between them, not {shown(text)}.")
    return names


def parse_ports(what: str, value: str) -> range:
    """``A-B``, as a range that includes both. Raises ConfigError, which says ``what`` should be it."""
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value)
    if match:
        first, last = int(match[1]), int(match[2])
        if 1 <= first <= last <= 65535:
            return range(first, last + 1)
    raise ConfigError(f"{what} should be a range such as 20000-29999 within 1-65535, not {shown(value)}.")


def _seconds(value: object, what: str) -> float:
    try:
        seconds = -1.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # float() judges it
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise ConfigError(f"{what} should be seconds between 0 and {MAX_SECONDS}, not {shown(str(value))}.")
    return seconds


def _switch_text(text: str, what: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"{what} should be true or false, not {shown(text)}.")
    return text == "true"


def _switch(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{what} should be true or false.")
    return value


TEXT: Final = _kind("TEXT", "text", lambda text, _: text)
FILE: Final[OptionType[Path | None]] = _kind(
    "FILE", "a file, relative to the file that says it", _path, show=lambda path: str(path or ""), is_path=True
)
DIRECTORY: Final[OptionType[Path | None]] = _kind(
    "DIR",
    "a directory, relative to the file that says it",
    _path,
    show=lambda path: str(path or ""),
    is_path=True,
)
STATE_DIR: Final = _kind("DIR", "a directory, relative to the file that says it", _state_dir, is_path=True)
DOMAIN: Final = _kind("NAME", "a DNS name", _domain)
ADDRESS: Final[OptionType[tuple[str, int]]] = _kind(
    "HOST:PORT",
    "host:port, IPv6 in brackets; port 0 is any free one",
    _address,
    pattern=_ADDRESS,
    show=lambda address: format_address(*address),
)
OWN_ADDRESS: Final[OptionType[tuple[str, int] | None]] = _kind(
    "HOST:PORT",
    "host:port, or a port of loopback; port 0 is any free one",
    _own_address,
    pattern=r"^((\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):)?[0-9]{1,5}$",
    show=lambda address: format_address(*address) if address else "",
)
HOST: Final = _kind("HOST", "a host name or an address", _host)
HOSTS: Final[OptionType[tuple[str, ...]]] = _kind(
    "NAME,...", "DNS names with commas between them", _hosts, show=",".join
)
PORTS: Final[OptionType[range]] = _kind(
    "A-B",
    "a range within 1-65535, both ends included",
    lambda text, what: parse_ports(what, text),
    pattern=_PORTS,
    show=lambda ports: f"{ports[0]}-{ports[-1]}",
)
SECONDS: Final[OptionType[float]] = OptionType(
    "SECONDS",
    f"seconds from 0 to {MAX_SECONDS}",
    _seconds,
    {"type": "number", "minimum": 0, "maximum": MAX_SECONDS},
    _seconds,
    "{:g}".format,
)
SWITCH: Final[OptionType[bool]] = OptionType(
    "", "true or false", _switch_text, {"type": "boolean"}, _switch, lambda is_on: str(is_on).lower()
)
