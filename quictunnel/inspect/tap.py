"""Origin and splice that report their bytes to taps, on the tunnel's thread.

The taps of the inspector put references to immutable bytes into a bounded queue (``recorder``). Those of
``summaries`` read the heads of requests and responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.origin.dial import Origin, OriginDialError
from quictunnel.transport.splice import Splice, TcpSplice, TlsSplice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quictunnel.origin.target import Target
    from quictunnel.transport.stream import Stream
    from quictunnel.wire.codes import StreamCode

ORIGIN_RESET: Final = "The origin reset the connection."


class DirectionTap(Protocol):
    """Observer of one direction of a connection. Its methods never raise."""

    def passed(self, data: bytes | list[bytes], size: int) -> None:
        """Note bytes, which do not change afterwards."""

    def ended(self) -> None:
        """Note the end of the direction."""


class ConnectionTap(Protocol):
    """Observer of one connection. Its methods never raise."""

    @property
    def request(self) -> DirectionTap:
        """Observer of the bytes from the visitor."""

    @property
    def response(self) -> DirectionTap:
        """Observer of the bytes from the origin."""

    def closed(self, why: str) -> None:
        """Note the end of the connection; ``why`` is the error, or empty."""


class TapSource(Protocol):
    """Source of a tap for each new connection."""

    def tap(self, visitor: str) -> ConnectionTap:
        """Return a tap for a new connection of a visitor (``host:port``)."""


class TappedOrigin(Origin):
    """Origin whose connections report to taps."""

    def __init__(self, target: Target | int, sources: Sequence[TapSource]) -> None:
        super().__init__(target)
        self._sources = sources

    async def dial(self, stream: Stream) -> Splice:
        """Dial the origin and splice it with a stream, as ``Origin`` does. Record a failure."""
        try:
            return await super().dial(stream)
        except OriginDialError as error:
            self._tap(stream).closed(error.failure.event_for(self.target))
            raise

    def splice(self, stream: Stream) -> Splice:
        """Return a splice that reports to a new tap."""
        kind = TappedTcpSplice if self.target.tls is None else TappedTlsSplice
        return kind(lambda splice: splice.join(stream), self._tap(stream))

    def _tap(self, stream: Stream) -> ConnectionTap:
        preface = stream.preface
        host = f"[{preface.host}]" if ":" in preface.host else preface.host
        taps = [source.tap(f"{host}:{preface.port}") for source in self._sources]
        return taps[0] if len(taps) == 1 else _TapGroup(taps)


class _DirectionGroup:
    """Several observers of one direction."""

    def __init__(self, taps: Sequence[DirectionTap]) -> None:
        self._taps = taps

    def passed(self, data: bytes | list[bytes], size: int) -> None:
        for tap in self._taps:
            tap.passed(data, size)

    def ended(self) -> None:
        for tap in self._taps:
            tap.ended()


class _TapGroup:
    """Several observers of one connection."""

    def __init__(self, taps: Sequence[ConnectionTap]) -> None:
        self._taps = taps
        self.request = _DirectionGroup([tap.request for tap in taps])
        self.response = _DirectionGroup([tap.response for tap in taps])

    def closed(self, why: str) -> None:
        for tap in self._taps:
            tap.closed(why)


class TappedSplice(Splice):
    """Base of the two splices that report their bytes and ends to a tap."""

    __slots__ = ("_request", "_response", "_tap")

    def __init__(self, on_connected: Callable[[Splice], None], tap: ConnectionTap) -> None:
        super().__init__(on_connected)
        self._tap = tap
        self._request, self._response = tap.request, tap.response

    def received(self, data: bytes) -> None:
        """Report bytes from the origin."""
        if self.lost is None:
            self._response.passed(data, len(data))
        super().received(data)

    def eof_received(self) -> bool:
        """Report the end of the origin's bytes."""
        keeps_open = super().eof_received()
        if self._has_tcp_ended:  # otherwise a reset, whose error was raised by a write
            self._response.ended()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection to the origin."""
        is_in_use = self._stream is not None and not self._stream.is_over
        super().connection_lost(exc)
        if not self.is_connected:  # otherwise its last bytes are still being read
            # Without an error, this side has closed it: after both ends, or because the origin is gone.
            is_broken = exc is not None or (is_in_use and not self.is_complete)
            self._tap.closed(ORIGIN_RESET if is_broken else "")

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Report bytes from the visitor."""
        self._request.passed(chunks, size)
        super().stream_data(chunks, size)

    def stream_end(self) -> None:
        """Report the end of the visitor's bytes."""
        self._request.ended()
        super().stream_end()

    def stream_lost(self, code: StreamCode, unconsumed: list[bytes | memoryview] | None) -> None:
        """Report the reset of the stream."""
        self._tap.closed(f"The visitor's connection was reset ({code.name.lower()}).")
        super().stream_lost(code, unconsumed)


class TappedTcpSplice(TappedSplice, TcpSplice):
    """Splice of a plain connection that reports to a tap."""

    __slots__ = ()


class TappedTlsSplice(TappedSplice, TlsSplice):
    """Splice of an origin with TLS that reports to a tap."""

    __slots__ = ()
