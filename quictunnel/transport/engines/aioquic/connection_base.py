"""The part of a connection that its reader, its sender and its address limits use.

It stands below them, so that they need not know the connection that is made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic.quic.connection import QuicConnection, QuicConnectionError
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicDeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic.recovery import QuicPacketSpace

    from quictunnel.transport.engines.aioquic.keys import OneRttKeys
    from quictunnel.transport.engines.aioquic.mtu import MtuSearch
    from quictunnel.transport.engines.aioquic.recovery import Recovery
    from quictunnel.transport.engines.aioquic.stream_table import StreamTable


class ConnectionBase(QuicConnection):
    """aioquic's connection with the attributes that the 1-RTT packet path adds; the subclass sets them."""

    random: Callable[[int], bytes]
    mtu: MtuSearch
    table: StreamTable
    recovery: Recovery
    one_rtt: OneRttKeys
    skipped: list[int]
    """The newest packet numbers that were left out: a peer that acknowledges one lies."""
    ack_waiting: int
    """Packets that wait for an acknowledgement."""
    lowest_unreported: int
    """The lowest packet number that came after the newest acknowledgement was written."""
    padded_packet: bool
    """The next packet has to be long, because it validates a path."""
    is_asking: bool
    """True if the next packet is padded to PING_SIZE."""

    def check_acked(self, largest: int, frame_type: int) -> None:
        """Raise QuicConnectionError for an acknowledgement of an unsent packet (RFC 9000 section 13.1)."""
        if largest >= self._packet_number:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "A packet was acknowledged that was not sent"
            )

    def on_own_ack_delivery(self, state: QuicDeliveryState, space: QuicPacketSpace, highest: int) -> None:
        """Drop the ranges of an ACK that the peer has acknowledged."""
        if state is QuicDeliveryState.ACKED:
            # Packets that arrived after that ACK was written were not in it.
            stop = min(highest + 1, self.lowest_unreported)
            if stop > 0:
                space.ack_queue.subtract(0, stop)
