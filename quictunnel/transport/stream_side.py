"""The interface of what stands at this end of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from quictunnel.wire.codes import StreamCode


class StreamSide(Protocol):
    """A splice, or something that answers in its place."""

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Take bytes that came; call ``Stream.consume`` when they have left."""

    def stream_end(self) -> None:
        """Note that no more bytes will come; call ``Stream.consume_end`` when that was passed on."""

    def stream_room(self) -> None:
        """Write again: ``Stream.room`` is above zero."""

    def stream_lost(self, code: StreamCode, untaken: list[bytes | memoryview] | None) -> None:
        """Note that the stream is gone without a clean end. Nothing follows.

        Args:
            code: the reason.
            untaken: everything that was written, when the peer vouches that nobody was there to take any of it;
                it may be said again to somebody else.
        """
