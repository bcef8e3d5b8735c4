"""The databases of the state directory for the operator's page, in a thread of their own.

A write waits for the disk, and at worst for another process; the event loop must not. The edge's own connections
notice the changes as they notice those of ``quictunnel-edge token`` and ``name``.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from edge_server.auth.token_store import TokenStore
from edge_server.tunnels.ownership_store import OwnershipStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")


class StateDatabases:
    """Tokens and owners of names. Nothing is opened before first use."""

    def __init__(self, directory: Path) -> None:
        """``directory``: the state directory."""
        self.tokens = TokenStore(directory)
        self.names = OwnershipStore(directory)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="admin")
        self._is_closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a function that uses the databases; called in their thread. The function runs to
        its end even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, partial(function, *args, **kwargs)))

    def close(self) -> None:
        """Close the databases after the functions that were requested. Calling it again has no effect."""
        if not self._is_closed:
            self._is_closed = True
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    async def wait_closed(self) -> None:
        """Close the databases and wait until they are closed."""
        self.close()
        await asyncio.to_thread(self._thread.shutdown)

    def _close(self) -> None:
        self.tokens.close()
        self.names.close()
