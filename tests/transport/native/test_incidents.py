"""Attacks that have affected other QUIC libraries, against the native engine."""

from __future__ import annotations

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import Closed, Connected, Received
from quictunnel.transport.engines import create_engine
from quictunnel.transport.engines.aioquic.quic_connection import TunnelConnection
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import (
    CLIENT,
    EDGE,
    forge,
    settings_for,
)
from tests.transport.engine_pairings import needs_native
from tests.transport.hostile_peer import Attack, edge_is_attacked, has_errors, held
from tests.transport.unknown_peers import initial

__all__ = ["edge_is_attacked"]

pytestmark = needs_native

KIB = 1024


def test_a_probed_address_gets_three_times_what_it_sent(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    elsewhere = ("203.0.113.5", 5)
    received = sent = 0
    for number in range(100):
        datagram = forge(client, b"\x1a", number.to_bytes(8, "big"))
        received += len(datagram)
        pair.edge.engine.receive([Received(datagram, len(datagram), elsewhere)], pair.now)
        pair.now += 0.01
        bursts = list(pair.edge.engine.transmit(pair.now))
        sent += sum(len(part) for burst in bursts if burst.address == elsewhere for part in burst.parts)
    assert edge.address == CLIENT
    assert sent <= 1200 + 3 * received


# What other libraries fell to


def parameter(number: int, value: bytes) -> bytes:
    return encode(number) + encode(len(value)) + value


PARAMETERS = [
    b"",
    b"\xff",
    b"\x01\x7f\xff",
    *[parameter(number, value) for number in (0x03, 0x04, 0x08, 0x0A, 0x0B, 0x0E) for value in (b"", b"\xff" * 8)],
    *[parameter(number, bytes(21)) for number in (0x00, 0x02, 0x0D, 0x0F, 0x10)],
    *[parameter(number, b"\xc0") for number in (0x0C, 0x20, 0x2AB2, 0xFF04DE1B, 0xFF02DE1A)],
    parameter(0x0D, bytes(24) + b"\xff" + bytes(40)),
    parameter(0x04, b"\x01") * 2,
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=repr)
def test_transport_parameters_that_make_no_sense(attacked, parameters, monkeypatch, caplog):
    """quinn's CVE-2026-31812 was a panic in here. It is the end of that handshake only."""
    with monkeypatch.context() as patch:
        patch.setattr(TunnelConnection, "_serialize_transport_parameters", lambda self: parameters)
        attacked.client.engine.connect(EDGE, "edge.test", attacked.now)
        attacked.run(limit=20)
    (closed,) = attacked.client.of(Closed)
    assert closed.code in (QuicErrorCode.TRANSPORT_PARAMETER_ERROR, QuicErrorCode.PROTOCOL_VIOLATION)
    assert not attacked.edge.of(Connected)
    assert not has_errors(caplog)
    attacked.client.events.clear()
    Attack(attacked).check_aftermath()


def test_handshakes_that_never_were_leave_nothing(paths):
    """LSQUIC's CVE-2025-54939: what came coalesced with a first packet, for another connection ID, was leaked."""
    edge = create_engine(settings_for("edge", paths, retry=False), "native")
    client = create_engine(settings_for("client", paths), "native")
    sizes = []
    for turn in range(3):
        now = 100.0 * (turn + 1)
        for number in range(100):
            client.connect(EDGE, "edge.test", now)
            for burst in client.transmit(now):
                strange = initial(cid=number.to_bytes(8, "big"), size=100)
                for start in range(0, len(burst.parts[0]), burst.segment):
                    datagram = burst.parts[0][start : start + burst.segment] + strange
                    edge.receive([Received(datagram, len(datagram), (CLIENT[0], 1000 + number))], now)
        assert edge._engine.population() == (100, 100)
        for later in (6.0, 60.0):
            edge.expire(now + later)
            list(edge.transmit(now + later))
            client.expire(now + later)
            list(client.transmit(now + later))
        list(edge.poll())
        list(client.poll())
        assert edge._engine.population() == (0, 0)
        sizes.append(held())
    assert sizes[2] - sizes[1] < 64 * KIB
    assert edge._engine.counters()["panics"] == 0
