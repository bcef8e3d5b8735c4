"""Read access to the state of a running edge, for its metrics, page and dumps.

Readers change nothing. Everything here belongs to the event loop's thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from edge_server.auth.failed_attempts import FailedAttempts
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.certificates.policy import CertificatePolicy
    from edge_server.clients.qlog import QlogTracing
    from edge_server.clients.session import ClientSession
    from edge_server.clients.session_table import SessionTable
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.ingress.admission import Admission
    from edge_server.ingress.error_pages import ErrorPages
    from edge_server.ingress.tls_listener import TlsListener
    from edge_server.observability.loop_lag import LoopLagMonitor
    from edge_server.tunnels.name_directory import NameDirectory
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.visitor_log import VisitorLog
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.udp import UdpSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Introspection:
    """The objects that readers of the state need."""

    admission: Admission
    attempts: FailedAttempts
    certificates: CertificatePolicy
    claims: NameOwnership
    config: EdgeConfig
    endpoint: Endpoint
    """QUIC endpoint with its engine, connections and traffic."""
    error_pages: ErrorPages
    tls_listener: TlsListener
    """TLS listener of the visitors."""
    clients: Collection[ClientSession]
    """Connected clients, including those that have not authenticated yet."""
    https_port: int
    """Port of TLS visitors, as announced to clients."""
    identity: Path
    """PEM file of the certificate for clients."""
    is_draining: Callable[[], bool]
    """Returns True once no new connections are accepted, because the edge stops or a successor took over."""
    lag: LoopLagMonitor
    visitor_log: VisitorLog
    name_directory: NameDirectory
    now: Callable[[], float]
    """The edge's clock: seconds since the epoch."""
    pending: PendingTunnels
    registry: Registry
    sessions: SessionTable[ClientSession]
    supervisor: Supervisor
    tokens: TokenRegistry
    tracing: QlogTracing
    """Recorder of qlog files."""
    udp: UdpSocket
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch."""
