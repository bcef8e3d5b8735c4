"""The order of the looks, and which of them make sense after which."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from quictunnel.config.client_config import load
from quictunnel.doctor import certificate, edge, machine, public
from quictunnel.doctor.result import Finding, fail, ok, skip
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Address

ON_THE_WAY: Final = ("name", "udp", "datagrams", "handshake", "certificate", "token", "clock", "public address")
"""What needs an edge, in order."""


def examine(
    port: int | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    edge_address: str | None = None,
    ca: Path | None = None,
    token_file: Path | None = None,
) -> Iterator[Finding]:
    """Look at one thing after the other; each finding comes when it is there. Never raises for what it finds."""
    environ = os.environ if environ is None else environ
    yield machine.engine(environ)
    yield machine.buffers()
    yield machine.open_files()
    yield machine.proxies(environ)
    if port is not None:
        yield machine.local_port(port)
    try:
        config = load(environ, edge=edge_address, ca=ca, token_file=token_file)
    except ConfigError as error:
        yield fail("configuration", str(error), "`quictunnel http --help` says where it is looked for.",
                   is_configuration=True)  # fmt: skip
        yield from _skipped("name", "nothing is configured")
        return
    trust = str(config.ca) if config.ca else "what this system trusts"
    yield ok("configuration", f"edge {config.edge}, trusting {trust}, from {config.source}")
    yield from _way(config, machine.has_proxy(environ))


def _way(config: ClientConfig, has_proxy: bool) -> Iterator[Finding]:
    resolved = edge.name(config)
    yield resolved.finding
    if not resolved.addresses:
        yield from _skipped("udp", "the edge has no address")
        return
    reached = edge.udp(config, resolved.addresses, has_proxy=has_proxy)
    yield reached.finding
    if reached.address is None:
        yield from _skipped("datagrams", "the edge is out of reach")
        return
    yield edge.datagrams(reached.address)
    yield from _trust(config, reached.address)


def _trust(config: ClientConfig, address: Address) -> Iterator[Finding]:
    finding, shown = edge.handshake(config, address)
    yield finding
    if shown is None:
        yield from _skipped("certificate", "there was no handshake")
        return
    trusted, clock = certificate.examine(shown, config.address[0], config.ca, certificate.utc_now())
    yield trusted
    if trusted.verdict == "fail":
        yield skip("token", "not looked at: it is shown only to an edge whose certificate is good")
        yield clock
        yield from _skipped("public address", "there can be no tunnel")
        return
    token, welcome = edge.token(config, address)
    yield token
    yield clock if welcome is None else certificate.compared(certificate.utc_now(), welcome.time)
    if token.verdict == "fail":
        yield from _skipped("public address", "there can be no tunnel")
        return
    yield public.visit(config)


def _skipped(first: str, why: str) -> Sequence[Finding]:
    return [skip(check, f"not looked at: {why}") for check in ON_THE_WAY[ON_THE_WAY.index(first) :]]
