"""Dialling an edge: all of its addresses, each a moment after the one before, until one greets."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from quictunnel.connection.edge_connection import EdgeConnection, EdgeIdentityError, resolve, silence
from quictunnel.errors import EdgeUnavailableError, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.connection.edge_connection import ConnectionEvents
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.engine import Address

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the first connection may take before the caller is told that the edge is unavailable."""
MAX_ADDRESSES: Final = 8
"""Addresses of one edge that are dialled; each costs a socket and a handshake."""
ADDRESS_STAGGER: Final = 0.25
"""Seconds after which the next address is dialled beside the one before (RFC 8305 section 5): a name such as
localhost stands for two addresses, and an edge may listen on one of them."""
LOOK: Final = 1.0
"""Seconds between looks at whether a dial beside a link is still wanted."""


class Dialer:
    """Dials one edge, for one owner."""

    def __init__(self, config: ClientConfig, events: ConnectionEvents, supervisor: Supervisor) -> None:
        self.engine = ""
        """Of the last connection."""
        self._config = config
        self._events = events
        self._supervisor = supervisor

    async def dial(self, patience: float = CONNECT_TIMEOUT) -> EdgeConnection:
        """A call that was greeted. Raises an Error; the last one when all addresses fail, each of which gets
        ``patience`` seconds. When cancelled, nothing stays open."""
        addresses = (await resolve(self._config))[:MAX_ADDRESSES]
        attempts = [
            asyncio.create_task(self._attempt(address, number * ADDRESS_STAGGER, patience))
            for number, address in enumerate(addresses)
        ]
        failure: Error = EdgeUnavailableError(f"The edge at {self._config.edge} has no address.")
        first: EdgeConnection | None = None
        try:
            for attempt in asyncio.as_completed(attempts):
                try:
                    first = await attempt
                except EdgeIdentityError as error:
                    failure = error  # another address may be the edge's; if none is, this says more than silence
                except EdgeUnavailableError as error:
                    failure = failure if isinstance(failure, EdgeIdentityError) else error
                else:
                    return first
        finally:
            for task in attempts:
                task.cancel()
            try:
                ended = await asyncio.gather(*attempts, return_exceptions=True)
                if first is not None:
                    self._report(ended)
                await self._hang_up(attempts, besides=first)
            except asyncio.CancelledError:
                await self._hang_up(attempts)  # the first as well: nobody takes it
                raise
        raise failure

    async def dial_beside(
        self, down: asyncio.Event, patience: float, is_vain: Callable[[], bool]
    ) -> EdgeConnection | None:
        """Dial while a link is there, until it would be in vain, which is asked once a second and when the link
        is ``down``. None then, and when it failed. When cancelled, nothing stays open."""
        dial = asyncio.create_task(self.dial(patience))
        ended = asyncio.create_task(down.wait())
        is_wanted = False
        try:
            while not (dial.done() or is_vain()):
                running = [task for task in (dial, ended) if not task.done()]
                await asyncio.wait(running, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            is_wanted = True
        finally:
            dial.cancel()
            ended.cancel()
            try:
                connection, _ = await asyncio.gather(dial, ended, return_exceptions=True)
            except asyncio.CancelledError:
                is_wanted = False
                raise
            finally:
                if not is_wanted:
                    await self._hang_up([dial])
        if isinstance(connection, EdgeConnection):
            return connection
        if not isinstance(connection, Error | asyncio.CancelledError):
            raise connection
        logger.info("dialling beside the link that is there: %s", str(connection) or "not needed any more")
        return None

    async def _attempt(self, address: Address, delay: float, patience: float) -> EdgeConnection:
        """Call one address. Raises an Error."""
        await asyncio.sleep(delay)
        config = self._config
        try:
            connection = EdgeConnection(config, self._events, address)
        except OSError as error:  # this machine has no such address family, or no sockets left
            raise EdgeUnavailableError(
                f"The edge at {config.edge} cannot be dialled at {address[0]}: {error.strerror or error}."
            ) from error
        self.engine = connection.engine
        try:
            async with asyncio.timeout(patience):
                await connection.greet()
        except BaseException as error:
            self._events.connection_failed(connection)
            if isinstance(error, (TimeoutError, EdgeUnavailableError)) and not connection.was_heard:
                # Time is up, or the engine lost patience first.
                raise await self._unheard(patience) from None
            if isinstance(error, TimeoutError):
                raise EdgeUnavailableError(
                    f"The edge at {config.edge} did not finish the greeting within {patience:.0f} s."
                ) from None
            raise
        return connection

    async def _unheard(self, patience: float) -> EdgeUnavailableError:
        if patience >= CONNECT_TIMEOUT:
            return await silence(self._config, patience)
        # Whoever is in a hurry knows that the edge was there, and does not look into it.
        return EdgeUnavailableError(f"No answer from the edge at {self._config.edge} within {patience:.0f} s.")

    def _report(self, ended: Sequence[EdgeConnection | BaseException]) -> None:
        """Report faults of ours in attempts that nobody waits for, since another one has a connection."""
        for each in ended:
            if isinstance(each, Exception) and not isinstance(each, Error):
                self._supervisor.report("dialling another address of the edge", each)

    async def _hang_up(
        self, dials: Sequence[asyncio.Task[EdgeConnection]], besides: EdgeConnection | None = None
    ) -> None:
        """Close the connections of dials that succeeded too late; all dials are done."""
        connections = [dial.result() for dial in dials if not dial.cancelled() and dial.exception() is None]

        async def end(connection: EdgeConnection) -> None:
            try:
                await connection.close()
            finally:
                self._events.connection_failed(connection)

        await asyncio.gather(*(end(connection) for connection in connections if connection is not besides))
