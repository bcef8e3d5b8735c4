"""Replay of a recorded request: sent to the origin on a new connection, with the response recorded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from quictunnel.inspect import limits
from quictunnel.inspect.connection_parser import ConnectionParser
from quictunnel.inspect.edited_request import changes, encode_request
from quictunnel.inspect.exchange_store import Direction
from quictunnel.origin.dial import open_streams

if TYPE_CHECKING:
    from quictunnel.inspect.connection_parser import HeadBudget
    from quictunnel.inspect.edited_request import EditedRequest
    from quictunnel.inspect.exchange_store import Exchange, ExchangeStore
    from quictunnel.origin.target import Target
    from quictunnel.shared.supervision import Supervisor

VISITOR: Final = "replay"
READ: Final = 64 * 1024


class Replays:
    """The running replays. Used only on the store's thread."""

    def __init__(
        self, store: ExchangeStore, head_budget: HeadBudget, target: Target, supervisor: Supervisor
    ) -> None:
        self._store = store
        self._head_budget = head_budget
        self._target = target
        self._supervisor = supervisor
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """True if the limit of running replays is reached."""
        return len(self._tasks) >= limits.MAX_REPLAYS

    def start(self, recorded: Exchange) -> int:
        """Send a request again and return the number of the new exchange. ``views.replay_error`` must be empty."""
        return self._start(recorded, _request(recorded), "")

    def start_edited(self, recorded: Exchange, edited: EditedRequest) -> int:
        """Send an edited request and return the number of the new exchange. ``views.edit_error`` must be empty.

        Raises:
            EditError: the request cannot be sent.
        """
        return self._start(recorded, encode_request(edited, recorded), changes(edited, recorded))

    def _start(self, recorded: Exchange, request: bytes, note: str) -> int:
        parser = ConnectionParser(
            self._store, self._head_budget, visitor=VISITOR, connection=0, replay_of=recorded.number
        )
        parser.data(Direction.REQUEST, request, time.monotonic())
        number = self._store.last
        if note and (exchange := self._store.get(number)) is not None:
            exchange.is_edited = True
            exchange.note(note)
        task = self._supervisor.start(self._run(parser, request), "replaying a request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return number

    async def close(self) -> None:
        """Cancel all replays and wait for them."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, parser: ConnectionParser, request: bytes) -> None:
        why = ""
        try:
            async with asyncio.timeout(limits.REPLAY_TIMEOUT):
                why = await self._exchange(parser, request)
        except TimeoutError:
            why = f"Cut off after {limits.REPLAY_TIMEOUT:.0f} seconds."
        except OSError as error:
            why = f"{self._target.text} did not accept the connection: {error.strerror or type(error).__name__}."
        finally:
            parser.closed(time.monotonic(), why)

    async def _exchange(self, parser: ConnectionParser, request: bytes) -> str:
        """Send the request and read the response. Return the reason why it was cut off, or "" if it is
        complete."""
        reader, writer = await open_streams(self._target)
        try:
            writer.write(request)
            received = 0
            while not parser.is_answered:
                data = await reader.read(READ)
                if not data:
                    parser.end(Direction.RESPONSE, time.monotonic())
                    return ""
                received += len(data)
                if received > limits.MAX_REPLAYED:
                    return f"Cut off after {limits.MAX_REPLAYED} bytes."
                parser.data(Direction.RESPONSE, data, time.monotonic())
            return ""
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # the connection is closed either direction
                await writer.wait_closed()


def _request(recorded: Exchange) -> bytes:
    """Return the recorded request's bytes; a chunked body becomes one chunk."""
    body = bytes(recorded.request.body.data)
    if recorded.request.header_values(b"transfer-encoding"):
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        body = chunk + b"0\r\n\r\n"
    return recorded.request.head + body
