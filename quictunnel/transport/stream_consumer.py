"""Interface of the consumer of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from quictunnel.wire.codes import StreamCode


class StreamConsumer(Protocol):
    """Consumer of a stream: a splice, or a responder in place of an origin."""

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Handle bytes that arrived; call ``Stream.consume`` when they are passed on."""

    def stream_end(self) -> None:
        """Handle the end of the bytes; call ``Stream.consume_end`` when it is passed on."""

    def stream_room(self) -> None:
        """Write again: ``Stream.room`` is above zero."""

    def stream_lost(self, code: StreamCode, unconsumed: list[bytes | memoryview] | None) -> None:
        """Handle a stream that was lost without a clean end. No call follows.

        Args:
            code: the reason.
            unconsumed: everything that was written, if the peer guarantees that none of it was consumed: it may be
                written to another stream. Else None.
        """
