"""Where the inspector touches the tunnel: an origin whose splices say what passes. All that runs on its thread.

What is said is references to bytes that nobody changes any more, put into a bounded queue (``recorder``).
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

BROKEN_OFF: Final = "The origin broke the connection off."


class TappedOrigin(Origin):
    """An origin whose visitors are looked at."""

    def __init__(self, port: int, recorder: Recorder) -> None:
        super().__init__(port)
        self._recorder = recorder

    async def join(self, stream: Stream) -> TcpSplice:
        try:
            return await super().join(stream)
        except OriginRefusedError as refused:
            self._tap(stream).gone(refused.failure.event.format(port=self.port))
            raise

    def splice(self, stream: Stream) -> TcpSplice:
        return TappedSplice(lambda splice: splice.join(stream), self._tap(stream))

    def _tap(self, stream: Stream) -> Tap:
        preface = stream.preface
        return self._recorder.tap(f"[{preface.host}]:{preface.port}" if ":" in preface.host
                                  else f"{preface.host}:{preface.port}")  # fmt: skip


class TappedSplice(TcpSplice):
    """A splice that tells what it passes on."""

    __slots__ = ("_request", "_response", "_tap")

    def __init__(self, on_made: Callable[[Splice], None], tap: Tap) -> None:
        super().__init__(on_made)
        self._tap = tap
        self._request, self._response = tap.request, tap.response

    def received(self, data: bytes) -> None:
        if self.lost is None:
            self._response.passed(data, len(data))
        super().received(data)

    def eof_received(self) -> bool:
        keeps_open = super().eof_received()
        if self._ended:  # what looks like an end may be a reset whose error went to a write
            self._response.ended()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        is_in_use = self._stream is not None and not self._stream.is_over
        super().connection_lost(exc)
        if not self.is_connected:  # otherwise what it said before is still being read
            # Without an error it was closed by this side: after both ends, or because the origin was found gone.
            is_broken = exc is not None or (is_in_use and not self.is_complete)
            self._tap.gone(BROKEN_OFF if is_broken else "")

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        self._request.passed(chunks, size)
        super().stream_data(chunks, size)

    def stream_end(self) -> None:
        self._request.ended()
        super().stream_end()

    def stream_lost(self, code: StreamCode, untaken: list[bytes | memoryview] | None) -> None:
        self._tap.gone(f"The visitor's connection was broken off ({code.name.lower()}).")
        super().stream_lost(code, untaken)
