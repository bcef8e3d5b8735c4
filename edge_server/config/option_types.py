"""Types of options, which parse, describe and format values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from quictunnel.errors import ConfigError
from quictunnel.shared.address import format_address, parse_address, parse_ports, short_repr
from quictunnel.shared.paths import expand_home
from quictunnel.wire.labels import LABEL
from quictunnel.wire.messages import is_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

MAX_SECONDS: Final = 3600
MAX_HOSTS: Final = 16
"""Host names in one list; no machine needs more."""


@dataclass(frozen=True, slots=True)
class OptionValue:
    """A value as given by the operator, with its source."""

    value: Any
    what: str
    """Source, with which errors begin: ``--quic``, ``QUICTUNNEL_EDGE_SERVER_QUIC`` or ``edge.toml:7: quic``."""
    is_toml: bool = False


@dataclass(frozen=True, slots=True)
class OptionType(Generic[T]):
    """The type of an option's values."""

    metavar: str
    """Name of a value in ``--help``; empty for a switch."""
    words: str
    """Description of a value, for documents and errors."""
    read: Callable[[Any], T]
    """Parser of a text, or of a value of one of the types ``toml``. Raises ConfigError, whose message is appended
    to the option's name, or ValueError or LookupError, which are reported with ``words``."""
    show: Callable[[T], str] = str
    """The inverse of ``read``."""
    pattern: str = ""
    """Regular expression of a value, for JSON Schema."""
    choices: tuple[str, ...] = ()
    schema: dict[str, object] = field(default_factory=lambda: {"type": "string"})
    """JSON Schema of a value in TOML, without pattern and choices."""
    toml: tuple[type, ...] = (str,)
    """Types of a value in TOML."""
    is_path: bool = False
    """True for paths, which are relative to the file if they come from one."""

    def value_of(self, option_value: OptionValue) -> T:
        """Return the value. Raises ConfigError."""
        value, what, words = option_value.value, option_value.what, self.words
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"{what} contains a character that cannot be printed: {short_repr(value)}.")
        if option_value.is_toml and type(value) not in self.toml:
            words = "text" if self.toml == (str,) else words
        else:
            try:
                return self.read(value)
            except ConfigError as error:
                raise ConfigError(f"{what}{error}") from None
            except (ValueError, LookupError, OverflowError):
                pass
        raise ConfigError(f"{what} should be {words}, not {short_repr(str(value))}.")


def _if(is_right: bool, value: T) -> T:
    if not is_right:
        raise ValueError
    return value


def choice(*allowed: str) -> OptionType[str]:
    """Return the type of an option whose value is one of these words."""
    words = "one of " + ", ".join(allowed)
    return OptionType("WORD", words, lambda text: _if(text in allowed, text), choices=allowed)


def named_text(metavar: str) -> OptionType[str]:
    """Return the type of a text option with this name of a value in ``--help``."""
    return OptionType(metavar, "text", str)


def _path(metavar: str, noun: str) -> OptionType[Path | None]:
    def read(text: str) -> Path | None:
        return expand_home(text, "") if text else None

    words = f"{noun}, relative to the file that names it"
    return OptionType(metavar, words, read, lambda path: str(path or ""), is_path=True)


def _state_dir(text: str) -> Path:
    return expand_home(text, "").absolute()


def _domain(text: str) -> str:
    domain = text.lower().rstrip(".")
    # 63 characters of a tunnel's label and a dot must still fit into a DNS name.
    return _if(len(domain) <= 253 - 64 and all(map(LABEL.fullmatch, domain.split("."))), domain)


def _address(text: str) -> tuple[str, int]:
    return parse_address(text, what="", any_port=True)


def _own_address(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return _address(f"{host or '127.0.0.1'}:{port}") if text else None


def _show_address(address: tuple[str, int] | None) -> str:
    return format_address(*address) if address else ""


def _host(text: str) -> str:
    # Clients reject a host that is not well-formed. It is not resolved here: that depends on the client's network.
    return _if(not text or is_host(text), text)


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",")) if text else ()
    labels = [label for name in names for label in name.split(".")]
    return _if(len(names) <= MAX_HOSTS and all(map(LABEL.fullmatch, labels)), names)


def _seconds(value: str | float) -> float:
    seconds = float(value)
    return _if(0 <= seconds <= MAX_SECONDS, seconds)


TEXT: Final = named_text("TEXT")
FILE: Final = _path("FILE", "a file")
DIRECTORY: Final = _path("DIR", "a directory")
STATE_DIR: Final = OptionType("DIR", DIRECTORY.words, _state_dir, is_path=True)
DOMAIN: Final = OptionType("NAME", "a DNS name such as tunnel.example.com", _domain)
HOST: Final = OptionType("HOST", "a host name or an address", _host)
HOSTS: Final[OptionType[tuple[str, ...]]] = OptionType(
    "NAME,...", f"at most {MAX_HOSTS} DNS names with commas between them", _hosts, ",".join
)
ADDRESS: Final[OptionType[tuple[str, int]]] = OptionType(
    "HOST:PORT",
    "host:port, IPv6 in brackets; port 0 is any free one",
    _address,
    _show_address,
    r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):[0-9]{1,5}$",
)
OWN_ADDRESS: Final[OptionType[tuple[str, int] | None]] = OptionType(
    "[HOST:]PORT",
    "host:port, or a port of loopback; port 0 is any free one",
    _own_address,
    _show_address,
    r"^((\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):)?[0-9]{1,5}$",
)
PORTS: Final[OptionType[range]] = OptionType(
    "A-B",
    "a range such as 20000-29999 within 1-65535",
    lambda text: parse_ports(text, what=""),
    lambda ports: f"{ports[0]}-{ports[-1]}",
    r"^[0-9]{1,5}-[0-9]{1,5}$",
)
SECONDS: Final[OptionType[float]] = OptionType(
    "SECONDS",
    f"seconds between 0 and {MAX_SECONDS}",
    _seconds,
    "{:g}".format,
    schema={"type": "number", "minimum": 0, "maximum": MAX_SECONDS},
    toml=(int, float, str),
)
SWITCH: Final[OptionType[bool]] = OptionType(
    "",
    "true or false",
    {"true": True, "false": False, True: True, False: False}.__getitem__,
    lambda is_on: str(is_on).lower(),
    schema={"type": "boolean"},
    toml=(bool,),
)
