"""The record of a 1-RTT packet in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioquic.quic.packet import QuicPacketType
from aioquic.tls import Epoch

if TYPE_CHECKING:
    from collections.abc import Callable


class SentPacket:
    """1-RTT packet in flight: the fields of aioquic's record that recovery reads."""

    __slots__ = ("delivery_handlers", "in_flight", "is_ack_eliciting", "packet_number", "sent_bytes", "sent_time")

    epoch = Epoch.ONE_RTT
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT

    def __init__(self, number: int, now: float, handlers: list[tuple[Callable[..., Any], Any]]) -> None:
        self.packet_number = number
        self.sent_time = now
        self.delivery_handlers = handlers
        self.sent_bytes = 0
        self.in_flight = True
        self.is_ack_eliciting = True
