"""Origin and splice that report their bytes to the inspector. The only code of the inspector on the tunnel's
thread.

They put references to immutable bytes into a bounded queue (``recorder``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quictunnel.origin.dial import Origin, OriginRefusedError
from quictunnel.transport.splice import TcpSplice

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.inspect.recorder import Recorder, Tap
    from quictunnel.transport.splice import Splice
    from quictunnel.transport.stream import Stream
    from quictunnel.wire.codes import StreamCode

ORIGIN_RESET: Final = "The origin reset the connection."


class TappedOrigin(Origin):
    """Origin whose connections the inspector records."""

    def __init__(self, port: int, recorder: Recorder) -> None:
        super().__init__(port)
        self._recorder = recorder

    async def join(self, stream: Stream) -> TcpSplice:
        """Dial the origin and splice it with a stream, as ``Origin`` does. Record a failure."""
        try:
            return await super().join(stream)
        except OriginRefusedError as refused:
            self._tap(stream).closed(refused.failure.event.format(port=self.port))
            raise

    def splice(self, stream: Stream) -> TcpSplice:
        """Return a splice that reports to a new tap."""
        return TappedSplice(lambda splice: splice.join(stream), self._tap(stream))

    def _tap(self, stream: Stream) -> Tap:
        preface = stream.preface
        return self._recorder.tap(f"[{preface.host}]:{preface.port}" if ":" in preface.host
                                  else f"{preface.host}:{preface.port}")  # fmt: skip


class TappedSplice(TcpSplice):
    """Splice that reports its bytes and ends to a tap."""

    __slots__ = ("_request", "_response", "_tap")

    def __init__(self, on_connected: Callable[[Splice], None], tap: Tap) -> None:
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
        if self._ended:  # otherwise a reset, whose error was raised by a write
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
