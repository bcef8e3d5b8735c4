"""The agreement of both sides of a session on where its streams go on, when a new link replaces a lost one.

Each side first sends how every stream stands (:class:`ResumeState`). A stream that the peer does not mention is
over there, or (at the edge) has never arrived. When the client's account is complete, the edge opens every stream
again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.link import PENDING
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

MAX_SETTLED: Final = 256
"""Streams that ended well here and may still be waited for there, because the last word was lost with the link:
those of a round trip or so. A stream beyond them is reset on the other side although all of it arrived."""


class ResumeOwner(Protocol):
    """The session, as its resume exchange uses it."""

    link: Link

    def spend_idle_credit(self) -> None:
        """Count an entry that changes nothing. Raises ProtocolError when there were too many."""

    def bind(self, stream: Stream, quic_stream: int) -> None:
        """Have a stream go on with a QUIC stream of the link."""

    def abandoned(self, quic_stream: int, code: int) -> None:
        """Reset a QUIC stream that belongs to no stream."""


class ResumeExchange:
    """The state of the agreement on the link of now, and what has to be remembered for the next one."""

    def __init__(self, owner: ResumeOwner, side: Side, streams: dict[int, Stream], numbers: StreamNumbers) -> None:
        """Args:
        owner: the session.
        side: its end.
        streams: its open streams, which the session goes on changing.
        numbers: those that the edge gave (edge), or that were met (client).
        """
        self._owner = owner
        self._side = side
        self._streams = streams
        self._numbers = numbers
        self._settled: deque[tuple[int, int, int, int]] = deque(maxlen=MAX_SETTLED)
        self._to_open: dict[int, Stream] = {}
        """Edge: streams that are opened again as soon as the client allows it, and those that were given up since
        it was told of them: it is told of their end in the same way."""
        self._unmentioned: set[int] | None = None
        """Streams that the peer has not said anything of yet; None when it has said how it stands."""
        self._following = 0
        """Client: the number of the edge's next stream, as it said in its account."""
        self._unknown: set[int] = set()
        """Client: numbers that the edge has named in its account and that are not open here."""
        self._parked: list[IncomingStream] = []
        """Client: streams that came before the whole of the edge's account, which says where they go on."""

    @property
    def is_pending(self) -> bool:
        """Return True if the peer has not said yet how it stands on this link."""
        return self._unmentioned is not None

    def begin(self) -> None:
        """Send how every stream stands here; the first thing said on a link that a session goes on with."""
        entries = [stream.standing() for stream in self._streams.values()]
        entries += self._settled
        if self._side is Side.EDGE:
            entries.append((self._numbers.next, 0, 0, 0))
        for start in range(0, len(entries) or 1, MAX_RESUME_ENTRIES):
            part = entries[start : start + MAX_RESUME_ENTRIES]
            self._owner.link.send(ResumeState(part, start + MAX_RESUME_ENTRIES >= len(entries)))
        self._unmentioned = set(self._streams)

    def leave_link(self) -> None:
        """Forget how far the agreement came: the link is lost."""
        self._to_open.clear()
        self._parked.clear()
        self._unknown.clear()
        self._unmentioned = None

    def remember(self, stream: Stream) -> None:
        """Remember a stream that ended well here. The peer may not hear the last of it when the link is lost."""
        self._settled.append(stream.standing())

    def tell_end_of(self, stream: Stream) -> None:
        """Edge: tell the client of the end of a stream that was given up before it was opened again."""
        self._to_open[stream.number] = stream

    def park(self, arrival: IncomingStream, number: int) -> int | None:
        """Client: have an arrival wait for the edge's account. Return the bytes that may come meanwhile; None if
        it need not wait: the account is here, or the stream is over."""
        stream = self._streams.get(number)
        if self._unmentioned is None or (stream is None and self._numbers.has_met(number)):
            return None
        self._parked.append(arrival)
        return INITIAL_WINDOW if stream is None else stream.receive_window.room

    def release_parked(self) -> None:
        """Client: have the streams go on that waited for the account."""
        parked, self._parked = self._parked, []
        for arrival in parked:
            arrival.go_on()

    def on_resume_state(self, message: ResumeState) -> bool:
        """Take in how far the peer's streams have come. Return True if that was all. Raises ProtocolError."""
        if self._unmentioned is None:
            raise ProtocolError("said how it stands without being asked")
        if not message.entries:
            self._owner.spend_idle_credit()
        for number, received, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is None:
                self._on_unknown(number, is_following=not limit)
                continue
            if number not in self._unmentioned:
                raise ProtocolError("two standings of one stream")
            self._unmentioned.remove(number)
            stream.on_resume_state(received, consumed, limit)
        if message.last:
            unmentioned, self._unmentioned = self._unmentioned, None
            self._complete(unmentioned)
        return message.last

    def open_again(self) -> None:
        """Edge: open streams on the new link, as far as the client allows."""
        while self._to_open and self._unmentioned is None:
            quic_stream = self._owner.link.open(PENDING)
            if quic_stream is None:
                return
            _, stream = self._to_open.popitem()
            if stream.is_over:
                self._owner.link.connection.stop(quic_stream, StreamCode.ABORTED)
                self._owner.abandoned(quic_stream, reset_code(StreamCode.ABORTED, stream.number))
            else:
                self._owner.link.connection.write(quic_stream, encode_preface(stream.preface))
                self._owner.bind(stream, quic_stream)

    def _on_unknown(self, number: int, *, is_following: bool) -> None:
        """Take in an entry about a stream that is not here."""
        if self._side is Side.EDGE:
            if number >= self._numbers.next:
                raise ProtocolError("a standing of a stream that never was")
            self._owner.spend_idle_credit()
            return
        if is_following:
            self._following = number
            return
        self._unknown.add(number)
        if len(self._unknown) > MAX_SKIPPED:
            raise ProtocolError("too many standings of streams that are not here")

    def _complete(self, unmentioned: set[int]) -> None:
        """Give up what the peer does not know, and open again (edge) what goes on."""
        for number in unmentioned:
            stream = self._streams.get(number)
            if stream is None:
                continue
            if self._side is Side.EDGE and stream.is_untouched:
                stream.restart()
            else:
                stream.lose(StreamCode.ABORTED)
        if self._side is Side.EDGE:
            waiting = self._to_open | self._streams
            # The smallest number last, where it is cheap to take off.
            self._to_open = {number: waiting[number] for number in sorted(waiting, reverse=True)}
            self.open_again()
        else:
            self._numbers.reconcile(self._unknown, self._following)
            self._unknown.clear()
