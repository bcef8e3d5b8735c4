"""``--check-config``: check everything that can be checked without opening a port, and report all problems at
once."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from edge_server.auth.token import new_file_token
from edge_server.certificates.context_store import ContextStore
from edge_server.config.edge_config import OPTIONS, differences, parse
from edge_server.storage.state_dir import StateDir
from quictunnel.errors import ConfigError
from quictunnel.transport.engines import describe_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.config.edge_config import EdgeConfig, Reading

EXPIRY_WARNING: Final = timedelta(days=14)
"""Remaining lifetime below which a certificate is mentioned: public ones are renewed a month before they
expire."""
EPHEMERAL_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Linux's range of ports for outgoing connections."""


def report(reading: Reading, now: datetime | None = None) -> tuple[list[str], list[str]]:
    """Return the problems, or if there are none the effective settings and remarks. May wait for DNS."""
    config = reading.config
    if config is None:
        return list(reading.problems), []
    now = now or datetime.now(UTC)
    wrong: list[str] = []
    remarks: list[str] = []
    for check in CHECKS:
        try:
            remarks += check(config, now)
        except ConfigError as error:
            wrong.append(str(error))
    return wrong, [] if wrong else ["ok", *_settings(config), *remarks]


def _settings(config: EdgeConfig) -> Iterator[str]:
    """Yield the settings that differ from the defaults, and the ones that are always of interest."""
    changed = {"domain", "quic", "https", "tcp_host", "tcp_ports", "state_dir", *differences(parse([]), config)}
    for row in OPTIONS:
        if row.field in changed:
            yield f"  {row.name} = {row.kind.show(getattr(config, row.field))}"


def _state_dir(config: EdgeConfig, _: datetime) -> Iterator[str]:
    """Check that the state directory is writable, or can be created; create nothing."""
    path = config.state_dir
    if not path.exists():
        nearest = next(parent for parent in path.parents if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise ConfigError(
                f"The state directory {path} cannot be created in {nearest}; choose another (--state-dir)."
            )
        yield f"  {path} will be created at the first start"
        return
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"The state directory {path} cannot be written; choose another (--state-dir).")
    if (path / "token").exists():
        StateDir(path).token(new_file_token)


def _certificate(config: EdgeConfig, now: datetime) -> Iterator[str]:
    if config.cert is None or config.key is None:
        return
    ContextStore().add_files(config.cert, config.key, config.domain)
    chain = x509.load_pem_x509_certificates(config.cert.read_bytes())
    for number, certificate in enumerate(chain):
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        which = "certificate" if number == 0 else "issuer's certificate"
        if ends <= now:
            raise ConfigError(f"The {which} in {config.cert} has expired at {ends:%Y-%m-%d %H:%M} UTC; renew it.")
        if begins > now:
            raise ConfigError(
                f"The {which} in {config.cert} is not valid before {begins:%Y-%m-%d %H:%M} UTC; check the clock"
            )
    ends = chain[0].not_valid_after_utc
    left = f"in {(ends - now).days} days" + (": renew it soon" if ends - now < EXPIRY_WARNING else "")
    yield f"  the certificate expires at {ends:%Y-%m-%d %H:%M} UTC, {left}"


def _hosts(config: EdgeConfig, _: datetime) -> Iterator[str]:
    """Check that the host names resolve. Only binding a port would tell if they belong to this machine."""
    for name, host in (("quic", config.quic[0]), ("https", config.https[0]), ("tcp-host", config.tcp_host)):
        try:
            socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(f"--{name} {host} cannot be used: {error.strerror or error}.") from None
    yield from ()


def _ports(config: EdgeConfig, _: datetime) -> Iterator[str]:
    port = config.https[1]
    if port in config.tcp_ports and config.tcp_host in (config.https[0], "0.0.0.0", "::"):
        yield f"  the https port {port} is within tcp-ports: no tunnel can use it"
    ephemeral = _ephemeral_ports()
    both = range(max(ephemeral.start, config.tcp_ports.start), min(ephemeral.stop, config.tcp_ports.stop))
    if both:
        yield (
            f"  tcp-ports {both[0]}-{both[-1]} overlap the ephemeral ports of this machine; use others, or "
            f"reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={both[0]}-{both[-1]}"
        )


def _ephemeral_ports() -> range:
    """Return the ports that the system uses for outgoing connections; empty where it does not report them."""
    try:
        first, last = map(int, EPHEMERAL_RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        return range(0)
    return range(first, last + 1)


def _engine(config: EdgeConfig, _: datetime) -> Iterator[str]:
    yield f"  the QUIC engine is {describe_engine(config.engine)}"


CHECKS: Final[tuple[Callable[[EdgeConfig, datetime], Iterator[str]], ...]] = (
    _state_dir,
    _certificate,
    _hosts,
    _ports,
    _engine,
)
"""Checks, in order. Each yields remarks, and raises ConfigError for a problem."""
