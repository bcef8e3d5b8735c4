"""Runner of the checks, in order; skips those that make no sense after an earlier failure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from quictunnel.config.client_config import load
from quictunnel.doctor import certificate, edge, machine, public
from quictunnel.doctor.origin import check_origin
from quictunnel.doctor.result import Finding, fail, ok, skip
from quictunnel.errors import ConfigError
from quictunnel.origin.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Address

EDGE_CHECKS: Final = ("name", "udp", "datagrams", "handshake", "certificate", "token", "clock", "public address")
"""Checks that need an edge, in order."""


def examine(
    port: int | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    edge_address: str | None = None,
    ca: Path | None = None,
    token_file: Path | None = None,
    profile: str | None = None,
) -> Iterator[Finding]:
    """Run the checks one by one and yield each finding at once. A failed check does not raise.

    Args:
        port: the local service to check, as in ``forward()``; None: skip that check.
        environ: environment variables; None: those of this process.
        edge_address: ``host:port`` from the command line.
        ca: file of the certificate authority, from the command line.
        token_file: file with the token, from the command line.
        profile: name of a stored profile, from the command line.
    """
    environ = os.environ if environ is None else environ
    yield machine.check_engine(environ)
    yield machine.check_buffers()
    yield machine.check_open_files()
    yield machine.check_proxies(environ)
    if port is not None:
        yield check_origin(parse_target(port))
    try:
        config = load(environ, edge=edge_address, ca=ca, token_file=token_file, profile=profile)
    except ConfigError as error:
        yield fail("configuration", str(error), "See Choice of the edge in `quictunnel http --help`.",
                   is_configuration=True)  # fmt: skip
        yield from _skipped("name", "no edge is configured")
        return
    yield ok("configuration", f"edge {config.edge}, trusting {config.authority}, from {config.source}")
    yield from _check_path(config, machine.has_proxy(environ))


def _check_path(config: ClientConfig, has_proxy: bool) -> Iterator[Finding]:
    resolved = edge.check_name(config)
    yield resolved.finding
    if not resolved.addresses:
        yield from _skipped("udp", "the edge has no address")
        return
    reached = edge.check_udp(config, resolved.addresses, has_proxy=has_proxy)
    yield reached.finding
    if reached.address is None:
        yield from _skipped("datagrams", "the edge cannot be reached")
        return
    yield edge.datagrams(reached.address)
    yield from _check_trust(config, reached.address)


def _check_trust(config: ClientConfig, address: Address) -> Iterator[Finding]:
    finding, report = edge.check_handshake(config, address)
    yield finding
    if report is None:
        yield from _skipped("certificate", "the handshake failed")
        return
    trusted, clock = certificate.examine(report, config.address[0], config.ca, certificate.utc_now(), config.pin)
    yield trusted
    if trusted.verdict == "fail":
        yield skip("token", "not checked: it is sent only to an edge with a valid certificate")
        yield clock
        yield from _skipped("public address", "no tunnel can be opened")
        return
    token, welcome = edge.check_token(config, address)
    yield token
    yield clock if welcome is None else certificate.compare_clocks(certificate.utc_now(), welcome.time)
    if token.verdict == "fail":
        yield from _skipped("public address", "no tunnel can be opened")
        return
    yield public.check_public_address(config, certificate.pinned(report.chain, config.pin))


def _skipped(first: str, why: str) -> Sequence[Finding]:
    return [skip(check, f"not checked: {why}") for check in EDGE_CHECKS[EDGE_CHECKS.index(first) :]]
