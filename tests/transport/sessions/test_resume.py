"""A session that loses its link goes on with another: every byte once and in order, or a reset on both sides."""

import asyncio
import hashlib
import random

import pytest

from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import StreamCode
from tests.simnet.clock import VirtualLoop
from tests.simnet.socket import Network, SimSocket
from tests.transport.sessions.session_pair import WAN, Pump, SessionPair, StartPair, payloads

STREAMS = 200
SIZE = 128 * 1024


def black_hole(network: Network, *, on: bool) -> None:
    for socket in network.sockets:
        socket.up.conditions.black_hole = socket.down.conditions.black_hole = on


class Redialler:
    """The client's side of many links."""

    def __init__(self, network: Network, pair: SessionPair) -> None:
        self.network, self.pair = network, pair
        self.count = 0
        pair.client_half.keeps = pair.edge_half.keeps = True

    def socket(self) -> SimSocket:
        self.count += 1
        return self.network.socket((f"10.0.2.{self.count}", 6000 + self.count), both=WAN.copy())

    async def dial(self) -> None:
        self.pair.redial(self.socket())
        async with asyncio.timeout(10):
            await self.pair.client_half.resumed.wait()
            await self.pair.edge_half.resumed.wait()


@pytest.mark.slow
@pytest.mark.aioquic_is_long
async def test_200_visitors_survive_a_black_hole_that_outlasts_every_link(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    redialler = Redialler(network, pair)
    down, up = payloads(1, STREAMS, SIZE), payloads(2, STREAMS, SIZE)
    clients: list[Pump] = []
    pair.client_half.on_stream = lambda s: clients.append(Pump(s, up[s.number]))
    edges = [Pump(pair.open(), down[n]) for n in range(STREAMS)]
    await asyncio.sleep(0.5)  # of virtual time: everything is in flight
    assert sum(pump.done.is_set() for pump in edges) < STREAMS / 2
    black_hole(network, on=True)
    await pair.client_half.is_away.wait()
    await pair.edge_half.is_away.wait()
    await asyncio.sleep(60)
    black_hole(network, on=False)
    begun = virtual_time.time()
    await redialler.dial()
    print(f"resumed after {virtual_time.time() - begun:.2f} s")
    async with asyncio.timeout(60):
        for pump in edges:
            await pump.done.wait()
        for pump in clients:
            await pump.done.wait()
        assert len(clients) == STREAMS
        await pair.settled()
    for pump in edges:
        assert pump.lost is None
        assert pump.hash.digest() == hashlib.sha256(up[pump.stream.number]).digest()
    for pump in clients:
        assert pump.lost is None
        assert pump.hash.digest() == hashlib.sha256(down[pump.stream.number]).digest()


async def test_a_newer_link_takes_over_while_the_old_one_still_lives(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    redialler = Redialler(network, pair)
    down = payloads(1, 20, 1024 * 1024)
    clients: list[Pump] = []
    pair.client_half.on_stream = lambda s: clients.append(Pump(s, b""))
    edges = [Pump(pair.open(), payload) for payload in down]
    for _ in range(5):
        await asyncio.sleep(0.3)
        await redialler.dial()
    for pump in [*edges, *clients]:
        async with asyncio.timeout(60):
            await pump.done.wait()
    assert len(clients) == len(edges)
    for pump in clients:
        assert pump.hash.digest() == hashlib.sha256(down[pump.stream.number]).digest()
    async with asyncio.timeout(30):
        await pair.settled()


class Actor:
    """Visitor and origin with a random conversation."""

    def __init__(self, pair: SessionPair, chance: random.Random, clients: dict[int, Pump]) -> None:
        sizes = [0, 1, 1000, 70_000, 300_000]
        self.down, self.up = chance.randbytes(chance.choice(sizes)), chance.randbytes(chance.choice(sizes))
        self.chance = chance
        self.clients = clients
        self.aborts = chance.random() < 0.2
        self.gave_up = False
        self.broke: dict[Pump, int] = {}
        """Ends whose TCP connection broke, with the number of bytes that each had sent."""
        stream = pair.open_or_none()
        self.edge = Pump(stream, self.down, reading=chance.random() < 0.8) if stream is not None else None

    @property
    def pumps(self) -> list[Pump]:
        if self.edge is None:
            return []
        client = self.clients.get(self.edge.stream.number)
        return [self.edge] if client is None else [self.edge, client]

    def act(self, *, last: bool) -> None:
        """Perhaps give up; perhaps read what was left unread."""
        for pump in self.pumps:
            if self.aborts and self.chance.random() < 0.1 and not pump.stream.is_over and pump not in self.broke:
                if self.chance.random() < 0.5:
                    pump.stream.abort(StreamCode.ABORTED)
                    self.gave_up = True
                else:
                    self.broke[pump] = min(pump.sent, len(pump.payload))
                    pump.stream.abort_after_delivery(StreamCode.ABORTED)
            if not pump.reading and (last or self.chance.random() < 0.2):
                pump.read_on()

    def check(self, up: dict[int, bytes]) -> None:
        for pump in self.pumps:
            assert pump.stream.is_over
            wanted = up[pump.stream.number] if pump is self.edge else self.down
            if pump.ended:
                assert pump.hash.digest() == hashlib.sha256(wanted).digest()
            else:
                assert pump.lost is not None or self.aborts, "neither an end nor a reset"
        self.check_delivery()

    def check_delivery(self) -> None:
        """Check that what one connection had sent before it broke has come to the other, if that one accepted
        it."""
        if len(self.broke) != 1 or self.gave_up:
            return
        ((broken, said),) = self.broke.items()
        for pump in self.pumps:
            if pump is not broken and pump.lost is StreamCode.ABORTED:
                assert pump.received == said
                assert pump.hash.digest() == hashlib.sha256(broken.payload[:said]).digest()


@pytest.mark.parametrize("story", range(1, 6))
async def test_every_byte_arrives_once_or_both_sides_see_a_reset(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop, story: int, seed: int
) -> None:
    """Black holes that links outlive or not, newer links beside live ones, half-closes, aborts and readers that
    stall, at random moments."""
    chance = random.Random(f"{story} {seed}")
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    redialler = Redialler(network, pair)
    clients: dict[int, Pump] = {}
    up: dict[int, bytes] = {}
    actors: list[Actor] = []

    def serve(stream: Stream) -> None:
        actor = next(a for a in actors if a.edge is not None and a.edge.stream.number == stream.number)
        up[stream.number] = actor.up
        clients[stream.number] = Pump(stream, actor.up, reading=chance.random() < 0.9)

    pair.client_half.on_stream = serve
    for _ in range(60):
        await asyncio.sleep(chance.random() * 0.3)
        if len(actors) < 60 and not pair.edge.is_away:
            actors += [Actor(pair, chance, clients) for _ in range(chance.randrange(4))]
        for actor in actors:
            actor.act(last=False)
        match chance.randrange(12):
            case 0:
                await redialler.dial()
            case 1:
                black_hole(network, on=True)
                await asyncio.sleep(chance.choice([0.1, 2, 50]))
                black_hole(network, on=False)
                await redialler.dial()
            case 2:  # again before the first attempt has got anywhere
                pair.redial(redialler.socket())
                await asyncio.sleep(chance.random() * 0.2)
                await redialler.dial()
    for _ in range(40):
        await asyncio.sleep(0.5)
        for actor in actors:
            actor.act(last=True)
    async with asyncio.timeout(400):
        await pair.settled()
    for actor in actors:
        if actor.edge is not None:
            up.setdefault(actor.edge.stream.number, actor.up)
        actor.check(up)
    assert sum(pump.ended for actor in actors for pump in actor.pumps) > len(actors) / 2


@pytest.mark.parametrize("who", ["client", "edge"])
@pytest.mark.parametrize("story", range(1, 4))
async def test_killed_side_leaves_only_ends_or_resets(
    network: Network, start_pair: StartPair, story: int, who: str, seed: int
) -> None:
    """A process that was killed, at a random moment, perhaps just after a resumption: it says nothing, and knows
    nothing of the session when it is there again. The other side waits, and gives the session up."""
    chance = random.Random(f"{who} {story} {seed}")
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    redialler = Redialler(network, pair)
    clients: dict[int, Pump] = {}
    actors: list[Actor] = []

    def serve(stream: Stream) -> None:
        actor = next(a for a in actors if a.edge is not None and a.edge.stream.number == stream.number)
        clients[stream.number] = Pump(stream, actor.up, reading=chance.random() < 0.9)

    pair.client_half.on_stream = serve
    for _ in range(chance.randrange(5, 30)):
        await asyncio.sleep(chance.random() * 0.2)
        actors += [Actor(pair, chance, clients) for _ in range(chance.randrange(4))]
        for actor in actors:
            actor.act(last=False)
        if chance.randrange(10) == 0:
            await redialler.dial()
    black_hole(network, on=True)
    survivor, half = (pair.edge, pair.edge_half) if who == "client" else (pair.client, pair.client_half)
    half.is_away.clear()
    (pair.client_half if who == "client" else pair.edge_half).keeps = False
    (pair.client_endpoint if who == "client" else pair.edge_endpoint).abort()
    async with asyncio.timeout(60):
        await half.is_away.wait()
    assert survivor.is_away
    survivor.end_if_away(Closed(CloseCause.TIMEOUT, 0, ""))
    assert survivor.stream_count == survivor.window_pool.used == survivor.retained_bytes == 0
    for actor in actors:
        for pump in actor.pumps:
            wanted = actor.up if pump is actor.edge else actor.down
            assert pump.stream.is_over
            assert pump.ended or pump.lost is not None or actor.aborts, "neither an end nor a reset"
            if pump.ended:
                assert pump.hash.digest() == hashlib.sha256(wanted).digest()
    black_hole(network, on=False)
