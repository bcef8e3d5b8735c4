"""The edge's options: read once from the command line and a TOML file, checked, frozen."""

from __future__ import annotations

import argparse
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from quictunnel.address import parse_address, shown
from quictunnel.errors import ConfigError
from quictunnel.places import default_state_dir
from quictunnel.transport.engine import CONGESTIONS
from quictunnel.transport.engines import CHOICES
from quictunnel.version import VERSION
from quictunnel.wire.labels import LABEL
from quictunnel.wire.messages import MAX_HOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_DOMAIN: Final = "tunnel.localhost"
ENGINE: Final = "QUICTUNNEL_ENGINE"
CONGESTION: Final = "QUICTUNNEL_CONGESTION"
LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
MAX_SECONDS: Final = 3600
HOLD: Final = 120
MAX_CONFIG: Final = 64 * 1024
"""Bytes of a configuration file; a real one has a few hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """What one edge is to do. Addresses are numeric or names that resolve to one of this machine's."""

    state_dir: Path
    domain: str = DEFAULT_DOMAIN
    quic: tuple[str, int] = ("127.0.0.1", 4433)
    https: tuple[str, int] = ("127.0.0.1", 8443)
    tcp_host: str = "127.0.0.1"
    tcp_ports: range = range(20000, 30000)
    public_host: str = ""
    """What clients are told for plain TCP; empty: the tcp host."""
    cert: Path | None = None
    key: Path | None = None
    allow_wildcard_h2: bool = False
    grace: float = 30.0
    """Seconds that visitors in flight get at SIGTERM."""
    hold: float = HOLD
    """Seconds for which a client that lost its connection may come back to its visitors."""
    takeover: bool = False
    """Take the place of the edge that runs with the same state directory."""
    engine: str = "auto"
    congestion: str = "auto"
    log_format: str = "text"
    log_level: str = "info"

    @property
    def shown_tcp_host(self) -> str:
        """The public name of the plain TCP ports."""
        if self.public_host:
            return self.public_host
        return {"0.0.0.0": self.domain, "::": self.domain}.get(self.tcp_host, self.tcp_host)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_server",
        description=(
            "The public side of quictunnel. Without options it runs a development edge on loopback: it makes its "
            "own certificate authority and a token, and prints what a client needs."
        ),
        epilog=(
            "A public edge: python -m edge_server --domain tunnel.example.com --quic 0.0.0.0:4433 "
            "--https 0.0.0.0:443 --cert fullchain.pem --key privkey.pem, with *.tunnel.example.com pointing here. "
            "Tokens for others than yourself: python -m edge_server token --help. Names that belong to somebody: "
            "python -m edge_server name --help. "
            "SIGTERM drains: visitors in flight may finish; a second one ends at once. SIGUSR2 starts the same "
            "command again with --takeover, for a new version or certificate without downtime."
        ),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--state-dir", metavar="DIR", help="where keys, the token and client.env are kept (default: "
        f"{default_state_dir()})")  # fmt: skip
    add("--domain", metavar="NAME", help=f"tunnels are names below this one (default: {DEFAULT_DOMAIN})")
    add("--quic", metavar="HOST:PORT", help="UDP address for clients (default: 127.0.0.1:4433; port 0: any)")
    add("--https", metavar="HOST:PORT", help="TCP address for TLS visitors (default: 127.0.0.1:8443; port 0: any)")
    add("--tcp-host", metavar="HOST", help="address for plain TCP visitors (default: the host of --https)")
    add("--tcp-ports", metavar="A-B", help="range of their ports (default: 20000-29999)")
    add("--public-host", metavar="NAME", help="the host that clients are told for plain TCP (default: --tcp-host)")
    add("--cert", metavar="FILE", help="PEM certificate chain for visitors (default: a development authority's)")
    add("--key", metavar="FILE", help="its private key, PEM")
    add("--allow-wildcard-h2", action="store_true", help="offer HTTP/2 although one wildcard certificate serves "
        "all tunnels; browsers may then send requests for one tunnel to another")  # fmt: skip
    add("--grace", metavar="SECONDS", help="how long visitors in flight may go on at SIGTERM (default: 30)")
    add("--hold", metavar="SECONDS", help="how long a client that lost its connection may take to come back "
        f"to its visitors; 0: they are reset at once (default: {HOLD})")  # fmt: skip
    add("--takeover", action="store_true", help="take the place of the edge that runs with the same --state-dir, "
        "without refusing anybody: it hands its sockets and names over, and ends when its visitors have "
        "finished; starts as usual where none runs")  # fmt: skip
    add("--engine", choices=CHOICES, help="the QUIC engine (default: $QUICTUNNEL_ENGINE or auto)")
    add("--congestion", choices=CONGESTIONS, help="congestion control towards clients (default: "
        "$QUICTUNNEL_CONGESTION or auto, what the engine does best)")  # fmt: skip
    add("--config", metavar="FILE", help="TOML file with the same names; the command line wins")
    add("--log-format", choices=LOG_FORMATS, help="default: text")
    add("--log-level", choices=LOG_LEVELS, help="default: info")
    add("--version", action="version", version=f"quictunnel {VERSION}")
    return parser


