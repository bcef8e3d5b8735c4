"""Visitors who come and leave within the round trip of a resume, and numbers of streams that never arrive."""

import asyncio
from collections.abc import Callable

import pytest

from quictunnel.transport.engine import CloseCause
from quictunnel.transport.incoming_stream import IncomingStream
from quictunnel.transport.session import Session
from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import SessionCode, StreamCode
from quictunnel.wire.messages import GoAway, ResumeState
from tests.simnet.clock import VirtualLoop
from tests.simnet.link import Conditions, Packet
from tests.simnet.socket import Network, SimSocket
from tests.transport.sessions.session_pair import WAN, Pump, SessionPair, StartPair
from tests.transport.sessions.test_resume import Redialler

TICK = 0.001


class OpenConnection(Pump):
    """A connection that both ends keep open, as an SSH session or a WebSocket."""

    def push(self) -> None:
        while (room := self.stream.room) and self.sent < len(self.payload):
            part = bytes(self.payload[self.sent : self.sent + room])
            self.sent += len(part)
            self.stream.write(part)


class Resume:
    """A pair whose session is about to go on with another link, with visitors who keep their connections open."""

    def __init__(self, network: Network, pair: SessionPair, visitors: int) -> None:
        self.pair = pair
        self.redialler = Redialler(network, pair)
        self.clients: dict[int, OpenConnection] = {}
        pair.client_half.on_stream = self._serve
        self.visitors = [self.come() for _ in range(visitors)]

    def _serve(self, stream: Stream) -> None:
        self.clients[stream.number] = OpenConnection(stream, b"answer")

    def come(self) -> OpenConnection:
        return OpenConnection(self.pair.open(), b"a" * 5000)

    async def reach_the_edge(self) -> None:
        """Until the edge has said how it stands, and the client's account is under way."""
        self.pair.redial(self.redialler.socket())
        await until(lambda: self.pair.edge.is_awaiting_resume_state)

    def check_served(self, visitor: OpenConnection) -> None:
        assert visitor.lost is None
        assert visitor.received == len(b"answer")
        client = self.clients[visitor.stream.number]
        assert client.lost is None
        assert client.received == 5000

    async def end(self) -> None:
        """Every visitor leaves; nothing is left of any."""
        for visitor in self.visitors:
            visitor.stream.abort(StreamCode.ABORTED)
        async with asyncio.timeout(10):
            await self.pair.settled()
        assert self.pair.client.skipped_numbers == 0
        assert self.pair.client_half.down is None
        assert self.pair.edge_half.down is None


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):  # of virtual time
        while not is_so():  # noqa: ASYNC110 - of virtual time
            await asyncio.sleep(TICK)


@pytest.fixture
async def resume(network: Network, start_pair: StartPair, virtual_time: VirtualLoop) -> Resume:
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    story = Resume(network, pair, 3)
    await until(lambda: len(story.clients) == 3)
    return story


async def test_new_visitor_during_a_resume_is_served(resume: Resume) -> None:
    await resume.reach_the_edge()
    assert not resume.pair.edge.is_ready
    resume.visitors.append(resume.come())
    await asyncio.sleep(2)
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_visitor_who_leaves_during_a_resume_leaves_at_the_client_too(resume: Resume) -> None:
    await resume.reach_the_edge()
    left = resume.visitors.pop(0)
    left.stream.abort(StreamCode.ABORTED)
    await asyncio.sleep(2)
    assert resume.clients[left.stream.number].lost is StreamCode.ABORTED
    assert resume.pair.client.stream_count == resume.pair.edge.stream_count == 2
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_brief_visitor_during_a_resume_is_forgotten(resume: Resume) -> None:
    await resume.reach_the_edge()
    resume.come().stream.abort(StreamCode.ABORTED)
    resume.visitors.append(resume.come())
    await asyncio.sleep(2)
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_origin_that_leaves_during_a_resume_leaves_at_the_edge_too(resume: Resume) -> None:
    await resume.reach_the_edge()
    await until(
        lambda: resume.pair.client.is_awaiting_resume_state or not resume.pair.edge.is_awaiting_resume_state
    )
    left = resume.visitors.pop(0)
    resume.clients[left.stream.number].stream.abort(StreamCode.ABORTED)
    await asyncio.sleep(2)
    assert left.lost is StreamCode.ABORTED
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_both_ends_of_a_stream_leave_while_there_is_no_link(network: Network, resume: Resume) -> None:
    """The visitor ended and reset, the origin reset: what the edge opens again is over at the client, which has
    all of it before it can say so to QUIC."""
    left = OpenConnection(resume.pair.open(), b"")
    await until(lambda: left.stream.number in resume.clients)
    (socket,) = (socket for socket in network.sockets if socket.local_address[1] == 5000)
    socket.down.conditions.black_hole = socket.up.conditions.black_hole = True
    left.stream.finish()
    left.stream.abort_after_delivery(StreamCode.ABORTED)
    resume.clients[left.stream.number].stream.abort(StreamCode.ABORTED)
    await resume.reach_the_edge()
    await asyncio.sleep(2)
    assert left.stream.is_over
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_visitors_of_a_lost_link_leave_no_numbers(network: Network, resume: Resume) -> None:
    """Visitors come when nothing gets through any more, and leave before there is another link."""
    (socket,) = (socket for socket in network.sockets if socket.local_address[1] == 5000)
    socket.down.conditions.black_hole = True
    unseen = [resume.come() for _ in range(50)]
    for visitor in unseen[:-1]:
        visitor.stream.abort(StreamCode.ABORTED)
    resume.visitors.append(unseen[-1])  # the client meets its number only after the resume
    await resume.reach_the_edge()
    await asyncio.sleep(2)
    for visitor in resume.visitors:
        resume.check_served(visitor)
    assert resume.pair.client.skipped_numbers == 0
    await resume.end()


