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
    """Session, as its incoming streams use it."""

    link: Link

    def arrived(self, preface: Preface, quic_stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Create the stream of a preface, or continue it."""

    def park(self, incoming: IncomingStream, number: int) -> int | None:
        """Let a stream wait for the edge's ResumeState. Return the bytes that may arrive meanwhile; None:
        start."""

    def reset_before_start(self, quic_stream: int, code: StreamCode, number: int | None) -> None:
        """Handle a reset by the edge before the stream was started here."""


class IncomingStream:
    """Stream whose preface is not complete, or that waits for the edge's ResumeState.

    Streams may overtake the ResumeState, which has the offset at which a resumed stream continues. Waiting bytes
    are bounded by the stream's credit."""

    __slots__ = ("_chunks", "_credit", "_ended", "_preface", "_quic_stream", "_reader", "_session", "_stop_code")

    def __init__(self, session: IncomingStreamOwner, quic_stream: int) -> None:
        self._session = session
        self._quic_stream = quic_stream
        self._reader = PrefaceReader()
        self._preface: Preface | None = None
        self._chunks: list[bytes] = []
        """Bytes after the preface."""
        self._credit = 0
        """Bytes that may still arrive while the stream waits."""
        self._ended = False
        self._stop_code: int | None = None

    def data(self, chunks: list[bytes], *, end: bool) -> None:
        """Parse the preface; keep the bytes after it. Raises ProtocolError."""
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
                    self.start()
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

    def start(self) -> None:
        """Create the stream of the preface, or continue it; called once. Raises ProtocolError."""
        if self._preface is not None:
            chunks, self._chunks = self._chunks, []
            self._session.arrived(self._preface, self._quic_stream, chunks, end=self._ended)
            if self._stop_code is not None:
                self._session.link.stopped(self._quic_stream, self._stop_code)

    def reset(self, code: int) -> None:
        """Handle a reset: the visitor left before the stream was reported to anybody. Reset this direction as
        well."""
        number = self._preface.stream if self._preface is not None else reset_stream_number(code)
        self._preface = None
        self._session.reset_before_start(self._quic_stream, stream_code(code), number)

    def stopped(self, code: int) -> None:
        """Handle a stop by the edge: pass it on when the stream is created.

        No reset follows if the edge has aborted the other direction too, and all of its bytes arrived."""
        self._stop_code = code

    def writable(self) -> None:
        """Do nothing, because nothing was written."""
