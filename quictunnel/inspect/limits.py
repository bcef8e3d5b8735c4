"""Every bound of the inspector. Together they keep it below some 60 MiB, whatever passes."""

from __future__ import annotations

from typing import Final

MAX_EXCHANGES: Final = 500
"""Exchanges that are kept; the oldest that has ended makes room. More is a list that nobody reads."""
MAX_KEPT: Final = 32 * 1024 * 1024
"""Bytes that all exchanges may keep together; the oldest make room."""
MAX_BODY: Final = 256 * 1024
"""Bytes kept of each body; of the rest the size alone is counted. A person reads less, and so does a page."""
MAX_RAW: Final = 64 * 1024
"""Bytes kept of each direction of what is no HTTP/1: 4,096 lines of a hex dump."""
MAX_HEAD: Final = 64 * 1024
"""Bytes of a message's head; servers refuse a quarter of that. What is longer is shown as raw bytes."""
MAX_NOTE: Final = 300
"""Characters of a remark; it may quote a peer."""
MAX_PIPELINED: Final = 32
"""Requests of one connection that wait for an answer; browsers send one at a time."""
MAX_INTERIM: Final = 16
"""Interim responses (1xx) that are noted of an exchange; the rest pass unseen."""
MAX_CHUNK_LINE: Final = 4096
"""Bytes of a line that gives a chunk's size, and of a line of a trailer."""

MAX_FRAMES: Final = 1000
"""WebSocket messages kept of one exchange; the oldest make room."""
MAX_FRAME: Final = 16 * 1024
"""Bytes kept of a WebSocket message."""
MAX_FRAMES_KEPT: Final = 1024 * 1024
"""Bytes that the messages of one exchange may keep together."""
MAX_INFLATED: Final = 1024 * 1024
"""Bytes that one compressed WebSocket message may become. Beyond it that direction is not decompressed any more:
a thousandfold is easily had, and skipping a part is not possible, because later messages refer to it."""

MAX_DECODED: Final = 256 * 1024
"""Bytes shown of a body that was compressed: a compression bomb costs no more."""
MAX_CODINGS: Final = 3
"""Content codings on top of one another that are undone."""

MAX_CONNECTIONS: Final = 1000
"""Connections looked into at once; those beyond pass unseen, and are counted."""
MAX_PARSING: Final = 8 * 1024 * 1024
"""Bytes of unfinished heads that all connections may hold together."""
MAX_QUEUED: Final = 8 * 1024 * 1024
"""Bytes that wait to be looked at: some hundredths of a second at full speed. Beyond, they pass unseen."""
REPORT: Final = 1024 * 1024
"""Bytes that pass without being looked at, because none of them would be kept, between two reports of it."""
ENDLESS: Final = 1 << 62
MAX_EVENTS: Final = 16 * 1024
"""The same as pieces, however small."""

SLICE: Final = 0.001
"""Seconds that looking may take before it rests: Python runs one thread at a time, and the tunnel waits."""
PAUSE: Final = 0.01
"""Seconds between two slices at least: what came meanwhile costs one change of threads."""
REST: Final = 4.0
"""Rest after each slice, as a multiple of what it took: so the inspector has at most a fifth of a processor."""

MAX_PAGES: Final = 8
"""Pages that follow at once: a person has one, or forgot some in other tabs."""
FLUSH: Final = 0.2
"""Seconds between two looks at what a page has to be told: quick for a person, cheap for the tunnel."""
HEARTBEAT: Final = 15.0
"""Seconds after which a page with nothing to show is told that all is well."""

MAX_REPLAYS: Final = 4
"""Replays under way at once."""
REPLAY_TIMEOUT: Final = 30.0
"""Seconds for a replay's answer; a stream of events is cut off then."""
MAX_REPLAYED: Final = 64 * 1024 * 1024
"""Bytes of a replay's answer that are read before it is cut off."""
