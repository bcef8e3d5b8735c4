"""The engine's connection object for the layers above. Its methods delegate and never raise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from quictunnel.transport.engine import CloseCause, Stats

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address
    from quictunnel.transport.engines.aioquic.quic_connection import TunnelConnection

# Characters of a reason phrase: a longer one does not fit every packet.
MAX_REASON = 256


def printable(reason: str) -> str:
    """Return text without control characters, for terminals and logs."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in reason[:MAX_REASON])


class ConnectionOwner(Protocol):
    """The engine, as its connections use it."""

    def touch(self, connection: AioquicConnection) -> None:
        """Note that the connection has something to send."""

    def admit(self, connection: AioquicConnection) -> None:
        """Free the place of an unadmitted connection."""

    def end(self, connection: AioquicConnection, cause: CloseCause, code: int, reason: str) -> None:
        """Close the connection on this side's initiative."""


class AioquicConnection:
    """Connection of an :class:`AioquicEngine`. Implements :class:`quictunnel.transport.engine.Connection`."""

    __slots__ = (
        "_engine",
        "address",
        "admitted",
        "cids",
        "close_echo",
        "closes_due",
        "closes_seen",
        "connected",
        "deadline",
        "is_client",
        "is_close_reported",
        "is_evicted",
        "is_forgotten",
        "number",
        "quic",
        "reported",
        "reset_token",
        "scheduled",
    )  # fmt: skip

    def __init__(self, engine: ConnectionOwner, quic: TunnelConnection, address: Address, deadline: float) -> None:
        self._engine = engine
        self.quic = quic
        self.address = address
        self.is_client = quic.configuration.is_client
        self.admitted = self.is_client
        self.cids: set[bytes] = set()
        """Connection IDs that the engine routes to this connection."""
        self.reset_token = b""
        """Stateless reset token of the peer."""
        self.deadline: float | None = deadline
        """Time at which the handshake times out; None when it is complete."""
        self.scheduled: float | None = None
        """Time of this connection's entry in the engine's timer heap."""
        self.number = -1
        """Number of its place among unauthenticated connections, on the server side."""
        self.is_evicted = False
        """True if another connection took its place: it is forgotten once its close is sent."""
        self.connected = False
        self.is_close_reported = False
        self.is_forgotten = False
        self.reported = False
        self.close_echo: list[bytes] = []
        """Closing packets, which are repeated while the peer sends."""
        self.closes_seen = 0
        self.closes_due = 1

    def open(self) -> int | None:
        """Open a stream and return its number, or None if the peer allows no more now."""
        if self.is_close_reported or not self.connected:
            self.quic.table.refuse_open()
            return None
        return self.quic.table.open()

    def write(self, stream: int, data: bytes | memoryview) -> int:
        """Queue data on a stream and return how many bytes were taken."""
        if self.is_close_reported:
            return 0
        taken = self.quic.table.write(stream, data)
        if taken:
            self._engine.touch(self)
        return taken

    def finish(self, stream: int) -> None:
        """End a stream's sending direction after the queued data."""
        self.quic.table.finish(stream)
        self._engine.touch(self)

    def reset(self, stream: int, code: int) -> None:
        """Abort a stream's sending direction with an error code."""
        self.quic.table.reset(stream, code)
        self._engine.touch(self)

    def stop(self, stream: int, code: int) -> None:
        """Ask the peer to stop sending on a stream, with an error code."""
        self.quic.table.stop(stream, code)
        self._engine.touch(self)

    def prioritise(self, stream: int) -> None:
        """Send a stream's data before that of ordinary streams."""
        self.quic.table.prioritise(stream)

    def admit(self) -> None:
        """Raise the limits of a peer that has authenticated."""
        if not self.admitted and not self.is_close_reported:
            self.admitted = True
            self.quic.admit()
            self._engine.admit(self)

    def ping(self) -> None:
        """Send a PING to elicit an acknowledgement."""
        if not self.is_close_reported:
            self.quic.ask_for_answer()
            self._engine.touch(self)

    def migrate(self) -> None:
        """Continue on the socket's new local address (RFC 9000 section 9)."""
        if self.is_client and self.connected and not self.is_close_reported:
            self.quic.migrate()
            self._engine.touch(self)

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection with an application error code."""
        if not self.is_close_reported:
            self._engine.end(self, CloseCause.LOCAL, code, printable(reason))

    def stats(self) -> Stats:
        """Return the current statistics."""
        quic = self.quic
        loss = quic.recovery
        return Stats(
            rtt=loss.smoothed_rtt,
            congestion_window=loss.congestion_window,
            bytes_in_flight=loss.bytes_in_flight,
            datagram_size=quic.mtu.size,
            bytes_sent=quic.sender.bytes,
            bytes_received=quic.bytes_received,
            packets_sent=quic.sender.packets,
            packets_received=quic.packets_received,
            packets_lost=loss.packets_lost,
            packets_acked=loss.packets_acked,
            streams_open=len(quic.table.streams),
            last_heard=quic.heard,
        )
