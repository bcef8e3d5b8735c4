"""Reading the frames of 1-RTT packets.

Frames that move bytes and windows go to the stream table; those of aioquic's state machine (connection IDs,
path validation, closing) go to its own functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioquic._buffer import Buffer, BufferReadError
from aioquic.buffer import UINT_VAR_MAX
from aioquic.quic.connection import STREAM_COUNT_MAX, QuicConnectionError, QuicNetworkPath, QuicReceiveContext
from aioquic.quic.packet import PROBING_FRAME_TYPES, QuicErrorCode, QuicFrameType
from aioquic.tls import Epoch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quictunnel.transport.engines.aioquic.connection_base import ConnectionBase

# ACK frames in one packet. An honest sender writes one; two hundred are an attack on this side's CPU.
MAX_ACK_FRAMES = 4
# Ranges in one ACK frame. An honest sender keeps a few dozen.
MAX_ACK_RANGES = 512
# PATH_CHALLENGE and PATH_RESPONSE frames to process in one packet. An honest sender writes one of each (RFC 9000
# section 8.2.1); forty cost eight times as much as the packet itself.
MAX_PATH_FRAMES = 4
PATH_FRAMES = frozenset({0x1A, 0x1B})
# Bytes in either of them (RFC 9000 sections 19.17 and 19.18).
PATH_DATA = 8
# Frame types that do not elicit an acknowledgement (RFC 9002 section 2).
NOT_ELICITING = frozenset({0x00, 0x02, 0x03, 0x1C, 0x1D})
# Frame types that aioquic's reader handles; all others are handled here or rejected.
INHERITED = frozenset({0x06, 0x07, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E})


class QuicFrameReader:
    """Parser of the payloads of 1-RTT packets, for one connection."""

    def __init__(self, connection: ConnectionBase, inherited: Mapping[int, Any]) -> None:
        self._connection = connection
        self._inherited = {kind: inherited[kind][0] for kind in INHERITED}
        self.probing = False
        """True if the last packet had only probing frames (RFC 9000 section 9.1)."""
        self._path_frames = 0

    def read(self, payload: bytes, path: QuicNetworkPath, now: float, host_cid: bytes | None = None) -> bool:
        """Process all frames of a packet. Return True if the packet must be acknowledged.

        Raises:
            QuicConnectionError: a frame is malformed or violates the protocol.
        """
        if not payload:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.PADDING, "Packet contains no frames"
            )
        buf = Buffer(data=payload)
        eliciting = False
        probing = True
        acks = self._path_frames = 0
        kind = 0
        try:
            while not buf.eof():
                kind = buf.pull_uint_var()
                if 0x08 <= kind <= 0x0F:
                    self._stream(kind, buf)
                elif kind in (0x02, 0x03):
                    acks += 1
                    self._ack(kind, buf, now, acks)
                    probing = False
                    continue
                elif kind == 0x00:
                    _skip_padding(buf, payload)
                    continue
                elif kind in PATH_FRAMES:
                    self._path(kind, buf, path, now, host_cid)
                elif kind != 0x01:
                    self._other(kind, buf, path, now, host_cid)
                eliciting = eliciting or kind not in NOT_ELICITING
                probing = probing and kind in PROBING_FRAME_TYPES
        except BufferReadError:
            raise QuicConnectionError(
                QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Frame could not be parsed"
            ) from None
        self.probing = probing
        return eliciting

    def _stream(self, kind: int, buf: Buffer) -> None:
        number = buf.pull_uint_var()
        offset = buf.pull_uint_var() if kind & 4 else 0
        length = buf.pull_uint_var() if kind & 2 else buf.capacity - buf.tell()
        if offset + length > UINT_VAR_MAX:
            raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Offset is too large")
        self._connection.table.on_stream(number, offset, buf.pull_bytes(length), bool(kind & 1))

    def _ack(self, kind: int, buf: Buffer, now: float, count: int) -> None:
        largest = buf.pull_uint_var()
        delay = buf.pull_uint_var()
        more = buf.pull_uint_var()
        connection = self._connection
        connection.check_acked(largest, kind)
        if count > MAX_ACK_FRAMES or more > MAX_ACK_RANGES:
            raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, kind, "Too many acknowledgements")
        stop = largest + 1
        start = stop - 1 - buf.pull_uint_var()
        ranges = [(start, stop)]
        for _ in range(more):
            stop = start - buf.pull_uint_var() - 1
            start = stop - 1 - buf.pull_uint_var()
            ranges.append((start, stop))
        if start < 0:
            raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Negative packet number")
        if kind == 0x03:
            for _ in range(3):
                buf.pull_uint_var()
        for skipped in connection.skipped:
            for start, stop in ranges:
                if start <= skipped < stop:
                    raise QuicConnectionError(
                        QuicErrorCode.PROTOCOL_VIOLATION, kind, "A packet was acknowledged that was not sent"
                    )
        ranges.reverse()
        connection.recovery.peer_completed_address_validation = True
        seconds = (min(delay, 1 << 24) << connection._remote_ack_delay_exponent) / 1_000_000
        connection.recovery.on_ranges(ranges, seconds, now, connection._spaces[Epoch.ONE_RTT])

    def _path(self, kind: int, buf: Buffer, path: QuicNetworkPath, now: float, host_cid: bytes | None) -> None:
        self._path_frames += 1
        if self._path_frames > MAX_PATH_FRAMES:
            buf.pull_bytes(PATH_DATA)
        else:
            self._inherited_frame(kind, buf, path, now, host_cid)

    def _other(self, kind: int, buf: Buffer, path: QuicNetworkPath, now: float, host_cid: bytes | None) -> None:
        table = self._connection.table
        if kind == 0x10:
            table.on_max_data(buf.pull_uint_var())
        elif kind == 0x11:
            table.on_max_stream_data(buf.pull_uint_var(), buf.pull_uint_var())
        elif kind in (0x12, 0x13):
            value = buf.pull_uint_var()
            if value > STREAM_COUNT_MAX:
                raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Too many streams")
            if kind == 0x12:
                table.on_max_streams(value)
        elif kind == 0x04:
            table.on_reset(buf.pull_uint_var(), buf.pull_uint_var(), buf.pull_uint_var())
        elif kind == 0x05:
            table.on_stop(buf.pull_uint_var(), buf.pull_uint_var())
        elif kind in (0x14, 0x16, 0x17):
            buf.pull_uint_var()  # *_BLOCKED needs no reaction: windows follow delivery
        elif kind == 0x15:
            buf.pull_uint_var()
            buf.pull_uint_var()
        else:
            self._inherited_frame(kind, buf, path, now, host_cid)

    def _inherited_frame(
        self, kind: int, buf: Buffer, path: QuicNetworkPath, now: float, host_cid: bytes | None
    ) -> None:
        frame_reader = self._inherited.get(kind)
        if frame_reader is None:
            raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Unknown frame type")
        context = QuicReceiveContext(
            epoch=Epoch.ONE_RTT,
            host_cid=self._connection.host_cid if host_cid is None else host_cid,
            network_path=path,
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        frame_reader(context, kind, buf)


def _skip_padding(buf: Buffer, payload: bytes) -> None:
    rest = payload[buf.tell() :]
    buf.seek(buf.tell() + len(rest) - len(rest.lstrip(b"\0")))
