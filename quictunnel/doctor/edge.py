"""Checks of the path to the edge: its name, UDP, datagram size, handshake and token."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quictunnel.connection.dialer import Dialer
from quictunnel.connection.edge_connection import EdgeConnection, resolve
from quictunnel.doctor.result import Finding, fail, ok, warn
from quictunnel.errors import AuthError, ConfigError, EdgeUnavailableError, Error
from quictunnel.shared.address import format_address
from quictunnel.shared.supervision import Supervisor
from quictunnel.transport.engine import EngineSettings
from quictunnel.transport.engines import handshake_probe
from quictunnel.transport.probe import SIZES, SMALLEST, Answer, ProbeAnswer, probe_server
from quictunnel.wire.codes import ALPN, StreamCode

if TYPE_CHECKING:
    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Address, Closed, HandshakeReport
    from quictunnel.transport.session import Session
    from quictunnel.transport.stream import Stream
    from quictunnel.wire.messages import AnyMessage, Welcome

MAX_ADDRESSES: Final = 8
"""Addresses of one name to try, as the client does."""
DNS_TIMEOUT: Final = 10.0
"""Seconds to resolve a name; resolvers query several servers for five seconds each."""
HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds for a handshake, and for the edge's Welcome."""
TCP_TIMEOUT: Final = 2.0
"""Seconds for a TCP connection to a host that does not answer UDP."""
USUAL_DATAGRAM: Final = EngineSettings(is_server=False, alpn=ALPN).datagram_size
"""Bytes of UDP payload with which a connection begins after the handshake."""
DAY: Final = 86_400
"""Seconds."""
EXPIRY_WARNING: Final = 7 * DAY
"""Seconds before a token's expiry from which it is reported."""
_NO_ALPN: Final = 0x100 + 120
"""QUIC error code of the TLS alert no_application_protocol (RFC 7301 section 3.2, RFC 9001 section 4.8)."""


@dataclass(frozen=True, slots=True)
class ResolvedAddresses:
    """Result of the name check."""

    finding: Finding
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class UdpCheckResult:
    """Result of the UDP check."""

    finding: Finding
    address: Address | None = None
    """The first address that answers, or None."""


def check_name(config: ClientConfig) -> ResolvedAddresses:
    """Resolve the edge's name."""
    host, _ = config.address

    async def resolve_addresses() -> list[Address]:
        async with asyncio.timeout(DNS_TIMEOUT):
            return await resolve(config)

    try:
        found = tuple(asyncio.run(resolve_addresses())[:MAX_ADDRESSES])
    except TimeoutError:
        remedy = "Check this machine's DNS servers (/etc/resolv.conf, `resolvectl status`)."
        return ResolvedAddresses(fail("name", f"{host} was not resolved within {DNS_TIMEOUT:.0f} s", remedy))
    except EdgeUnavailableError as error:
        cause = error.__cause__
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        remedy = f"Check QUICTUNNEL_EDGE ({config.edge}) and this machine's DNS."
        return ResolvedAddresses(fail("name", f"{host} has no address ({why})", remedy))
    return ResolvedAddresses(
        ok("name", f"{host} resolves to {', '.join(str(address[0]) for address in found)}"), found
    )


def check_udp(config: ClientConfig, addresses: tuple[Address, ...], has_proxy: bool) -> UdpCheckResult:
    """Check whether a QUIC server answers at any of the addresses.

    Args:
        config: the client's configuration.
        addresses: addresses of the edge.
        has_proxy: True if the environment configures a proxy, which QUIC cannot use.
    """
    with ThreadPoolExecutor(len(addresses)) as pool:
        probes = list(pool.map(probe_server, addresses))
    for address, each in zip(addresses, probes, strict=True):
        if each.answer is Answer.QUIC:
            return UdpCheckResult(_reached(addresses, probes, address, each), address)
    return UdpCheckResult(_unreached(config, addresses, probes, has_proxy=has_proxy))