def parse(argv: Sequence[str], environ: Mapping[str, str] = MappingProxyType({})) -> EdgeConfig:
    """The configuration that a command line asks for; of the environment, what concerns the engine is read.
    Raises ConfigError; argparse exits by itself (2) on options that do not exist, and (0) after ``--help``."""
    options: dict[str, Any] = vars(_parser().parse_args(argv))
    config_file = options.pop("config", None)
    if config_file is not None:
        options = _read(Path(config_file)) | options
    return _checked(options, environ)


_KEYS: Final = frozenset(
    ("state_dir", "domain", "quic", "https", "tcp_host", "tcp_ports", "public_host", "cert", "key",
     "allow_wildcard_h2", "grace", "hold", "takeover", "engine", "congestion", "log_format", "log_level")
)  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()[: MAX_CONFIG + 1]
        if len(text) > MAX_CONFIG:
            raise ConfigError(f"--config {path}: larger than {MAX_CONFIG} bytes; is this the right file?")
        content = tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not valid TOML: {error}.") from None
    options = {name.replace("-", "_"): value for name, value in content.items()}
    unknown = sorted(set(options) - _KEYS)
    if unknown:
        raise ConfigError(f"--config {path}: unknown name {shown(unknown[0])}; see python -m edge_server --help.")
    for name in ("state_dir", "cert", "key"):
        if isinstance(options.get(name), str):
            # relative to the file that says it, wherever the edge is started
            options[name] = str(path.parent / Path(options[name]).expanduser())
    return options


def _checked(options: dict[str, Any], environ: Mapping[str, str]) -> EdgeConfig:
    def text(name: str, default: str = "") -> str:
        value = options.get(name, default)
        if not isinstance(value, str):
            raise ConfigError(f"{_flag(name)} should be text, not {shown(repr(value))}.")
        if not value.isprintable():
            raise ConfigError(f"{_flag(name)} contains a character that cannot be printed: {shown(value)}.")
        return value

    def switch(name: str) -> bool:
        value = options.get(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{_flag(name)} should be true or false.")
        return value

    https = parse_address(text("https", "127.0.0.1:8443"), what="--https", any_port=True)
    cert, key = text("cert"), text("key")
    if bool(cert) != bool(key):
        raise ConfigError("--cert and --key go together: give both, or neither for a development certificate.")
    return EdgeConfig(
        state_dir=Path(text("state_dir") or default_state_dir()).expanduser().absolute(),
        domain=_domain(text("domain", DEFAULT_DOMAIN)),
        quic=parse_address(text("quic", "127.0.0.1:4433"), what="--quic", any_port=True),
        https=https,
        tcp_host=text("tcp_host") or https[0],
        tcp_ports=parse_ports("--tcp-ports", text("tcp_ports", "20000-29999")),
        public_host=_shown_host(text("public_host")),
        cert=Path(cert).expanduser() if cert else None,
        key=Path(key).expanduser() if key else None,
        allow_wildcard_h2=switch("allow_wildcard_h2"),
        grace=_seconds(options.get("grace", 30), "grace"),
        hold=_seconds(options.get("hold", HOLD), "hold"),
        takeover=switch("takeover"),
        engine=_choice(text("engine") or environ.get(ENGINE) or "auto", "engine", CHOICES),
        congestion=_choice(text("congestion") or environ.get(CONGESTION) or "auto", "congestion", CONGESTIONS),
        log_format=_choice(text("log_format", "text"), "log_format", LOG_FORMATS),
        log_level=_choice(text("log_level", "info"), "log_level", LOG_LEVELS),
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choice(value: str, name: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ConfigError(f"{_flag(name)} should be one of {', '.join(allowed)}, not {shown(value)}.")
    return value


def _domain(value: str) -> str:
    domain = value.lower().rstrip(".")
    labels = domain.split(".")
    # 16 characters of a tunnel's label and a dot must still fit into a DNS name.
    if len(domain) > 253 - 64 or not all(LABEL.fullmatch(label) for label in labels):
        raise ConfigError(f"--domain should be a DNS name such as tunnel.example.com, not {shown(value)}.")
    return domain


def _shown_host(value: str) -> str:
    # What clients are told must fit into what they take; whether it resolves is for visitors' networks to say.
    if len(value) > MAX_HOST or " " in value:
        raise ConfigError(f"--public-host should be a host name or an address, not {shown(value)}.")
    return value


def parse_ports(what: str, value: str) -> range:
    """``A-B``, as a range that includes both. Raises ConfigError, which says ``what`` should be it."""
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value)
    if match:
        first, last = int(match[1]), int(match[2])
        if 1 <= first <= last <= 65535:
            return range(first, last + 1)
    raise ConfigError(f"{what} should be a range such as 20000-29999 within 1-65535, not {shown(value)}.")


def _seconds(value: object, name: str) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # whatever it is, float() says whether it is one
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise ConfigError(f"{_flag(name)} should be seconds between 0 and {MAX_SECONDS}, not {shown(str(value))}.")
    return seconds
