"""Visitors who come and leave: a program of its own, so that it disturbs no measurement of the test beside it.

``python -m tests.load.generator PLAN`` (JSON, :class:`tests.load.plan.Plan`) begins a visitor whenever one is due,
however many are still there, and says one line of JSON for each that has ended. It begins no more when its
standard input ends, and ends itself with the last visitor. Everything that it chooses comes from the plan's seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import random
import resource
import ssl
import sys
import time
from typing import Final

from tests.load.connection import Connection, TlsConnection, WrongBytesError, connect
from tests.load.plan import LEAVERS, NEWCOMERS, FinishedVisitor, Plan

BLOCK: Final = random.Random(11).randbytes(1 << 20)
SIZES: Final = (1, 10, 1000, 20_000)
"""Bytes that a newcomer says: less than any window, so that it need not read meanwhile."""
LONG: Final = 150_000
"""Bytes that a leaver says who leaves in the answer: more than the first windows of both directions."""
LEAVERS_EVERY: Final = 5
REQUEST: Final = b"GET /word HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n"


class Visitor:
    """Visitor, from the connection to its end."""

    def __init__(self, plan: Plan, number: int, context: ssl.SSLContext) -> None:
        self._plan = plan
        self._number = number
        self._context = context
        self._chance = random.Random(plan.seed * 1_000_003 + number)
        is_leaver = number % LEAVERS_EVERY == LEAVERS_EVERY - 1
        self.role = self._chance.choice(LEAVERS if is_leaver else NEWCOMERS)
        tls_host, _, tcp_host, _ = plan.targets[number % len(plan.targets)]
        self.tls = bool(tls_host) and (not tcp_host or self._chance.random() < 0.5)
        self._heard = b""

    async def run(self) -> FinishedVisitor:
        began = time.monotonic()
        failure = ""
        try:
            async with asyncio.timeout(self._plan.patience):
                await (self._ask() if self.role in NEWCOMERS else self._leave())
        except (OSError, EOFError, WrongBytesError) as error:  # OSError: TimeoutError and ssl.SSLError as well
            failure = f"{type(error).__name__}: {error}"[:200]
        heard = self._heard.decode(errors="replace")[:100]
        return FinishedVisitor(self.role, self.tls, began, time.monotonic(), failure, heard)

    async def _connect(self) -> Connection:
        return await connect(self._plan, self._number, self._context, tls=self.tls)

    # Newcomers.

    async def _ask(self) -> None:
        connection = await self._connect()
        try:
            if isinstance(connection, TlsConnection):
                await connection.shake_hands()
            await self._converse(connection)
        except BaseException:
            connection.reset()
            raise
        connection.close()

    async def _converse(self, connection: Connection) -> None:
        match self._plan.conversation:
            case "echo":
                await self._echo(connection)
            case "http":
                await connection.send(REQUEST)
                await self._end_perhaps(connection)
                answer = await connection.receive_all()
                if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nhello")):
                    raise WrongBytesError(answer[:100])
            case "greeting":
                self._heard = await connection.receive_all()
            case "banner":
                banner = self._plan.prefix.encode()
                if not (await connection.receive_exactly(len(banner))).startswith(banner):
                    raise WrongBytesError

    async def _echo(self, connection: Connection) -> None:
        words = self._words(self._chance.choice(SIZES))
        await connection.send(self._plan.prefix.encode() + words)
        await self._end_perhaps(connection)
        ends = self.role == "ask and end"
        said = await (connection.receive_all() if ends else connection.receive_exactly(len(words)))
        if said != words:
            raise WrongBytesError(f"{len(said)} bytes for {len(words)}, which are others")

    async def _end_perhaps(self, connection: Connection) -> None:
        if self.role == "ask and end":
            connection.finish()

    def _words(self, size: int) -> bytes:
        start = self._chance.randrange(len(BLOCK) - size)
        return BLOCK[start : start + size]

    # Leavers.

    async def _leave(self) -> None:
        connection = await self._connect()
        try:
            await self._live(connection)
        finally:
            connection.reset()

    async def _live(self, connection: Connection) -> None:
        """Do what comes before the reset."""
        if self.role == "leave at once":
            return
        if self.role == "leave in the handshake":
            if isinstance(connection, TlsConnection):
                await connection.say_hello()
            await self._pause(0.01)
            return
        if isinstance(connection, TlsConnection):
            await connection.shake_hands()
        words = self._last_words()
        speaking = asyncio.create_task(connection.send(words))
        try:
            if self.role == "leave ended":
                await speaking
                connection.finish()
            if self.role == "leave in the answer":
                await self._hear_some_of(connection, words.removeprefix(self._plan.prefix.encode()))
            else:
                await self._pause(0.2)
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
        if not speaking.cancelled():
            speaking.result()  # an error is the edge's: it has not left yet

    def _last_words(self) -> bytes:
        match self._plan.conversation:
            case "echo":
                size = LONG if self.role == "leave in the answer" else self._chance.choice(SIZES)
                return self._plan.prefix.encode() + self._words(size)
            case "http":
                return REQUEST
            case _:
                return b""  # the origin speaks, and does not read

    async def _hear_some_of(self, connection: Connection, words: bytes) -> None:
        """Wait for the beginning of the answer, but not for long: there may be no network now."""
        try:
            async with asyncio.timeout(0.5 + self._chance.random()):
                said = await connection.receive()
                wanted = self._chance.randrange(1, max(2, len(words)))
                while len(said) < wanted and (part := await connection.receive()):
                    said += part
        except TimeoutError:
            return
        if self._plan.conversation == "echo" and said != words[: len(said)]:
            raise WrongBytesError(f"{len(said)} bytes that are others")

    async def _pause(self, most: float) -> None:
        """Let up to so many seconds pass; often far fewer."""
        await asyncio.sleep(most * self._chance.random() ** 3)


async def generate(plan: Plan) -> None:
    """Begin visitors at their times until standard input ends, then wait for the last of them."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=plan.ca)
    over = asyncio.Event()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: over.set())

    async def run_visitor(number: int) -> None:
        print(json.dumps(dataclasses.asdict(await Visitor(plan, number, context).run())), flush=True)

    begun = loop.time()
    async with asyncio.TaskGroup() as visitors:
        for number in itertools.count():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begun + number / plan.rate):
                    await over.wait()
            if over.is_set():
                break
            visitors.create_task(run_visitor(number))


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    told = json.loads(sys.argv[1])
    told["targets"] = [tuple(target) for target in told["targets"]]
    asyncio.run(generate(Plan(**told)))


if __name__ == "__main__":
    main()
