"""Types of the values that the API shows of a running edge."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Timestamp = Annotated[float, Meta(description="Seconds since the epoch.")]
Seconds = Annotated[float, Meta(description="Seconds.", ge=0)]
Count = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(description="Bytes.", ge=0)]
Rate = Annotated[float, Meta(description="Bytes a second, since the previous measurement.", ge=0)]

OwnerName = Annotated[str, Meta(description="Note of the owner's token; empty: none.")]


class Engine(msgspec.Struct, frozen=True):
    """A QUIC engine."""

    name: str
    version: str


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """The edge as a whole."""

    version: str
    engine: Engine
    process: Annotated[int, Meta(description="Process ID.")]
    started_at: Timestamp
    uptime: Seconds
    domain: Annotated[str, Meta(description="Domain of the tunnels' names.")]
    https_port: Count
    quic: Annotated[str, Meta(description="host:port for clients.")]
    is_draining: Annotated[bool, Meta(description="It accepts no connections, and ends with its last visitor.")]
    certificate_expires_at: Annotated[
        Timestamp | None, Meta(description="First expiry of the certificates for visitors.")
    ]
    loop_lag: Annotated[Seconds, Meta(description="Largest delay of its event loop in the last minute.")]
    sessions: Count
    sessions_away: Annotated[int, Meta(description="Sessions without a link now.", ge=0)]
    strangers: Annotated[int, Meta(description="Clients that have not authenticated yet.", ge=0)]
    tunnels: Count
    visitors: Count
    visitors_cap: Annotated[int, Meta(description="Maximum of active visitors.", ge=0)]
    visitors_came: Annotated[int, Meta(description="Visitors admitted since the start.", ge=0)]
    visitors_refused: Annotated[int, Meta(description="Visitors rejected at capacity.", ge=0)]
    bytes_in: Annotated[int, Meta(description="Bytes from visitors to origins, since the start.", ge=0)]
    bytes_out: Annotated[int, Meta(description="Bytes from origins to visitors.", ge=0)]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The QUIC connection that carries a session, as this edge's side knows it."""

    rtt: Seconds
    packets_sent: Count
    packets_lost: Count
    loss: Annotated[float | None, Meta(description="Fraction of packets lost, 0 to 1; null before any was sent.")]
    bytes_in_flight: Bytes
    congestion_window: Bytes
    datagram_size: Bytes
    bytes_sent: Bytes
    bytes_received: Bytes
    silent_for: Annotated[Seconds, Meta(description="Time since the last authentic packet of the client.")]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The session of one client."""

    id: str
    owner: Annotated[str, Meta(description="Key of its token, which is public.")]
    owner_name: OwnerName
    address: Annotated[str, Meta(description="host:port of its last packet.")]
    software: Annotated[str, Meta(description="Software name and version that the client sent.")]
    engine: Annotated[str, Meta(description="The QUIC engine of this side.")]
    age: Seconds
    is_away: Annotated[bool, Meta(description="Its link is lost; it may resume.")]
    link: Annotated[Link | None, Meta(description="null while it is disconnected.")]
    streams: Annotated[int, Meta(description="Its visitors.", ge=0)]
    tunnels: Annotated[list[str], Meta(description="Names of its tunnels.")]
    is_traced: Annotated[bool, Meta(description="Traced on request; also true while it is disconnected.")]
    qlog: Annotated[
        str | None,
        Meta(description="Trace file of its current link, on request or by ``--qlog``; null: none."),
    ]


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """A public name."""

    name: str
    url: str
    tcp_port: Annotated[int | None, Meta(description="Its public TCP port, if it has one.")]
    owner: str
    owner_name: OwnerName
    members: Annotated[
        int, Meta(description="Clients that share it; 0: reserved for one that may reconnect.", ge=0)
    ]
    is_passthrough: Annotated[bool, Meta(description="TLS ends at the origin.")]
    age: Seconds
    visitors: Count
    came: Annotated[int, Meta(description="Visitors since its clients bound it.", ge=0)]
    bytes_in: Annotated[int, Meta(description="Bytes from visitors, since its clients bound it.", ge=0)]
    bytes_out: Annotated[int, Meta(description="Bytes to visitors.", ge=0)]
    rate_in: Rate
    rate_out: Rate


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """An open public connection."""

    id: str
    address: str
    port: int
    tunnel: str
    owner: str
    owner_name: OwnerName
    kind: Annotated[str, Meta(description="tls, tcp or passthrough.")]
    tls: Annotated[str, Meta(description="TLS version, if TLS ends at the edge; else empty.")]
    age: Seconds
    is_waiting: Annotated[bool, Meta(description="Waits for a client that is disconnected.")]
    bytes_in: Bytes
    bytes_out: Bytes


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate for visitors, existing or ordered."""

    names: Annotated[list[str], Meta(description="Its host names; the first is its identifier.")]
    by_acme: Annotated[
        bool, Meta(description="Issued by ACME. Otherwise from the operator's files or the development CA.")
    ]
    expires_at: Annotated[Timestamp | None, Meta(description="null: not issued yet.")]
    renew_at: Timestamp | None = None
    next_try: Annotated[Timestamp | None, Meta(description="Time of the next try; null: none.")] = None
    is_ordering: bool = False
    failures: Annotated[int, Meta(description="Consecutive failures.", ge=0)] = 0
    last_error: Annotated[str, Meta(description="Error of the last try; empty after a success.")] = ""