def _reached(
    addresses: tuple[Address, ...], probes: list[ProbeAnswer], address: Address, first: ProbeAnswer
) -> Finding:
    message = f"QUIC answers at {format_address(str(address[0]), address[1])} in {first.rtt * 1000:.1f} ms"
    others = [
        f"{other[0]} ({each.answer.value})"
        for other, each in zip(addresses, probes, strict=True)
        if each.answer is not Answer.QUIC
    ]
    if first.lost:
        message += f", after {first.lost} lost attempts"
    if others:
        message += f"; not at {', '.join(others)}, which delays each dial a little"
    if first.lost:
        return warn("udp", message, "The path loses packets; try again, or from another network.")
    return ok("udp", message)


def _unreached(
    config: ClientConfig, addresses: tuple[Address, ...], probes: list[ProbeAnswer], *, has_proxy: bool
) -> Finding:
    answers = {each.answer for each in probes}
    where = f"UDP port {config.address[1]} of {config.address[0]}"
    detail = next((f" ({each.detail})" for each in probes if each.detail), "")
    if Answer.REFUSED in answers:
        return fail(
            "udp",
            f"{where} is closed: the host reports that nobody listens there",
            "Start the edge (`quictunnel-edge`), or correct the port in QUICTUNNEL_EDGE.",
        )
    if Answer.FORBIDDEN in answers:
        return fail(
            "udp",
            f"this machine does not allow UDP to {where}{detail}",
            "Allow outgoing UDP in this machine's firewall (`nft list ruleset`), or in the container's policy.",
        )
    if Answer.NOT_QUIC in answers:
        return fail("udp", f"the server at {where} is not a QUIC server", "Correct QUICTUNNEL_EDGE.")
    if answers == {Answer.NO_ROUTE}:
        return fail("udp", f"there is no route to {where}{detail}", "Is this machine online? Check `ip route`.")
    if any(probe_server(address, forbid_fragments=False).answer is Answer.QUIC for address in addresses):
        return fail(
            "udp",
            f"{where} answers, but datagrams of {SMALLEST} bytes, which QUIC needs, do not arrive unfragmented",
            "Raise the MTU of the path to at least 1280 (of a VPN or tunnel; `ip link` shows this machine's).",
        )
    return _silent(config, where, has_proxy=has_proxy)


def _silent(config: ClientConfig, where: str, *, has_proxy: bool) -> Finding:
    proxy = " This network may require a proxy, which QUIC cannot use." if has_proxy else ""
    try:
        socket.create_connection(config.address, timeout=TCP_TIMEOUT).close()
        is_there = True
    except ConnectionRefusedError:
        is_there = True
    except OSError:
        is_there = False
    if is_there:
        return fail(
            "udp",
            f"no answer from {where}, although the host answers TCP: UDP looks blocked",
            f"Allow UDP port {config.address[1]} in the firewalls of this network and of the edge's, or let the "
            f"edge listen on UDP port 443, which more networks allow.{proxy}",
        )
    return fail(
        "udp",
        f"no answer from {where}, and the host does not answer TCP either",
        f"Is the edge's machine up, and its address right? If so, UDP is blocked.{proxy}",
    )


def datagrams(address: Address) -> Finding:
    """Measure the largest datagram that arrives unfragmented."""
    passed = probe_server(address, SIZES).sizes
    largest = max(passed, default=0)
    if largest >= USUAL_DATAGRAM:
        more = "at least " if largest == SIZES[-1] else ""
        return ok("datagrams", f"{more}{largest} bytes arrive unfragmented")
    if largest:
        return warn(
            "datagrams",
            f"only {largest} bytes arrive unfragmented, {USUAL_DATAGRAM} are usual; the tunnel adapts, and is a "
            f"little slower",
            "A VPN or PPPoE reduces the size; `ip link` shows this machine's MTU.",
        )
    return warn("datagrams", "the answers were lost", "Try again.")


