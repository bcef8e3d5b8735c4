"""Writer of a tunnel's ticket file: one write at a time, always of the newest ticket, repeated when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from quictunnel.shared.address import short_repr
from quictunnel.shared.event_loop import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.shared.supervision import Supervisor

RETRY_INTERVAL: Final = 30.0
"""Seconds until a failed write is repeated; a full disk may have room again, or a lost one be mounted."""
FIRST_WRITE_TIMEOUT: Final = 2.0
"""Seconds that a new tunnel waits until its first ticket is written, so that a failure is reported before the
tunnel is ready. A file system that hangs for longer must not delay the tunnel further."""


class TicketWriter:
    """Writes the tickets of one tunnel, which may arrive faster than the disk takes them."""

    def __init__(self, file: TicketFile, publish: Callable[[str, str], None], supervisor: Supervisor) -> None:
        """``publish(kind, message)`` is called when a write fails, and when one succeeds again."""
        self._file = file
        self._publish = publish
        self._supervisor = supervisor
        self._newest = b""
        self._written = b""
        self._has_failed = False
        self._newer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    def put(self, ticket: bytes) -> None:
        """Write this ticket in the background; it replaces the one before."""
        self._newest = ticket
        if ticket != self._written:
            self._newer.set()
            if self._task is None or self._task.done():
                self._task = self._supervisor.start(self._write(), "writing a ticket")

    async def wait_first_write(self, seconds: float = FIRST_WRITE_TIMEOUT) -> None:
        """Wait until the first write has succeeded or failed, at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._first.wait()

    def close(self) -> None:
        """Start no more writes. A write that is running continues in its thread."""
        if self._task is not None:
            self._task.cancel()

    async def _write(self) -> None:
        while self._written != self._newest:
            self._newer.clear()
            ticket = self._newest
            try:
                await in_thread(self._file.write, ticket)
            except OSError as error:
                self._report_failure(error)
                self._first.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_INTERVAL):
                        await self._newer.wait()
            else:
                self._written = ticket
                self._first.set()
                if self._has_failed:
                    self._has_failed = False
                    self._publish(
                        "warning", f"The ticket is written again, to {short_repr(str(self._file.path))}."
                    )

    def _report_failure(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._publish(
                "warning",
                f"The ticket cannot be written to {short_repr(str(self._file.path))} ({error.strerror or error}): "
                f"a later start may not get this address. Trying again every {RETRY_INTERVAL:.0f} s.",
            )
