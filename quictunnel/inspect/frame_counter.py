"""Count of the requests on a connection with HTTP/2, whose heads are compressed (RFC 7541)."""

from __future__ import annotations

from typing import Final

MAX_FRAMES: Final = 1024
"""HTTP/2 frames to read of one piece of data. Beyond it, requests of the connection are not counted any more."""
_HEADERS: Final = 1
"""Type of a HEADERS frame (RFC 9113 section 6.2). A client sends one for a request, and one for its trailers."""


class FrameCounter:
    """Counter of the requests of a connection with HTTP/2: HEADERS frames of the visitor that open a stream."""

    def __init__(self, skip: int) -> None:
        """``skip``: bytes before the first frame."""
        self.requests = 0
        self._skip = skip
        self._head = b""
        self._last_stream = 0
        self._is_lost = False

    def passed(self, data: bytes | list[bytes]) -> None:
        """Count the requests in the visitor's next bytes."""
        frames = 0
        for piece in (data,) if isinstance(data, bytes) else data:
            at = 0
            while at < len(piece) and not self._is_lost:
                if self._skip:
                    step = min(self._skip, len(piece) - at)
                    self._skip -= step
                    at += step
                    continue
                need = 9 - len(self._head)  # a frame's header (RFC 9113 section 4.1)
                self._head += piece[at : at + need]
                at += need
                if len(self._head) == 9:
                    self._on_frame()
                    frames += 1
                    self._is_lost = frames > MAX_FRAMES

    def _on_frame(self) -> None:
        stream = int.from_bytes(self._head[5:], "big") & 0x7FFFFFFF
        if self._head[3] == _HEADERS and stream > self._last_stream:
            self._last_stream = stream
            self.requests += 1
        self._skip = int.from_bytes(self._head[:3], "big")
        self._head = b""