async def test_edge_that_leaves_during_a_resume_lets_visitors_finish(resume: Resume) -> None:
    """The edge does not wait for the client's resume state before it sends GoAway."""
    await resume.reach_the_edge()
    resume.pair.edge.send(GoAway(10))
    await asyncio.sleep(2)
    assert resume.pair.client_half.messages[-1] == GoAway(10)
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_link_lost_again_during_a_resume(resume: Resume) -> None:
    """At each millisecond of it, with a visitor who comes and one who leaves at that moment."""
    for delay in range(0, 120, 5):
        resume.pair.redial(resume.redialler.socket())
        await asyncio.sleep(delay * TICK)
        resume.visitors.append(resume.come())
        resume.visitors.pop(0).stream.abort(StreamCode.ABORTED)
        await resume.redialler.dial()
    await asyncio.sleep(2)
    for visitor in resume.visitors:
        resume.check_served(visitor)
    await resume.end()


async def test_account_of_too_many_unknown_streams_ends_the_session(
    resume: Resume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile edge may go on with it for ever."""
    monkeypatch.setattr("quictunnel.transport.resume_exchange.MAX_SKIPPED", 100)
    pair = resume.pair
    stand = pair.edge.send_resume_state

    def stand_for_long() -> None:
        for number in range(101):
            pair.edge.send(ResumeState([(1000 + number, 0, 0, 1)], False))
        stand()

    monkeypatch.setattr(pair.edge, "send_resume_state", stand_for_long)
    pair.redial(resume.redialler.socket())
    pair.client_half.keeps = False
    await until(lambda: pair.client_half.down is not None and pair.edge.is_away)
    pair.edge.end_if_away(pair.client_half.down)
    assert pair.client_half.down is not None
    assert (pair.client_half.down.cause, pair.client_half.down.code) == (CloseCause.LOCAL, SessionCode.PROTOCOL)


async def test_streams_that_overtake_the_account_wait_for_it(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    """The account takes several packets, one of which is late: streams that are opened again are here before it.
    A client that did not wait would go on where it was, and not where the edge says."""
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    redialler = Redialler(network, pair)
    pumps: dict[int, Pump] = {}
    up = bytes(range(256)) * 128
    pair.client_half.on_stream = lambda stream: pumps.setdefault(stream.number, Pump(stream, up))
    visitors = [Pump(pair.open(), b"a" * 100) for _ in range(300)]
    await until(lambda: len(pumps) == 300)
    socket = redialler.socket()
    overtaken = hold_one_packet_of_the_account(virtual_time, pair, socket)
    pair.redial(socket)
    async with asyncio.timeout(60):
        for visitor in visitors:
            await visitor.done.wait()
        await pair.settled()
    assert overtaken(), "no stream came before the account"
    for visitor in visitors:
        assert visitor.lost is None
        assert visitor.received == len(up)
        assert visitor.hash.digest() == visitors[0].hash.digest()


def hold_one_packet_of_the_account(loop: VirtualLoop, pair: SessionPair, socket: SimSocket) -> Callable[[], bool]:
    """Have the first packet behind the edge's Welcome arrive three round trips late. Return a function that says
    whether a stream had to wait for it."""
    down, session = socket.down, pair.client
    was_parked = False
    packets = 0

    def park(arrival: IncomingStream, number: int) -> int | None:
        nonlocal was_parked
        was_parked = was_parked or session.is_awaiting_resume_state
        return Session.park(session, arrival, number)

    def tap(packet: Packet) -> Packet | None:
        nonlocal packets
        packets += pair.edge.is_awaiting_resume_state
        if packets != 2:
            return packet

        def deliver() -> None:
            down.tap = None
            down.send(packet)

        loop.call_later(0.15, deliver)
        return None

    session.park = park  # type: ignore[method-assign]
    down.tap = tap
    return lambda: was_parked


async def test_visitors_who_reset_on_a_full_link_leave_no_numbers(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    """The resets destroy the prefaces, which have not left the edge yet."""
    pair = start_pair(both=Conditions.wan(mbit=8, rtt=0.04))
    await pair.greet()
    clients: list[Pump] = []
    pair.client_half.on_stream = lambda stream: clients.append(Pump(stream, b""))
    upload = Pump(pair.open(), bytes(20_000_000))
    await asyncio.sleep(2)
    for _ in range(300):
        OpenConnection(pair.open(), b"x").stream.abort(StreamCode.ABORTED)
        await asyncio.sleep(0.004)
    unmet = 300 - len(clients) + 1
    assert unmet > 100, "the prefaces got through"
    upload.stream.abort(StreamCode.ABORTED)
    async with asyncio.timeout(60):
        await pair.settled()
    assert pair.client.skipped_numbers == 0
    assert pair.client_half.down is None
