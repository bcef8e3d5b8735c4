"""The seam's Connection: what the rooms above hold. Everything is passed on; nothing raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.transport.engine import CloseCause, Stats

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address
    from quictunnel.transport.engines.aioquic.engine import AioquicEngine
    from quictunnel.transport.engines.aioquic.quic_connection import TunnelConnection

# Reason phrases are for people; a longer one would not leave room for itself in every packet.
MAX_REASON = 256


def printable(reason: str) -> str:
    """Text that cannot play tricks on a terminal or a log."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in reason[:MAX_REASON])


class AioquicConnection:
    """One connection of an :class:`AioquicEngine`."""

    __slots__ = (
        "_engine", "address", "admitted", "cids", "close_echo", "closes_due", "closes_seen", "connected",
        "deadline", "gone", "is_client", "is_replaced", "number", "quic", "reported", "reset_token", "scheduled",
        "told_closed",
    )  # fmt: skip

    def __init__(self, engine: AioquicEngine, quic: TunnelConnection, address: Address, deadline: float) -> None:
        self._engine = engine
        self.quic = quic
        self.address = address
        self.is_client = quic.configuration.is_client
        self.admitted = self.is_client
        self.cids: set[bytes] = set()
        """The connection IDs that are routed here."""
        self.reset_token = b""
        """The peer's token that is listened for."""
        self.deadline: float | None = deadline
        """When the handshake has taken too long; None when it is complete."""
        self.scheduled: float | None = None
        """The time of this connection's entry in the engine's heap."""
        self.number = -1
        """Of its place among strangers, on the accepting side."""
        self.is_replaced = False
        """Another has its place: it is forgotten as soon as it was told that it is over."""
        self.connected = False
        self.told_closed = False
        self.gone = False
        self.reported = False
        self.close_echo: list[bytes] = []
        """The closing packets, to be repeated while the peer goes on sending."""
        self.closes_seen = 0
        self.closes_due = 1

    def open(self) -> int | None:
        if self.told_closed or not self.connected:
            self.quic.table.refuse_open()
            return None
        return self.quic.table.open()

    def write(self, stream: int, data: bytes | memoryview) -> int:
        if self.told_closed:
            return 0
        taken = self.quic.table.write(stream, data)
        if taken:
            self._engine.touch(self)
        return taken

    def finish(self, stream: int) -> None:
        self.quic.table.finish(stream)
        self._engine.touch(self)

    def reset(self, stream: int, code: int) -> None:
        self.quic.table.reset(stream, code)
        self._engine.touch(self)

    def stop(self, stream: int, code: int) -> None:
        self.quic.table.stop(stream, code)
        self._engine.touch(self)

    def prioritise(self, stream: int) -> None:
        self.quic.table.prioritise(stream)

    def admit(self) -> None:
        if not self.admitted and not self.told_closed:
            self.admitted = True
            self.quic.admit()
            self._engine.admit(self)

    def ping(self) -> None:
        if not self.told_closed:
            self.quic.ask_for_answer()
            self._engine.touch(self)

    def migrate(self) -> None:
        if self.is_client and self.connected and not self.told_closed:
            self.quic.migrate()
            self._engine.touch(self)

    def close(self, code: int, reason: str = "") -> None:
        if not self.told_closed:
            self._engine.end(self, CloseCause.LOCAL, code, printable(reason))

    def stats(self) -> Stats:
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
