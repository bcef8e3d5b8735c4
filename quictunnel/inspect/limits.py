"""Limits of the inspector. Together they keep its memory below about 60 MiB with any traffic."""

from __future__ import annotations

from typing import Final

MAX_EXCHANGES: Final = 500
"""Exchanges to store. The oldest completed one is evicted first."""
MAX_STORED: Final = 32 * 1024 * 1024
"""Bytes that all exchanges together may store; the oldest are evicted."""
MAX_BODY: Final = 256 * 1024
"""Bytes to store of each body. Of the rest only the size is counted."""
MAX_RAW: Final = 64 * 1024
"""Bytes to store of each direction of a connection that is not HTTP/1: 4,096 lines of a hex dump."""
MAX_HEAD: Final = 64 * 1024
"""Bytes of a message's head; servers reject a quarter of that. A longer head is shown as raw bytes."""
MAX_PAGE_HEAD: Final = 64 * 1024
"""Bytes of the head of a request for the page itself: browsers send the cookies of all local servers with it."""
MAX_NOTE: Final = 300
"""Characters of a note, which may quote a peer."""
MAX_PIPELINED: Final = 32
"""Requests of one connection without a response; browsers send one at a time."""
MAX_INTERIM: Final = 16
"""Interim responses (1xx) to record of one exchange."""
MAX_CHUNK_LINE: Final = 4096
"""Bytes of a line with a chunk's size, and of a line of a trailer."""

MAX_FRAMES: Final = 1000
"""WebSocket messages to store of one exchange; the oldest are evicted."""
MAX_FRAME: Final = 16 * 1024
"""Bytes to store of one WebSocket message."""
MAX_STORED_FRAMES: Final = 1024 * 1024
"""Bytes that the WebSocket messages of one exchange together may store."""
MAX_INFLATED: Final = 1024 * 1024
"""Bytes of one decompressed WebSocket message. Beyond it, that direction is not decompressed any more: a
compression ratio of 1000 is easy to reach, and a part cannot be skipped, because later messages refer to it."""

MAX_DECODED: Final = 256 * 1024
"""Bytes to show of a decompressed body; it also limits the cost of a decompression bomb."""
MAX_CODINGS: Final = 3
"""Nested content codings to decode."""

MAX_FIELDS: Final = 200
"""Fields of a form to show."""
MAX_FIELD: Final = 4096
"""Bytes to show of the value of a field or of a file in a form."""
MAX_FIELD_NAME: Final = 200
"""Characters of the name of a field or file."""
MAX_PART_HEAD: Final = 4096
"""Bytes of the headers of a part of a multipart body."""
MAX_PIXELS: Final = 16 * 1024 * 1024
"""Pixels of an image to show: 64 MiB in the memory of a browser."""
MAX_SEGMENTS: Final = 200
"""Segments of a JPEG image before the one with its size."""

MAX_SEARCH_TEXT: Final = 200
"""Characters of a text to search for."""
MAX_SEARCHES: Final = 2
"""Searches at the same time."""
SEARCH_TIME: Final = 2.0
"""Seconds of work for one search. All that the store holds usually takes less than one."""
SEARCH_PAUSE_FACTOR: Final = 1.0
"""Pause after each exchange of a search as a multiple of its duration: a person waits for it, so it may use half a
core."""

MAX_CONNECTIONS: Final = 1000
"""Connections to follow at once; further ones are only counted."""
MAX_PARSING: Final = 8 * 1024 * 1024
"""Bytes of incomplete heads that all connections together may buffer."""
MAX_QUEUED: Final = 8 * 1024 * 1024
"""Bytes in the queue: a few hundredths of a second at full speed. Bytes beyond it are not recorded."""
REPORT_BYTES: Final = 1024 * 1024
"""Bytes between two reports of a direction whose bytes are only counted."""
UNLIMITED: Final = 1 << 62
"""Number of bytes larger than any connection carries."""
MAX_EVENTS: Final = 16 * 1024
"""Pieces in the queue, of any size."""

SLICE_TIME: Final = 0.001
"""Seconds of parsing between two pauses: Python runs one thread at a time, so the tunnel waits meanwhile."""
MIN_SLICE_INTERVAL: Final = 0.01
"""Seconds of pause after a slice at least; the bytes of that time then cost one thread switch."""
PAUSE_FACTOR: Final = 4.0
"""Pause after a slice as a multiple of its duration, so that the inspector uses at most a fifth of a core."""

MAX_PAGES: Final = 8
"""Open pages that follow the events."""
FLUSH_INTERVAL: Final = 0.2
"""Seconds between two events to a page: quick for a person, cheap for the tunnel."""
HEARTBEAT_INTERVAL: Final = 15.0
"""Seconds without changes after which a page gets a heartbeat."""

MAX_REPLAYS: Final = 4
"""Replays at the same time."""
REPLAY_TIMEOUT: Final = 30.0
"""Seconds for the response to a replay; an endless response is cut off then."""
MAX_REPLAYED: Final = 64 * 1024 * 1024
"""Bytes of the response to a replay; a longer response is cut off."""
MAX_EDITED_HEADERS: Final = 200
"""Headers of an edited request."""
MAX_EDIT: Final = 2 * 1024 * 1024
"""Bytes of the description of an edited request: JSON uses up to six bytes for one of the body."""
MAX_METHOD: Final = 24
"""Characters of the method of an edited request."""
