"""Tells systemd how the edge is doing (sd_notify(3)), where it asks to be told."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Send assignments such as ``READY=1``; nothing happens where nobody asked, or listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
    except OSError as error:
        logger.warning("the service manager could not be told: %s", error.strerror or error)


def goes_to_journal(descriptor: int) -> bool:
    """Whether systemd's journal keeps what is written there (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


async def keep_alive() -> None:
    """Say that the loop turns, as often as WatchdogSec= of the unit asks for; until it is cancelled. A loop that
    hangs says nothing, and systemd starts the edge again."""
    period = os.environ.get("WATCHDOG_USEC", "")
    # Twice in each period (sd_watchdog_enabled(3)). The variable is systemd's own; nobody else's is believed.
    seconds = int(period) / 2_000_000 if period.isascii() and period.isdigit() and int(period) else None
    if seconds is None:
        await asyncio.get_running_loop().create_future()
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)
