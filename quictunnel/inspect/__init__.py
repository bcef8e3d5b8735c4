"""The traffic inspector: shows a developer, on a page of this machine, what passes through a tunnel.

::

    stream <-> TappedSplice <-> origin        the tunnel's thread; a copy of every reference into a bounded queue
                    |
                 Recorder                     the inspector's thread: at most a fifth of a processor
                    |
    Conversation (h11 · WebSocket · raw) -> Store -> the page (web), curl, replay

The byte path never waits for it and never hears of its errors: when it cannot keep up, bytes pass unseen and the
page says so. A tunnel without an inspector has none of this, not even a branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from quictunnel.inspect.inspector import Inspector

NEEDED = "The inspector needs packages that are not installed: pip install 'quictunnel[inspect]'"


def open_inspector(address: tuple[str, int], port: int) -> Inspector:
    """Start an inspector for the local ``port`` with its page at ``address`` (port 0: any). Raises ConfigError."""
    try:
        from quictunnel.inspect.inspector import Inspector  # noqa: PLC0415 - wants packages of an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"{NEEDED} ({error.name} is missing)") from None
    return Inspector(address, port)
