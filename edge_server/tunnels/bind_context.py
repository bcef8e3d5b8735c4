"""The parts of an edge that decide about a Bind and apply it, shared by all clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_server.auth.bandwidth import BandwidthLimiter
    from edge_server.auth.request_limit import RequestLimiter
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.certificates.policy import CertificatePolicy
    from edge_server.ingress.admission import Admission
    from edge_server.ingress.tcp_ports import TcpPorts
    from edge_server.tunnels.bind_policy import BindPolicy
    from edge_server.tunnels.name_directory import NameDirectory
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tickets import TicketSealer
    from edge_server.tunnels.visitor_log import VisitorLog
    from quictunnel.shared.supervision import Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class BindContext:
    """The parts that the bindings of a client read or change."""

    admission: Admission
    certificate_policy: CertificatePolicy
    claims: NameOwnership
    random_name_limit: RequestLimiter
    """Limits the number of random names that a token gets."""
    https_port: int
    """Port of TLS visitors that is announced to clients."""
    visitor_log: VisitorLog
    name_directory: NameDirectory
    pending: PendingTunnels
    policy: BindPolicy
    ports: TcpPorts
    registry: Registry
    sealer: TicketSealer
    bandwidth_limiter: BandwidthLimiter
    supervisor: Supervisor
    tcp_host: str
    """Host of TCP visitors that is announced to clients."""
    tokens: TokenRegistry
