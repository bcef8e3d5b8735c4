"""The start and the stop of an edge: whatever fails, and wherever it is cancelled, nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest

from edge_server import startup
from edge_server.admin.server import Admin
from edge_server.auth.token_registry import TokenRegistry
from edge_server.certificates.acme.service import AcmeService
from edge_server.change_watcher import ChangeWatcher
from edge_server.clients.session_table import SessionTable
from edge_server.config.edge_config import EdgeConfig
from edge_server.handoff import protocol
from edge_server.handoff.predecessor import HandoffListener
from edge_server.handoff.snapshot import NameSnapshot
from edge_server.ingress.tls_listener import TlsListener
from edge_server.startup import start_edge
from edge_server.storage.state_dir import ClientEnv, StateDir
from edge_server.systemd import ActivatedSockets
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership import NameOwnership
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.errors import ConfigError
from quictunnel.shared.event_loop import new_event_loop
from quictunnel.transport.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from edge_server.server import RunningEdge

ANYWHERE: Final = ("127.0.0.1", 0)
DESCRIPTORS: Final = Path("/proc/self/fd")
RUN_FILES: Final = ("client.env", "admin.url", "edge.sock")
"""Files that exist while an edge serves."""
MAX_STEPS: Final = 200
"""More than a start has steps; a test that reaches it does not end by itself."""
SETTLE_TIMEOUT: Final = 10.0
"""Seconds in which what was told to end has ended, on a busy machine."""
LOOPS: Final = {"asyncio": asyncio.new_event_loop, "default": new_event_loop}

needs_proc = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are counted in /proc")
needs_handoff = pytest.mark.skipif(not protocol.IS_SUPPORTED, reason="edges hand over on Linux only")


class PlantedError(Exception):
    """A failure that a test has planted."""


def config_of(directory: Path, **options: Any) -> EdgeConfig:
    """Return the configuration of an edge with everything that can be opened."""
    everything: dict[str, Any] = {
        "state_dir": directory,
        "domain": "edge.example",
        "quic": ANYWHERE,
        "https": ANYWHERE,
        "admin": ANYWHERE,
        "acme": "you@example.com",
        "acme_directory": "https://127.0.0.1:1/dir",
        "acme_http": ANYWHERE,
        "grace": 0.1,
        "engine": os.environ.get("QUICTUNNEL_ENGINE") or "auto",
    }
    return EdgeConfig(**(everything | options))


def targets() -> dict[str, int]:
    """Return what the descriptors of this process refer to, and how many refer to each. Sockets are one target."""
    found: dict[str, int] = {}
    for descriptor in DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            target = descriptor.readlink()
            key = str(target).partition("[")[0]
            found[key] = found.get(key, 0) + 1
    return found


def threads() -> set[str]:
    """Return the threads of this process, without those of the loop's executor, which the loop ends."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(("asyncio_", "uvloop_"))}


@contextlib.asynccontextmanager
async def nothing_is_left(directory: Path) -> Any:
    """Check after the body that no descriptor, task, thread or file of a running edge is left."""
    await asyncio.to_thread(int)  # the executor and the loop have their own descriptors
    gc.collect()
    before = targets(), asyncio.all_tasks(), threads()
    yield
    # Transports close their sockets a turn or two later; a thread whose caller was cancelled goes on to its end.
    with contextlib.suppress(TimeoutError):
        await until(lambda: (targets(), asyncio.all_tasks(), threads()) == before)
    assert targets() == before[0]
    assert asyncio.all_tasks() == before[1]
    assert threads() == before[2]
    assert [name for name in RUN_FILES if (directory / name).exists()] == []
    assert [name for name in os.listdir(directory) if name.startswith(".")] == []  # noqa: PTH208 - names


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most for :data:`SETTLE_TIMEOUT`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_TIMEOUT
    while not holds():
        assert loop.time() < deadline
        await asyncio.sleep(0.01)


class CancelledAtStep:
    """Runs a coroutine, and cancels the task at the moment in which it is about to wait for the nth time."""

    def __init__(self, work: Coroutine[Any, Any, Any], step: int) -> None:
        self._work = work
        self._step = step
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        waiting = self._work.__await__()
        go_on: Callable[[], Any] = partial(waiting.send, None)
        while True:
            try:
                future = go_on()
            except StopIteration as ended:
                return ended.value
            if self.steps == self._step:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            self.steps += 1
            go_on = partial(waiting.send, None)
            try:
                yield future
            except BaseException as error:  # noqa: BLE001 - passed on
                go_on = partial(waiting.throw, error)


