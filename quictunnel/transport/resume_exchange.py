"""Exchange of stream offsets between both ends of a session when a new link replaces a lost one.

Each end first sends the offsets of every stream (:class:`ResumeState`). A stream that is missing in the edge's
list is over at the edge. One that is missing in the client's list is over at the client, or has never arrived
there. When the client's list is complete, the edge opens every stream again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.link import PLACEHOLDER_HANDLER
from quictunnel.wire.codes import StreamCode, reset_code
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import MAX_RESUME_ENTRIES, ResumeState
from quictunnel.wire.numbers import MAX_SKIPPED
from quictunnel.wire.preface import encode_preface

if TYPE_CHECKING:
    from quictunnel.transport.incoming_stream import IncomingStream
    from quictunnel.transport.link import Link
    from quictunnel.transport.stream import Stream
    from quictunnel.wire.numbers import StreamNumbers

MAX_REMEMBERED: Final = 256
"""Finished streams that are remembered, because the last frame to the peer may have been lost with the link: about
those of one round trip. Older ones are reset at the peer although everything arrived."""


class ResumeOwner(Protocol):
    """The session, as its resume exchange uses it."""

    link: Link

    def count_useless_entry(self) -> None:
        """Count an entry that changes nothing. Raises ProtocolError above a limit."""

    def attach_quic_stream(self, stream: Stream, quic_stream: int) -> None:
        """Continue a stream on a QUIC stream of the link."""

    def reject(self, quic_stream: int, code: int) -> None:
        """Reset a QUIC stream that belongs to no stream."""


class ResumeExchange:
    """State of the exchange on the current link, and streams remembered for the next one."""

    def __init__(self, owner: ResumeOwner, side: Side, streams: dict[int, Stream], numbers: StreamNumbers) -> None:
        """Create the exchange of one session.

        Args:
            owner: the session.
            side: the end of the session that it is.
            streams: the session's open streams; shared with it.
            numbers: numbers that the edge has assigned (edge) or that were seen (client).
        """
        self._owner = owner
        self._side = side
        self._streams = streams
        self._numbers = numbers
        self._ended: deque[tuple[int, int, int, int]] = deque(maxlen=MAX_REMEMBERED)
        self._to_open: dict[int, Stream] = {}
        """Edge: streams to open again as soon as the client's limit allows it. Those that were aborted since the
        edge sent its ResumeState are opened as well, to be reset."""
        self._unmentioned: set[int] | None = None
        """Streams that the peer's ResumeState has not named yet; None when it is complete."""
        self._next_number = 0
        """Client: number of the edge's next stream, from its ResumeState."""
        self._unknown: set[int] = set()
        """Client: numbers in the edge's ResumeState that are not open here."""
        self._parked: list[IncomingStream] = []
        """Client: streams that arrived before the edge's ResumeState was complete."""

    @property
    def is_pending(self) -> bool:
        """Return True if the peer's ResumeState is not complete yet on this link."""
        return self._unmentioned is not None

    def begin(self) -> None:
        """Send the offsets of every stream: the first message of a session on a new link."""
        entries = [stream.resume_entry() for stream in self._streams.values()]
        entries += self._ended
        if self._side is Side.EDGE:
            # The number of the next stream, told apart by its limit of 0: the limit of a stream is never 0.
            entries.append((self._numbers.next, 0, 0, 0))
        for start in range(0, len(entries) or 1, MAX_RESUME_ENTRIES):
            part = entries[start : start + MAX_RESUME_ENTRIES]
            self._owner.link.send(ResumeState(part, start + MAX_RESUME_ENTRIES >= len(entries)))
        self._unmentioned = set(self._streams)

    def leave_link(self) -> None:
        """Reset the state of the exchange: the link is lost."""
        self._to_open.clear()
        self._parked.clear()
        self._unknown.clear()
        self._unmentioned = None

    def remember(self, stream: Stream) -> None:
        """Remember a stream that ended cleanly. Its last frame may be lost with the link."""
        self._ended.append(stream.resume_entry())

    def reset_later(self, stream: Stream) -> None:
        """Edge: send the client a reset of a stream that was aborted before it was opened again."""
        self._to_open[stream.number] = stream

    def park(self, incoming: IncomingStream, number: int) -> int | None:
        """Client: let an incoming stream wait for the edge's ResumeState.

        Returns:
            The number of bytes that may arrive meanwhile. None if the stream need not wait, because the
            ResumeState is complete or the stream is over.
        """
        stream = self._streams.get(number)
        if self._unmentioned is None or (stream is None and self._numbers.has_seen(number)):
            return None
        self._parked.append(incoming)
        return INITIAL_WINDOW if stream is None else stream.receive_window.room

    def release_parked(self) -> None:
        """Client: start the streams that waited for the ResumeState."""
        parked, self._parked = self._parked, []
        for incoming in parked:
            incoming.start()

    def on_resume_state(self, message: ResumeState) -> bool:
        """Handle offsets of the peer's streams. Return True if they are complete. Raises ProtocolError."""
        if self._unmentioned is None:
            raise ProtocolError("an unexpected ResumeState")
        if not message.entries:
            self._owner.count_useless_entry()
        for number, received, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is None:
                self._on_unknown(number, is_next=not limit)
                continue
            if number not in self._unmentioned:
                raise ProtocolError("two entries of one stream in a ResumeState")
            self._unmentioned.remove(number)
            stream.on_resume_state(received, consumed, limit)
        if message.last:
            unmentioned, self._unmentioned = self._unmentioned, None
            self._complete(unmentioned)
        return message.last

    def open_again(self) -> None:
        """Edge: open streams on the new link, as far as the client allows."""
        while self._to_open and self._unmentioned is None:
            quic_stream = self._owner.link.open(PLACEHOLDER_HANDLER)
            if quic_stream is None:
                return
            _, stream = self._to_open.popitem()
            if stream.is_over:
                self._owner.link.connection.stop(quic_stream, StreamCode.ABORTED)
                self._owner.reject(quic_stream, reset_code(StreamCode.ABORTED, stream.number))
            else:
                self._owner.link.connection.write(quic_stream, encode_preface(stream.preface))
                self._owner.attach_quic_stream(stream, quic_stream)

    def _on_unknown(self, number: int, *, is_next: bool) -> None:
        """Handle an entry about a stream that is not open here."""
        if self._side is Side.EDGE:
            if number >= self._numbers.next:
                raise ProtocolError("a ResumeState with a stream that was never opened")
            self._owner.count_useless_entry()
            return
        if is_next:
            self._next_number = number
            return
        self._unknown.add(number)
        if len(self._unknown) > MAX_SKIPPED:
            raise ProtocolError("a ResumeState with too many unknown streams")

    def _complete(self, unmentioned: set[int]) -> None:
        """Abort streams that the peer does not know; at the edge, open the others again."""
        for number in unmentioned:
            stream = self._streams.get(number)
            if stream is None:
                continue
            if self._side is Side.EDGE and stream.can_send_all_again:
                stream.send_all_again()
            else:
                stream.fail(StreamCode.ABORTED)
        if self._side is Side.EDGE:
            waiting = self._to_open | self._streams
            # The smallest number last, where it is cheap to take off.
            self._to_open = {number: waiting[number] for number in sorted(waiting, reverse=True)}
            self.open_again()
        else:
            self._numbers.forget_skipped(except_open=self._unknown, next_number=self._next_number)
            self._unknown.clear()
