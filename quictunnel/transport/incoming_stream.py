"""A stream that an edge has opened, before it becomes a :class:`Stream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.wire.codes import reset_stream_number, stream_code
from quictunnel.wire.preface import PrefaceReader

if TYPE_CHECKING:
    from quictunnel.transport.link import Link
    from quictunnel.wire.codes import StreamCode
    from quictunnel.wire.preface import Preface


class IncomingStreamOwner(Protocol):
    """The session, as the streams that come in use it."""

    link: Link

    def arrived(self, preface: Preface, quic_stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Begin the stream that a preface names, or go on with it."""

    def park(self, arrival: IncomingStream, number: int) -> int | None:
        """Have a stream wait for the edge's account. Return the bytes that may come meanwhile; None: go on."""

    def gave_up_early(self, quic_stream: int, code: StreamCode, number: int | None) -> None:
        """Note that the edge reset a stream before it began here."""


class IncomingStream:
    """A stream whose preface is still coming in, or that waits for the edge's account of its streams.

    The account may be overtaken, and says where a stream goes on that was here before. What waits is bounded by
    the stream's credit."""

    __slots__ = ("_chunks", "_credit", "_ended", "_preface", "_quic_stream", "_reader", "_session", "_stop_code")

    def __init__(self, session: IncomingStreamOwner, quic_stream: int) -> None:
        self._session = session
        self._quic_stream = quic_stream
        self._reader = PrefaceReader()
        self._preface: Preface | None = None
        self._chunks: list[bytes] = []
        """The bytes behind the preface."""
        self._credit = 0
        """Bytes that may still come while it waits."""
        self._ended = False
        self._stop_code: int | None = None

    def data(self, chunks: list[bytes], *, end: bool) -> None:
        """Read the preface; keep what follows it. Raises ProtocolError."""
        self._ended = end
        if self._preface is not None:
            self._keep(chunks)
            return
        for index, chunk in enumerate(chunks):
            parsed = self._reader.feed(chunk)
            if parsed is not None:
                self._preface, rest = parsed
                following = [rest, *chunks[index + 1 :]] if rest else chunks[index + 1 :]
                credit = self._session.park(self, self._preface.stream)
                if credit is None:
                    self._chunks = following
                    self.go_on()
                else:
                    self._credit = credit
                    self._keep(following)
                return
        if end:
            raise ProtocolError("a stream ended within its preface")

    def _keep(self, chunks: list[bytes]) -> None:
        self._credit -= sum(map(len, chunks))
        if self._credit < 0:
            raise ProtocolError("bytes beyond the credit")
        self._chunks += chunks

    def go_on(self) -> None:
        """Become the stream that the preface names; called once. Raises ProtocolError."""
        if self._preface is not None:
            chunks, self._chunks = self._chunks, []
            self._session.arrived(self._preface, self._quic_stream, chunks, end=self._ended)
            if self._stop_code is not None:
                self._session.link.stopped(self._quic_stream, self._stop_code)

    def reset(self, code: int) -> None:
        """Close our half: the visitor left before anything was known of it, so nobody is to be told."""
        number = self._preface.stream if self._preface is not None else reset_stream_number(code)
        self._preface = None
        self._session.gave_up_early(self._quic_stream, stream_code(code), number)

    def stopped(self, code: int) -> None:
        """Note that the edge takes nothing of this stream, and tell the stream when it is here.

        No reset follows if the edge has given up the other direction too, and all of that arrived."""
        self._stop_code = code

    def writable(self) -> None:
        """Do nothing: nothing was written."""