async def start_cancelled_at(step: int, config: EdgeConfig, given: ActivatedSockets | None) -> RunningEdge | None:
    """Start an edge, and cancel it when it waits for the nth time. Return it if it was started before that."""

    async def start() -> RunningEdge:
        return await CancelledAtStep(start_edge(config, given), step)

    task = asyncio.create_task(start())
    with contextlib.suppress(asyncio.CancelledError):
        return await task
    return None


class FailingStack(contextlib.AsyncExitStack):
    """A stack that raises right after it has got the nth thing to close."""

    step = 0

    def callback(self, callback: Any, /, *args: Any, **kwds: Any) -> Any:
        super().callback(callback, *args, **kwds)
        self._count()
        return callback

    def push_async_callback(self, callback: Any, /, *args: Any, **kwds: Any) -> Any:
        super().push_async_callback(callback, *args, **kwds)
        self._count()
        return callback

    def _count(self) -> None:
        type(self).step -= 1
        if type(self).step == -1:
            raise PlantedError


def activated() -> ActivatedSockets:
    """Return one socket of each kind, as a service manager passes them."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(ANYWHERE)
    return ActivatedSockets(socket.create_server(ANYWHERE), udp, socket.create_server(ANYWHERE))


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Any:
    """Return a runner of coroutines on each kind of loop."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("is_activated", [False, True], ids=["own sockets", "activated"])
def test_a_start_that_is_cancelled_anywhere_leaves_nothing(runner, tmp_path, is_activated):
    async def body() -> int:
        for step in range(MAX_STEPS):
            async with nothing_is_left(tmp_path):
                edge = await start_cancelled_at(step, config_of(tmp_path), activated() if is_activated else None)
                if edge is not None:
                    await edge.stop()
                    return step
        raise AssertionError("the start never ended")

    runner.run(start_and_stop(tmp_path))  # what is kept between runs is there from now on
    assert runner.run(body()) > 1


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("is_activated", [False, True], ids=["own sockets", "activated"])
def test_a_start_that_fails_anywhere_leaves_nothing(runner, tmp_path, monkeypatch, is_activated):
    async def body() -> int:
        for step in range(MAX_STEPS):
            async with nothing_is_left(tmp_path):
                FailingStack.step = step
                try:
                    edge = await start_edge(config_of(tmp_path), activated() if is_activated else None)
                except PlantedError:
                    continue
                await edge.stop()
                return step
        raise AssertionError("the start never ended")

    runner.run(start_and_stop(tmp_path))
    monkeypatch.setattr(startup, "contextlib", SimpleNamespace(AsyncExitStack=FailingStack))
    assert runner.run(body()) > 15


async def start_and_stop(directory: Path) -> None:
    """Start and stop an edge, after which no descriptor, task, thread or file is left."""
    # The first time libraries open what they keep, and the edge writes what it keeps between runs.
    await (await start_edge(config_of(directory))).stop()
    async with nothing_is_left(directory):
        edge = await start_edge(config_of(directory))
        assert all((directory / name).exists() for name in RUN_FILES)
        assert edge.admin is not None
        assert edge.admin.url
        await edge.stop()
        await edge.stop()


@needs_handoff
@pytest.mark.slow
@pytest.mark.parametrize("plant", ["cancellation", "failure"])
def test_a_successor_that_fails_anywhere_leaves_nothing(runner, tmp_path, monkeypatch, plant):
    """Until it is ready its predecessor goes on as if nothing had happened; from then on it drains in any case."""
    config = config_of(tmp_path)

    async def take_over(step: int) -> RunningEdge | None:
        successor = config_of(tmp_path, takeover=True)
        if plant == "cancellation":
            return await start_cancelled_at(step, successor, None)
        with monkeypatch.context() as patch:
            patch.setattr(startup, "contextlib", SimpleNamespace(AsyncExitStack=FailingStack))
            FailingStack.step = step
            try:
                return await start_edge(successor)
            except PlantedError:
                return None

    async def body() -> tuple[int, int]:
        has_continued = 0
        for step in range(MAX_STEPS):
            async with nothing_is_left(tmp_path):
                first = await start_edge(config)
                sock = first.services.ports.bind("owner")
                await first.services.pending.add(TunnelRecord("held", "owner", 1, TunnelOptions(), 0), sock)
                sockets = targets()["socket:"]
                second = await take_over(step)
                if second is None and not first.taken_over.is_set():
                    has_continued += 1
                    # The predecessor hears that the channel is closed.
                    await until(lambda sockets=sockets: targets()["socket:"] == sockets)
                    assert (tmp_path / "client.env").exists()
                    assert first.introspection.endpoint.socket is first.introspection.udp
                elif second is None:
                    await asyncio.sleep(0.01)
                await first.stop()
                if second is not None:
                    assert (tmp_path / "client.env").exists(), "the predecessor took its successor's file along"
                    await second.stop()
                    return step, has_continued
        raise AssertionError("the start never ended")

    runner.run(start_and_stop(tmp_path))
    steps, has_continued = runner.run(body())
    assert 0 < has_continued < steps


