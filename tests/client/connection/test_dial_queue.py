"""The queue of visitors for whom the origin is not dialled yet: order, slots, visitors who leave it."""

from __future__ import annotations

import asyncio

import pytest

from quictunnel.connection import dial_queue
from quictunnel.connection.dial_queue import MAX_CONCURRENT_DIALS
from quictunnel.connection.leases import ClientLease
from quictunnel.connection.visitor_handler import VisitorHandler
from quictunnel.origin.target import Target
from quictunnel.shared.supervision import Supervisor
from quictunnel.wire.codes import StreamCode


class Preface:
    lease = 1
    host = "192.0.2.1"


class Visitor:
    """As much of a stream as the queue and the handler use."""

    preface = Preface()
    bytes_received = bytes_sent = 0
    ended_with_session = False

    def __init__(self) -> None:
        self.on_over = None
        self.code = None

    @property
    def is_over(self) -> bool:
        return self.code is not None

    def abort(self, code: StreamCode) -> None:
        if self.code is None:
            self.code = code
            self.on_over(self)


class Service:
    """An origin that answers a dial when the test says so."""

    target = Target(8000)

    def __init__(self) -> None:
        self.dials: dict[Visitor, asyncio.Future] = {}
        self.dialled: asyncio.Queue[Visitor] = asyncio.Queue()

    async def dial(self, stream: Visitor) -> None:
        self.dials[stream] = asyncio.get_running_loop().create_future()
        self.dialled.put_nowait(stream)
        return await self.dials[stream]


class Splice:
    is_connected = True
    on_closed = None


@pytest.fixture
async def visitors():
    """A handler of one lease, the lease, and its origin."""
    service = Service()
    lease = ClientLease(1, None, service, asyncio.get_running_loop().create_future())  # type: ignore[arg-type]
    leases = {1: lease}

    class Leases:
        get = staticmethod(leases.get)

        def __iter__(self):
            return iter(leases.values())

    handler = VisitorHandler(Leases(), lambda *_: None, Supervisor())  # type: ignore[arg-type]
    yield handler, lease, service
    await handler.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_queued_visitors_have_no_task_and_keep_their_order(visitors):
    handler, lease, service = visitors
    before = len(asyncio.all_tasks())
    streams = [Visitor() for _ in range(50)]
    for stream in streams:
        handler.accept(stream)
    await turns()
    assert list(service.dials) == streams[:MAX_CONCURRENT_DIALS]
    assert len(asyncio.all_tasks()) - before == MAX_CONCURRENT_DIALS
    assert len(lease.dial_queue) == 50 - MAX_CONCURRENT_DIALS
    for number, stream in enumerate(streams):
        service.dials[stream].set_result(Splice())
        await turns()
        assert list(service.dials) == streams[: min(50, number + 1 + MAX_CONCURRENT_DIALS)]
    assert not lease.dial_queue


async def test_dial_without_an_answer_frees_its_slot_after_a_while(visitors, monkeypatch):
    monkeypatch.setattr(dial_queue, "DIAL_SLOT_TIME", 0)
    handler, lease, service = visitors
    streams = [Visitor() for _ in range(3 * MAX_CONCURRENT_DIALS)]
    for stream in streams:
        handler.accept(stream)
    async with asyncio.timeout(5):
        for stream in streams:
            assert await service.dialled.get() is stream
    # A slot whose time was over is not released once more when its dial ends.
    for stream in streams:
        service.dials[stream].set_result(Splice())
    await turns()
    monkeypatch.setattr(dial_queue, "DIAL_SLOT_TIME", 60)
    late = [Visitor() for _ in range(2 * MAX_CONCURRENT_DIALS)]
    for stream in late:
        handler.accept(stream)
    await turns()
    assert len(lease.dial_queue) == MAX_CONCURRENT_DIALS


async def test_visitor_that_leaves_the_queue_is_not_dialled(visitors):
    handler, lease, service = visitors
    streams = [Visitor() for _ in range(MAX_CONCURRENT_DIALS + 3)]
    for stream in streams:
        handler.accept(stream)
    await turns()
    assert handler._capacity.reserved == len(streams)
    streams[MAX_CONCURRENT_DIALS].abort(StreamCode.ABORTED)  # waits
    streams[0].abort(StreamCode.ABORTED)  # is dialled
    await turns()
    assert handler._capacity.reserved == len(streams) - 2
    assert streams[MAX_CONCURRENT_DIALS] not in service.dials
    assert streams[MAX_CONCURRENT_DIALS + 1] in service.dials
    assert len(lease.dial_queue) == 1


async def test_visitors_in_the_queue_are_reset_when_the_client_closes(visitors):
    handler, lease, _service = visitors
    streams = [Visitor() for _ in range(MAX_CONCURRENT_DIALS + 3)]
    for stream in streams:
        handler.accept(stream)
    await turns()
    await handler.close()
    assert [stream.code for stream in streams] == [StreamCode.CLOSING] * len(streams)
    assert handler._capacity.reserved == 0
    assert not lease.streams
