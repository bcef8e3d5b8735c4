"""Datagrams of unknown peers, and of known peers from other addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quictunnel.transport.engine import Received
from tests.transport.engine_pair import CLIENT, EDGE, forge

if TYPE_CHECKING:
    from tests.transport.engine_pair import Pair

VERSION_1 = (1).to_bytes(4, "big")


def initial(version: bytes = VERSION_1, cid: bytes = b"12345678", size: int = 1200) -> bytes:
    head = b"\xc0" + version + bytes([len(cid)]) + cid + b"\x08abcdefgh" + b"\x00" + b"\x44\x00"
    return head.ljust(size, b"\x55")


def say(engine: Any, datagram: bytes, address=CLIENT, now: float = 1.0) -> list[bytes]:
    engine.receive([Received(datagram, len(datagram), address)], now)
    assert not list(engine.poll())
    return [part for burst in engine.transmit(now) for part in burst.parts]


def stolen_token(pair: Pair) -> bytes:
    """Return the client's datagram after a Retry, which does not arrive."""
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.turn()
    pair.turn()
    pair.sent = []
    pair.edge.engine.receive([], pair.now)
    pair.up.down = True
    pair.turn()
    (second,) = [d for side, d in pair.sent if side == "client" and len(d) >= 1200][:1]
    return second


def copy_a_packet(pair: Pair) -> tuple[bytes, int]:
    """A client's packet comes from elsewhere as well, before the edge has it; and the bytes that went there."""
    client, edge = pair.connect()
    datagram = forge(client, b"\x01" * 50)
    pair.sent = []
    spoofed = ("203.0.113.5", 5)
    pair.edge.engine.receive([Received(datagram, len(datagram), spoofed)], pair.now)
    stream = edge.open()
    edge.write(stream, bytes(20_000))
    reflected = 0
    end = pair.now + 3
    while pair.now < end:
        for burst in pair.edge.engine.transmit(pair.now):
            if burst.address == spoofed:
                reflected += sum(map(len, burst.parts))
            else:
                pair.deliver(pair.edge, [burst])
        pair.turn()
        pair.now = min(max(pair.next_time() or end, pair.now + 0.001), end)
    assert edge.address == CLIENT
    pair.settle(3)
    assert len(pair.client.received[stream]) == 20_000
    return datagram, reflected