@needs_proc
async def test_failed_step_of_the_stop_does_not_prevent_the_others(tmp_path, monkeypatch):
    StateDir(tmp_path)

    def fail(_: object) -> None:
        raise PlantedError

    monkeypatch.setattr(TlsListener, "abort", fail)
    async with nothing_is_left(tmp_path):
        edge = await start_edge(config_of(tmp_path))
        with pytest.raises(PlantedError):
            await edge.stop()


@needs_proc
async def test_a_stop_that_is_cancelled_closes_everything(tmp_path):
    StateDir(tmp_path)
    for step in range(MAX_STEPS):
        async with nothing_is_left(tmp_path):
            edge = await start_edge(config_of(tmp_path))

            async def stop(step: int = step, edge: RunningEdge = edge) -> CancelledAtStep:
                stopping = CancelledAtStep(edge.stop(), step)
                await stopping
                return stopping

            task = asyncio.create_task(stop())
            await asyncio.wait([task])
        if not task.cancelled():
            break
    assert step > 2


async def test_the_stop_goes_in_the_reverse_order_of_the_start(tmp_path, monkeypatch):
    """Clients are told first, then visitors; databases close when nobody asks them any more."""
    order: list[str] = []

    def note(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def noted(*args: Any, **options: Any) -> Any:
            order.append(what)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, noted)

    for part, name, what in (
        (ClientEnv, "withdraw", "client.env"),
        (HandoffListener, "close", "successors"),
        (Admin, "close", "page"),
        (NameSnapshot, "close", "snapshot"),
        (SessionTable, "give_up_all", "sessions"),
        (Endpoint, "close", "endpoint"),
        (TlsListener, "abort", "visitors"),
        (ChangeWatcher, "close", "watcher"),
        (AcmeService, "close", "ACME"),
        (TokenRegistry, "close", "tokens"),
        (NameOwnership, "close", "claims"),
    ):
        note(part, name, what)
    edge = await start_edge(config_of(tmp_path))
    order.clear()
    await edge.stop()
    wanted = [
        *("successors", "client.env", "page", "client.env"),  # of the page it is admin.url
        *(
            "snapshot",
            "sessions",
            "endpoint",
            "visitors",
            "watcher",
            "snapshot",
            "ACME",
            "tokens",
            "claims",
        ),
    ]
    assert order == wanted[0 if protocol.IS_SUPPORTED else 1 :]


class TestMistakes:
    """Mistakes of an operator are one clear line each, and nothing stays open."""

    @pytest.mark.parametrize("option", ["https", "quic", "admin", "acme_http"])
    @needs_proc
    async def test_a_port_that_is_taken(self, tmp_path, option):
        StateDir(tmp_path)
        kind = socket.SOCK_DGRAM if option == "quic" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(ANYWHERE)
            if kind == socket.SOCK_STREAM:
                taken.listen()
            async with nothing_is_left(tmp_path):
                with pytest.raises(ConfigError, match="--" + option.replace("_", "-")):
                    await start_edge(config_of(tmp_path, **{option: taken.getsockname()}))

    @pytest.mark.parametrize("name", ["tokens.db", "claims.db"])
    @needs_proc
    async def test_a_database_that_is_damaged(self, tmp_path, name):
        StateDir(tmp_path)
        (tmp_path / name).write_bytes(b"no database" * 100)
        async with nothing_is_left(tmp_path):
            with pytest.raises(ConfigError, match=name):
                await start_edge(config_of(tmp_path))

    @needs_proc
    async def test_a_certificate_that_cannot_be_read(self, tmp_path):
        StateDir(tmp_path)
        async with nothing_is_left(tmp_path):
            with pytest.raises(ConfigError, match="certificate"):
                await start_edge(config_of(tmp_path, cert=tmp_path / "absent.pem", key=tmp_path / "absent.key"))

    @needs_proc
    async def test_sockets_that_were_passed_are_closed_after_a_failure(self, tmp_path):
        StateDir(tmp_path)
        (tmp_path / "ca.key").write_bytes(b"no key")
        given = activated()
        sockets = [given.https, given.quic, given.acme_http]
        with pytest.raises(ConfigError, match="authority"):
            await start_edge(config_of(tmp_path), given)
        assert all(sock is not None and sock.fileno() == -1 for sock in sockets)
