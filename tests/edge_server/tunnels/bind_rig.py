"""Services of an edge with sessions that only record the messages sent to them, for tests of binding."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trustme

from edge_server.auth.failed_attempts import FailedAttempts
from edge_server.auth.permissions import Identity
from edge_server.auth.token_registry import TokenRegistry
from edge_server.certificates.context_store import ContextStore
from edge_server.clients.session_table import SessionTable
from edge_server.ingress.admission import Admission
from edge_server.ingress.tcp_ports import TcpPorts
from edge_server.tunnels.backend import Backend, TicketRecord
from edge_server.tunnels.bind import Bindings
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership import NameOwnership
from edge_server.tunnels.ownership_store import OwnershipStore
from edge_server.tunnels.pending import PendingTunnels
from edge_server.tunnels.registry import Registry
from edge_server.tunnels.tickets import TicketSealer
from edge_server.tunnels.tunnel import Tunnel
from edge_server.tunnels.visitor_log import VisitorLog
from edge_server.wiring import EdgeServices
from quictunnel.wire.codes import BindCode, SessionCode, StreamCode
from quictunnel.wire.messages import Bind, BindRefused, BindV2, Bound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A, B = Identity("a"), Identity("b")
RANGE = range(17_000, 17_100)


class FakeStream:
    """A stream that remembers what its splice does."""

    def __init__(self) -> None:
        self.is_over = False
        self.bytes_sent = self.bytes_received = 0
        self.room = 65_536
        self.receive_done = False
        self.log: list[object] = []
        self.on_over: Callable[[FakeStream], None] | None = None

    def attach(self, consumer: object) -> None: ...

    def replace_consumer(self, consumer: object) -> None: ...

    def write(self, data: bytes) -> None:
        self.log.append(bytes(data))

    def finish(self) -> None:
        self.log.append("finish")

    def abort(self, code: StreamCode) -> None:
        self.log.append(code)

    def abort_after_delivery(self, code: StreamCode) -> None:
        self.log.append(code)
        if self.on_over is not None:
            self.on_over(self)

    def consume(self, size: int) -> None:
        self.log.append(size)

    def consume_end(self) -> None:
        self.log.append("end")
        self.receive_done = True


class FakeBindings:
    """Bindings of a client that nothing is taken away from."""

    def revoke(self, backend: Backend, code: BindCode, reason: str = "") -> None: ...

    def supersede(self) -> None: ...


class FakeSession:
    """A session that records the messages sent to its client."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.version = 2
        self.is_ready = True
        self.link = SimpleNamespace(connection=SimpleNamespace(address=("127.0.0.1", 1)))
        self.streams: list[FakeStream] = []

    @property
    def is_away(self) -> bool:
        return not self.is_ready

    def send(self, message: object) -> None:
        self.sent.append(message)

    def close(self, code: object) -> None:
        self.sent.append(code)

    def stats(self) -> object:
        return SimpleNamespace(last_heard=asyncio.get_running_loop().time())

    def open(self, **_: object) -> FakeStream:
        self.streams.append(FakeStream())
        return self.streams[-1]


def new_tunnel(services: EdgeServices, name: str = "n", owner: str = "a") -> Tunnel:
    """Return a tunnel that no client serves, and that is in no registry."""
    return Tunnel(
        name, owner=owner, options=TunnelOptions(), admission=services.admission, visitor_log=services.visitor_log
    )


def new_backend(tunnel: Tunnel, number: int = 1) -> tuple[Backend, FakeSession]:
    """Have one more client serve a tunnel. Return it with its session."""
    session = FakeSession()
    backend = Backend(session, number, FakeBindings(), TicketRecord())  # type: ignore[arg-type]
    tunnel.balancer.add(backend)
    return backend, session


def build(directory: Path) -> EdgeServices:
    clock = asyncio.get_running_loop().time
    registry, admission, ports = Registry(), Admission(cap=100), TcpPorts("127.0.0.1", RANGE, clock)
    visitor_log = VisitorLog()
    return EdgeServices(
        admission=admission,
        attempts=FailedAttempts(clock),
        certificates=ContextStore(),
        claims=NameOwnership(OwnershipStore(directory)),
        domain="example.com",
        pending=PendingTunnels(registry, ports, admission, visitor_log=visitor_log, hold=30),
        https_port=443,
        visitor_log=visitor_log,
        ports=ports,
        registry=registry,
        sealer=TicketSealer(bytes(32), "example.com"),
        sessions=SessionTable(30),
        tcp_host="127.0.0.1",
        tokens=TokenRegistry(""),
    )


made: list[Bindings] = []
"""By the test that runs, to be given back after it."""


class Client:
    """Of an identity, at that services."""

    def __init__(self, services: EdgeServices, identity: Identity) -> None:
        self.session = FakeSession()
        superseded = partial(self.session.close, SessionCode.LINK_REPLACED)
        self.bindings = Bindings(services.bind_context, self.session, superseded)  # type: ignore[arg-type]
        self.identity = identity
        made.append(self.bindings)

    def ask(self, lease: int = 1, *, unencrypted: bool = False, **more: Any) -> Bound | BindCode:
        fields = {"lease": lease, "unencrypted": unencrypted, "h2": False, "ticket": b""} | more
        bind = BindV2(**fields) if "client_id" in fields else Bind(**fields)
        self.bindings.bind(self.identity, bind, is_draining=False, is_resumed=False)
        answer = next(
            message for message in reversed(self.session.sent) if isinstance(message, Bound | BindRefused)
        )
        return answer if isinstance(answer, Bound) else answer.code

    def got(self, lease: int = 1, **more: Any) -> Bound:
        answer = self.ask(lease, **more)
        assert isinstance(answer, Bound), answer
        return answer


def issue_for(name: str) -> tuple[bytes, tuple[str]]:
    """Return key and certificate of a host name, PEM, with the names that they are for."""
    leaf = trustme.CA().issue_cert(name)
    return leaf.private_key_pem.bytes() + leaf.cert_chain_pems[0].bytes(), (name,)
