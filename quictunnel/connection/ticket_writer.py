"""Keeping a tunnel's ticket file current: one write at a time, always of the newest ticket, tried again when it
fails."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from quictunnel.shared.address import shown
from quictunnel.shared.event_loop import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.shared.supervision import Supervisor

RETRY: Final = 30.0
"""Seconds until a write that failed is tried again: somebody has made room on the disk, or mounted it."""
FIRST_WRITE: Final = 2.0
"""Seconds that an open tunnel waits for its first ticket to be written, so that a failure is said before the
tunnel is shown. A file system that hangs for longer must not keep the tunnel from its user."""


class TicketWriter:
    """Writes the tickets of one tunnel, which may come faster than a disk takes them."""

    def __init__(self, file: TicketFile, observe: Callable[[str, str], None], supervisor: Supervisor) -> None:
        """``observe(kind, message)`` is told when a write fails, and when one works again."""
        self._file = file
        self._observe = observe
        self._supervisor = supervisor
        self._newest = b""
        self._written = b""
        self._has_failed = False
        self._newer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    def put(self, ticket: bytes) -> None:
        """Have this ticket written in place of all before."""
        self._newest = ticket
        if ticket != self._written:
            self._newer.set()
            if self._task is None or self._task.done():
                self._task = self._supervisor.start(self._write(), "writing a ticket")

    async def settle(self, patience: float = FIRST_WRITE) -> None:
        """Wait until a write has ended, well or not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._first.wait()

    def close(self) -> None:
        """Write no more. What is being written goes on by itself."""
        if self._task is not None:
            self._task.cancel()

    async def _write(self) -> None:
        while self._written != self._newest:
            self._newer.clear()
            ticket = self._newest
            try:
                await in_thread(self._file.write, ticket)
            except OSError as error:
                self._say_failed(error)
                self._first.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY):
                        await self._newer.wait()
            else:
                self._written = ticket
                self._first.set()
                if self._has_failed:
                    self._has_failed = False
                    self._observe("warning", f"The ticket is written again, to {shown(str(self._file.path))}.")

    def _say_failed(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._observe(
                "warning",
                f"The ticket cannot be written to {shown(str(self._file.path))} ({error.strerror or error}): a "
                f"later start may not get this address. Trying again every {RETRY:.0f} s.",
            )
