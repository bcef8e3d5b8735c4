"""What there is to see of an edge that serves, in one place: for its figures, its page and its dumps.

They look, and change nothing. Everything here belongs to the loop's thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from edge_server.auth.failed_attempts import FailedAttempts
    from edge_server.certificates.policy import CertificatePolicy
    from edge_server.clients.qlog import QlogRecorder
    from edge_server.clients.session import ClientSession
    from edge_server.clients.session_table import SessionTable
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.ingress.admission import Admission
    from edge_server.ingress.tls_listener import TlsListener
    from edge_server.observability.loop_lag import LoopLagMonitor
    from edge_server.tunnels.names import NameDirectory
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.visitor_log import VisitorLog
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.udp import UdpSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Introspection:
    """See the module."""

    admission: Admission
    attempts: FailedAttempts
    certificates: CertificatePolicy
    claims: NameOwnership
    config: EdgeConfig
    endpoint: Endpoint
    """The QUIC side: its engine, its connections, what they have carried."""
    front: TlsListener
    """Where TLS visitors come in."""
    guests: Collection[ClientSession]
    """Clients, those that have not shown a token yet included."""
    https_port: int
    """Port of TLS visitors, as clients are told it."""
    identity: Path
    """The certificate that clients see, PEM."""
    is_draining: Callable[[], bool]
    """Whether nobody is taken any more, because it stops or another edge took over."""
    lag: LoopLagMonitor
    ledger: VisitorLog
    names: NameDirectory
    now: Callable[[], float]
    """The edge's clock: seconds since the epoch."""
    pending: PendingTunnels
    registry: Registry
    sessions: SessionTable[ClientSession]
    supervisor: Supervisor
    tracing: QlogRecorder
    """What is written of connections."""
    udp: UdpSocket
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch."""
