"""A running edge, which can be reconfigured, drained and stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.drain_log import DrainLog
from edge_server.handoff.protocol import HandoffRefusal
from edge_server.reload import reconfigure
from quictunnel.config.credential import Credential, pin_of
from quictunnel.config.secret import Secret
from quictunnel.shared.address import format_address, is_loopback, is_name, on_this_machine, parse_address
from quictunnel.transport.qlog import tracer_of

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.admin.server import Admin
    from edge_server.change_watcher import ChangeWatcher
    from edge_server.clients.acceptor import ClientAcceptor
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.handoff.predecessor import Handoff
    from edge_server.handoff.protocol import HandoffChannel
    from edge_server.handoff.snapshot import NameSnapshot
    from edge_server.observability.introspection import Introspection
    from edge_server.reload import ReloadOutcome
    from edge_server.tunnels.visitor_log import VisitorLog
    from edge_server.wiring import EdgeServices

DRAIN_POLL_INTERVAL: Final = 0.05
"""Seconds between checks that active visitors remain."""


@dataclass(kw_only=True, eq=False, repr=False)
class RunningEdge:
    """One edge that serves on the running loop, returned by :func:`edge_server.startup.start_edge`.

    Call :meth:`stop` at the end, and :meth:`drain` before if visitors should have time to finish.
    """

    config: EdgeConfig
    """The configuration in force."""
    token: str
    """Token of the operator's own clients."""
    ca: Path
    """Certificate that clients trust."""
    services: EdgeServices
    clients: ClientAcceptor
    introspection: Introspection
    """Endpoint, listener and other parts, as the page, the metrics and the dumps read them."""
    snapshot: NameSnapshot
    change_watcher: ChangeWatcher
    admin: Admin | None
    """The operator's page; None without ``--admin``."""
    handoff: Handoff
    drain_requested: asyncio.Event
    """Set when the operator requests a drain on the page. The caller should then drain and stop this edge."""
    taken_over: asyncio.Event
    """Set when another edge has taken over. The caller should then drain and stop this edge."""
    stop_accepting: Callable[[], None]
    """Closes the port of TLS visitors; may be called more than once."""
    resources: contextlib.AsyncExitStack
    """Closes everything that was opened, in the reverse order."""
    successor: int = 0
    """Process ID of the edge that takes over, or has taken over; 0 if there is none."""

    @property
    def https_port(self) -> int:
        """Port of TLS visitors."""
        return self.services.https_port

    @property
    def quic_address(self) -> str:
        """``host:port`` for clients on this machine."""
        return local_quic_address(self.config, self.introspection)

    @property
    def public_quic_address(self) -> str:
        """``host:port`` for clients on other machines; empty if it is unknown, because the edge listens on all
        interfaces and its domain is a local one."""
        return public_quic_address(self.config, self.introspection)

    @property
    def is_public(self) -> bool:
        """True if clients on other machines can reach this edge, or it listens on all interfaces."""
        public = self.public_quic_address
        return not public or not is_loopback(parse_address(public, what="the public address")[0])

    @property
    def credential(self) -> Credential:
        """The credential of the operator's own clients, with all rights."""
        address = self.public_quic_address or self.quic_address
        return Credential((address,), pin_of(self.ca.read_bytes()), Secret(self.token))

    @property
    def visitor_log(self) -> VisitorLog:
        """Log of the visitors."""
        return self.services.visitor_log

    @property
    def visitors(self) -> int:
        """Number of public connections open now."""
        return self.services.admission.active

    @property
    def client_count(self) -> int:
        """Number of sessions of clients, including those without a link and those not yet authenticated."""
        return len(self.clients.sessions)

    @property
    def tunnel_count(self) -> int:
        """Number of names held now."""
        return len(self.services.registry)

    async def reconfigure(self, config: EdgeConfig) -> ReloadOutcome:
        """Apply the options that may change while the edge serves. Return the applied and the remaining changes.

        Raises ConfigError if the options are invalid; then nothing has changed.
        """
        is_other = config.qlog != self.config.qlog
        tracer = tracer_of(config.qlog) if is_other and config.qlog is not None else None
        outcome = await reconfigure(self.services, self.config, config)
        if is_other:
            self.introspection.tracing.trace_all(tracer)
        self.config = outcome.config
        return outcome

    async def drain(self) -> None:
        """Accept no new visitors and clients, and wait until the active visitors have finished, at most for the
        configured grace.

        With a successor, also idle visitors have the whole grace. Cancellation ends the wait.
        """
        self.stop_accepting()
        self.snapshot.freeze()
        self.services.pending.give_up_all()
        self.clients.drain(self.config.grace)
        now = asyncio.get_running_loop().time()
        log = DrainLog(now, self.config.grace, self.visitors, successor=self.successor)
        why = "stopped early"
        try:
            is_over = await self._wait_for_visitors(now + self.config.grace, log)
            why = "" if is_over else "the time is over"
        finally:
            log.end(asyncio.get_running_loop().time(), self.visitors, why=why)

    async def _wait_for_visitors(self, deadline: float, log: DrainLog) -> bool:
        """Wait until no visitor needs this edge. Return False if some still do at ``deadline``, in the loop's
        time."""
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < deadline:
            # Polled, because a visitor becomes idle by the passage of time, without an event.
            if not self._is_needed(now):
                return True
            log.report(now, self.visitors)
            await asyncio.sleep(DRAIN_POLL_INTERVAL)
        return False

    async def stop(self) -> None:
        """Close everything, in the reverse order of its opening. A second call does nothing."""
        await self.resources.aclose()

    async def hand_over(self, channel: HandoffChannel) -> None:
        """Hand over to a successor that has connected. Until it is ready nothing changes. Raises HandoffError."""
        if self.clients.is_draining:
            await channel.send(HandoffRefusal("it is stopping"))
        else:
            self.successor = channel.peer_pid
            await self.handoff.hand_over(channel, self._release)

    def _release(self) -> None:
        """Stop accepting visitors and clients, and release what the successor uses from now on."""
        self.clients.is_draining = True
        self.snapshot.stop_writing()
        if self.admin is not None:
            self.admin.release_address()
        if self.services.acme is not None:
            self.services.acme.release()
        self.stop_accepting()
        self.taken_over.set()

    def _is_needed(self, now: float) -> bool:
        if self.introspection.tls_listener.pending:
            return True
        if self.taken_over.is_set():
            return self.visitors > 0 or self.handoff.forwards
        return self.clients.is_in_flight(now)


def local_quic_address(config: EdgeConfig, introspection: Introspection) -> str:
    """Return ``host:port`` of the QUIC socket for clients on this machine."""
    host, port = _bound_address(config, introspection)
    is_dual = host == "::" and introspection.udp.is_dual
    return format_address("127.0.0.1" if is_dual else on_this_machine(host), port)


def public_quic_address(config: EdgeConfig, introspection: Introspection) -> str:
    """Return ``host:port`` of the QUIC socket for clients on other machines; empty if it is unknown."""
    host, port = _bound_address(config, introspection)
    name = config.public_name(host)
    return "" if name == config.domain and name.endswith(".localhost") else format_address(name, port)


def _bound_address(config: EdgeConfig, introspection: Introspection) -> tuple[str, int]:
    """Return host and port of the QUIC socket: the configured host name, if there is one, as in its
    certificate."""
    host, port = introspection.endpoint.local_address[:2]
    is_everywhere = host in ("0.0.0.0", "::")
    return host if is_everywhere or not is_name(config.quic[0]) else config.quic[0], port
