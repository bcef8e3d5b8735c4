"""Tells systemd how the edge is doing (sd_notify(3)), where it asks to be told."""

from __future__ import annotations

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
