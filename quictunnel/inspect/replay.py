"""A recorded request sent to the origin again, over a connection of its own; what comes back is recorded, too."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from quictunnel.inspect import limits
from quictunnel.inspect.connection_parser import ConnectionParser
from quictunnel.inspect.exchange_store import Way
from quictunnel.origin.dial import LOOPBACKS, PROBE_TIMEOUT

if TYPE_CHECKING:
    from quictunnel.inspect.connection_parser import Parsing
    from quictunnel.inspect.exchange_store import Exchange, ExchangeStore
    from quictunnel.shared.supervision import Supervisor

VISITOR: Final = "replay"
READ: Final = 64 * 1024


class Replays:
    """Those under way. Belongs to the store's thread."""

    def __init__(self, store: ExchangeStore, parsing: Parsing, port: int, supervisor: Supervisor) -> None:
        self._store = store
        self._parsing = parsing
        self._port = port
        self._supervisor = supervisor
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        return len(self._tasks) >= limits.MAX_REPLAYS

    def start(self, recorded: Exchange) -> int:
        """Send a request again that ``views.no_replay`` has nothing against; the number of the new exchange."""
        said = _request(recorded)
        conversation = ConnectionParser(
            self._store, self._parsing, visitor=VISITOR, connection=0, replay_of=recorded.number
        )
        conversation.data(Way.REQUEST, said, time.monotonic())
        number = self._store.last
        task = self._supervisor.start(self._run(conversation, said), "sending a request again")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return number

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, conversation: ConnectionParser, said: bytes) -> None:
        why = ""
        try:
            async with asyncio.timeout(limits.REPLAY_TIMEOUT):
                why = await self._exchange(conversation, said)
        except TimeoutError:
            why = f"Cut off after {limits.REPLAY_TIMEOUT:.0f} seconds."
        except OSError as error:
            why = f"Port {self._port} did not take it: {error.strerror or type(error).__name__}."
        finally:
            conversation.gone(time.monotonic(), why)

    async def _exchange(self, conversation: ConnectionParser, said: bytes) -> str:
        """What cut it short; "" when the answer came to its end."""
        reader, writer = await self._connect()
        try:
            writer.write(said)
            received = 0
            while not conversation.is_answered:
                data = await reader.read(READ)
                if not data:
                    conversation.end(Way.RESPONSE, time.monotonic())
                    return ""
                received += len(data)
                if received > limits.MAX_REPLAYED:
                    return f"Cut off after {limits.MAX_REPLAYED} bytes."
                conversation.data(Way.RESPONSE, data, time.monotonic())
            return ""
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # it is closed either way
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError or TimeoutError."""
        refused: OSError = ConnectionRefusedError()
        for host in LOOPBACKS:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    return await asyncio.open_connection(host, self._port)
            except OSError as error:
                refused = error
        raise refused


def _request(recorded: Exchange) -> bytes:
    """The same bytes; of a body in chunks the same content, in one."""
    body = bytes(recorded.request.body.data)
    if recorded.request.all_of(b"transfer-encoding"):
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        body = chunk + b"0\r\n\r\n"
    return recorded.request.head + body