def check_handshake(config: ClientConfig, address: Address) -> tuple[Finding, HandshakeReport | None]:
    """Do a TLS handshake with any certificate. Return the finding and the handshake's report, or None."""
    edge = config.edge
    try:
        report = handshake_probe().probe(address, config.address[0], ALPN, HANDSHAKE_TIMEOUT)
    except TimeoutError:
        return fail(
            "handshake", f"it did not complete within {HANDSHAKE_TIMEOUT:.0f} s", "Is the edge overloaded?"
        ), None
    except OSError as error:
        return fail("handshake", f"it failed ({error.strerror or error})", "Try again."), None
    if report.code == _NO_ALPN:
        remedy = "Correct QUICTUNNEL_EDGE: it must name the edge's --quic port."
        message = f"{edge} is a QUIC server, but not an edge that speaks {ALPN}"
        return fail("handshake", message, remedy, is_configuration=True), None
    if report.code or not report.chain:
        return fail(
            "handshake", f"the edge refused it ({report.reason or hex(report.code)})", "See the edge's log."
        ), None
    return ok("handshake", f"TLS 1.3 and {report.alpn} in {report.seconds * 1000:.0f} ms"), report


def check_token(config: ClientConfig, address: Address) -> tuple[Finding, Welcome | None]:
    """Check whether the edge accepts the token, with the engine of a tunnel. Return the finding and the
    Welcome."""
    try:
        welcome = asyncio.run(_greet(config, address))
    except AuthError as error:
        return fail(
            "token",
            error.message[:1].lower() + error.message[1:].removesuffix("."),  # as `quictunnel http` says it
            "Use a credential or token of this edge, from `quictunnel-edge token create`.",
            is_configuration=True,
        ), None
    except ConfigError as error:
        remedy = "See the certificate above."
        return fail("token", f"it could not be sent: {error}", remedy, is_configuration=True), None
    except (Error, OSError, TimeoutError) as error:
        why = str(error) or "timeout"
        return fail("token", f"the edge did not answer: {why}", "Try again; see the edge's log."), None
    return _accepted(welcome), welcome


def _accepted(welcome: Welcome) -> Finding:
    message = f"accepted; the edge runs {welcome.software.replace('/', ' ')}"
    if not welcome.token_ends:
        return ok("token", message)
    left = welcome.token_ends - welcome.time  # both by the edge's clock, which decides
    message += f", for {left // DAY} days" if left >= 2 * DAY else f", for {max(0, left) // 3600} hours"
    if left >= EXPIRY_WARNING:
        return ok("token", message)
    return warn("token", message, "Ask the edge's operator for another: `quictunnel-edge token create`.")


async def _greet(config: ClientConfig, address: Address) -> Welcome:
    connection = EdgeConnection(config, _PassiveOwner(), address)
    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
        await connection.greet()
    try:
        assert connection.welcome is not None, "greeted"
        return connection.welcome
    finally:
        await connection.close()


async def greet_edge(config: ClientConfig) -> str:
    """Ask an edge, at any of its addresses, whether it accepts the token. Return the name of its software.

    Raises:
        Error: it does not, its certificate is not the expected one, or it cannot be reached.
    """
    connection = await Dialer(config, _PassiveOwner(), Supervisor()).dial(is_first=True)
    try:
        assert connection.welcome is not None, "greeted"
        return connection.welcome.software
    finally:
        await connection.close()


class _PassiveOwner:
    """EdgeConnectionOwner of a session that only exchanges Hello and Welcome."""

    is_closed = False

    def connection_message(self, connection: EdgeConnection, message: AnyMessage) -> None: ...

    def connection_stream(self, stream: Stream) -> None:
        stream.abort(StreamCode.UNKNOWN_LEASE)

    def start_resuming(self, _connection: EdgeConnection) -> bytes:
        return b""

    def connection_failed(self, connection: EdgeConnection) -> None: ...

    def session_to_resume(self, connection: EdgeConnection) -> Session:
        return connection.session  # never called: the Hello names no session

    def connection_usable(self, connection: EdgeConnection) -> None: ...

    def connection_away(self, _connection: EdgeConnection, _closed: Closed) -> bool:
        return False

    def connection_ended(self, connection: EdgeConnection, error: Error) -> None: ...
