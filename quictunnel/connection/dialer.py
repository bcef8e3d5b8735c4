"""Dialer of an edge: dials all of its addresses, each a moment after the one before, until one sends Welcome."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quictunnel.connection.closed_port import wait_until_refused
from quictunnel.connection.connection_errors import (
    EdgePortClosedError,
    no_answer_error,
    port_closed_error,
)
from quictunnel.connection.edge_connection import EdgeConnection, resolve
from quictunnel.connection.edge_identity import EdgeIdentityError
from quictunnel.errors import EdgeUnavailableError, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.connection.edge_connection import EdgeConnectionOwner
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.engine import Address

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the first connection may take before the caller gets EdgeUnavailableError."""
MAX_ADDRESSES: Final = 8
"""Addresses of one edge that are dialled; each costs a socket and a handshake."""
ADDRESS_STAGGER: Final = 0.25
"""Seconds after which the next address is dialled in parallel (RFC 8305 section 5): a name such as localhost
has two addresses, and an edge may listen on one of them."""
POLL_INTERVAL: Final = 1.0
"""Seconds between checks of whether a dial in parallel with a link is still needed."""


class Dialer:
    """Dials one edge, for one connection manager."""

    def __init__(self, config: ClientConfig, owner: EdgeConnectionOwner, supervisor: Supervisor) -> None:
        self.engine = ""
        """QUIC engine of the last connection."""
        self._config = config
        self._owner = owner
        self._supervisor = supervisor

    async def dial(self, dial_timeout: float = CONNECT_TIMEOUT, *, is_first: bool = False) -> EdgeConnection:
        """Return a connection on which the edge has sent Welcome. When cancelled, nothing stays open.

        Raises an Error. An EdgeUnavailableError or EdgeIdentityError of one address lets the others continue, any
        other Error ends the dial at once. If all addresses fail, an EdgeIdentityError comes before any other, an
        EdgePortClosedError after any other, and among equals the last one counts.

        Args:
            dial_timeout: seconds for each address.
            is_first: True if the edge has accepted no dial of this client yet. A closed port then ends the dial;
                later ones go on, because an edge that restarts has its port closed for a moment.
        """
        addresses = (await self._edge_addresses())[:MAX_ADDRESSES]
        attempts = [
            asyncio.create_task(
                self._dial_address(config, address, number * ADDRESS_STAGGER, dial_timeout, is_first=is_first)
            )
            for number, (config, address) in enumerate(addresses)
        ]
        failure: Error | None = None
        first: EdgeConnection | None = None
        try:
            for attempt in asyncio.as_completed(attempts):
                try:
                    first = await attempt
                except (EdgeIdentityError, EdgeUnavailableError) as error:
                    failure = _clearer(failure, error)  # another address may be the edge's
                else:
                    return first
        finally:
            for task in attempts:
                task.cancel()
            try:
                ended = await asyncio.gather(*attempts, return_exceptions=True)
                if first is not None:
                    self._report(ended)
                await self._close_connections(attempts, keep=first)
            except asyncio.CancelledError:
                await self._close_connections(attempts)  # the first as well: the caller does not get it
                raise
        raise failure or EdgeUnavailableError(f"The edge at {self._config.edge} has no address.")

    async def dial_in_parallel(
        self, down: asyncio.Event, dial_timeout: float, is_unneeded: Callable[[], bool]
    ) -> EdgeConnection | None:
        """Dial while a link exists. Return None if the dial failed or became unneeded.

        When cancelled, nothing stays open.

        Args:
            down: set when the existing link is lost.
            dial_timeout: seconds for each address.
            is_unneeded: returns True to stop dialling; called once a second and when ``down`` is set.
        """
        dial = asyncio.create_task(self.dial(dial_timeout))
        ended = asyncio.create_task(down.wait())
        is_taken = False
        try:
            while not (dial.done() or is_unneeded()):
                running = [task for task in (dial, ended) if not task.done()]
                await asyncio.wait(running, timeout=POLL_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            is_taken = True
        finally:
            dial.cancel()
            ended.cancel()
            try:
                connection, _ = await asyncio.gather(dial, ended, return_exceptions=True)
            except asyncio.CancelledError:
                is_taken = False
                raise
            finally:
                if not is_taken:
                    await self._close_connections([dial])
        if isinstance(connection, EdgeConnection):
            return connection
        if not isinstance(connection, Error | asyncio.CancelledError):
            raise connection
        logger.info("the dial in parallel with the existing link ended: %s", str(connection) or "no longer needed")
        return None

    async def _edge_addresses(self) -> list[tuple[ClientConfig, Address]]:
        """Return the addresses of the edge, each with the configuration that names it.

        Raises EdgeUnavailableError if none of the edge's names has an address."""
        addresses: list[tuple[ClientConfig, Address]] = []
        failure: EdgeUnavailableError | None = None
        for edge in (self._config.edge, *self._config.more_edges):
            config = replace(self._config, edge=edge)
            try:
                addresses += [(config, address) for address in await resolve(config)]
            except EdgeUnavailableError as error:
                failure = failure or error
        if failure is not None and not addresses:
            raise failure
        return addresses

    async def _dial_address(
        self, config: ClientConfig, address: Address, delay: float, dial_timeout: float, *, is_first: bool
    ) -> EdgeConnection:
        """Dial one address after ``delay`` seconds. Raises an Error.

        ``config``: the configuration whose edge has this address."""
        await asyncio.sleep(delay)
        try:
            connection = EdgeConnection(config, self._owner, address)
        except OSError as error:  # this machine has no such address family, or no sockets left
            raise EdgeUnavailableError(
                f"The edge at {config.edge} cannot be dialled at {address[0]}: {error.strerror or error}."
            ) from error
        self.engine = connection.engine
        try:
            async with asyncio.timeout(dial_timeout):
                await (self._greet_unless_closed(config, connection) if is_first else connection.greet())
        except BaseException as error:
            self._owner.connection_failed(connection)
            has_no_answer = isinstance(error, (TimeoutError, EdgeUnavailableError)) and not connection.has_received
            if has_no_answer and not isinstance(error, EdgePortClosedError):
                # This timeout or the engine's own has expired.
                raise await _no_answer(config, dial_timeout) from None
            if isinstance(error, TimeoutError):
                raise EdgeUnavailableError(
                    f"The edge at {config.edge} did not send Welcome within {dial_timeout:.0f} s."
                ) from None
            raise
        return connection

    async def _greet_unless_closed(self, config: ClientConfig, connection: EdgeConnection) -> None:
        """Wait for the edge's Welcome. Raises EdgePortClosedError if the edge's machine says that nothing listens.

        Anybody on the path can forge that. So it counts only until the edge has sent a packet."""
        greeting = asyncio.ensure_future(connection.greet())
        refused = asyncio.ensure_future(wait_until_refused(connection.address))
        try:
            await asyncio.wait((greeting, refused), return_when=asyncio.FIRST_COMPLETED)
            if not greeting.done() and refused.result() and not connection.has_received:
                raise port_closed_error(config, connection.address)
            await greeting
        finally:
            for task in (greeting, refused):
                task.cancel()
            await asyncio.gather(greeting, refused, return_exceptions=True)

    def _report(self, ended: Sequence[EdgeConnection | BaseException]) -> None:
        """Report unexpected exceptions of attempts that no caller awaits, because another one has succeeded."""
        for each in ended:
            if isinstance(each, Exception) and not isinstance(each, Error):
                self._supervisor.report("dialling another address of the edge", each)

    async def _close_connections(
        self, dials: Sequence[asyncio.Task[EdgeConnection]], keep: EdgeConnection | None = None
    ) -> None:
        """Close the connections of dials that succeeded too late, but for ``keep``; all dials are done."""
        connections = [dial.result() for dial in dials if not dial.cancelled() and dial.exception() is None]

        async def end(connection: EdgeConnection) -> None:
            try:
                await connection.close()
            finally:
                self._owner.connection_failed(connection)

        await asyncio.gather(*(end(connection) for connection in connections if connection is not keep))


async def _no_answer(config: ClientConfig, dial_timeout: float) -> EdgeUnavailableError:
    """Return the error for an edge that has sent nothing."""
    if dial_timeout >= CONNECT_TIMEOUT:
        return await no_answer_error(config, dial_timeout)
    # A short timeout means that the edge was reached before: no search for the reason.
    return EdgeUnavailableError(f"No answer from the edge at {config.edge} within {dial_timeout:.0f} s.")


def _clearer(before: Error | None, latest: Error) -> Error:
    """Return the error of two addresses that says more.

    Another server than the edge says most. A closed port says something only if all addresses have it closed,
    because an edge may listen on one address of its name alone."""
    if before is None or isinstance(latest, EdgeIdentityError):
        return latest
    is_kept = isinstance(before, EdgeIdentityError) or isinstance(latest, EdgePortClosedError)
    return before if is_kept else latest
