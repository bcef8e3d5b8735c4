"""Runs an edge or a client without the buffers that let streams outlive their connection.

    python -m perf.no_resume edge_server ...        # as python -m edge_server ...

For measuring what the keeping costs, and for nothing else: with a link every visitor is lost, and a session that
tries to resume fails.
"""

from __future__ import annotations

import runpy
import sys

from quictunnel.wire.send_buffer import SendBuffer


def mark_sent(self: SendBuffer, size: int) -> None:
    """Forget what the engine took; it has a reference of its own until the peer acknowledged it."""
    assert self._unsent is not None
    chunk = self._unsent.popleft()
    if size < len(chunk):
        self._unsent.appendleft(memoryview(chunk)[size:])
    elif not self._unsent:
        self._unsent = None
    self.sent += size


def credit(self: SendBuffer, offset: int) -> None:
    self.base = max(self.base, offset)


def main() -> None:
    SendBuffer.mark_sent = mark_sent  # type: ignore[method-assign]  # that is what this is for
    SendBuffer.credit = credit  # type: ignore[method-assign]  # as above
    module, sys.argv = sys.argv[1], [f"python -m {sys.argv[1]}", *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
