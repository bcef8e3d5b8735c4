"""Run an edge or a client without the buffers that let streams outlive their connection.

    python -m perf.no_resume edge_server ...        # as python -m edge_server ...

It exists only to measure the cost of these buffers. When a link is lost, every visitor is lost, and resuming a
session fails.
"""

from __future__ import annotations

import runpy
import sys

from quictunnel.wire.send_buffer import SendBuffer


def mark_sent(self: SendBuffer, size: int) -> None:
    """Forget bytes that the engine has taken; it has references of its own until the peer acknowledges them."""
    assert self._unsent is not None
    chunk = self._unsent.popleft()
    if size < len(chunk):
        self._unsent.appendleft(memoryview(chunk)[size:])
    elif not self._unsent:
        self._unsent = None
    self.sent += size


def credit(self: SendBuffer, offset: int) -> None:
    """Record consumption without releasing buffers: there are none."""
    self.base = max(self.base, offset)


def main() -> None:
    """Replace the buffers and run the module named on the command line."""
    SendBuffer.mark_sent = mark_sent  # type: ignore[method-assign]  # the purpose of this module
    SendBuffer.credit = credit  # type: ignore[method-assign]  # as above
    module, sys.argv = sys.argv[1], [f"python -m {sys.argv[1]}", *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
