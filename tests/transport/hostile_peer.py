"""A peer that means harm against an engine.

The peer is an aioquic engine: its packets can be forged, and what it does not say can be left out.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.engine import TRUSTED, Closed
from quictunnel.transport.engines.aioquic.quic_connection import CID_SIZE
from tests.transport.engine_pair import CLIENT, EDGE, LARGEST_WINDOW, inject, make_pair_of
from tests.transport.engine_pairings import needs_native
from tests.transport.engine_state import is_empty, panics

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import Address
    from tests.transport.engine_pair import Pair

MIB = 1024 * 1024
# What a connection may hold for its peer: the window, and as much again as bookkeeping and holes may cost.
ALLOWANCE = TRUSTED.connection_window + 2 * MIB

NATIVE_VICTIMS = [
    pytest.param((("aioquic", "native"), "edge"), id="edge", marks=needs_native),
    pytest.param((("native", "aioquic"), "client"), id="client", marks=needs_native),
]
"""Engines of client and edge, and the side that is attacked."""
AIOQUIC_VICTIMS = [
    pytest.param((("aioquic", "aioquic"), side), id=f"aioquic-{side}") for side in ("edge", "client")
]
NATIVE_CLIENT_ATTACKED = pytest.mark.parametrize("attacked", NATIVE_VICTIMS[1:], indirect=True)
CLIENTS_ATTACKED = pytest.mark.parametrize("attacked", [AIOQUIC_VICTIMS[1], NATIVE_VICTIMS[1]], indirect=True)


def make_attacked(paths: dict[str, Path], engines: tuple[str, str], victim: str) -> Pair:
    """Return a pair of engines, of which a hostile peer attacks one side. How a window is earned is tested
    elsewhere; here it is the largest."""
    pair = make_pair_of(paths, engines, edge=LARGEST_WINDOW)
    pair.victim = victim
    return pair


@pytest.fixture(name="engines")
def edge_is_attacked() -> tuple[str, str]:
    """Return the engines for modules whose tests with ``make_pair`` attack a native edge; import it there."""
    return "aioquic", "native"


def has_errors(caplog: pytest.LogCaptureFixture) -> bool:
    return any(record.levelno >= logging.ERROR for record in caplog.records)


class _Mallinfo(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


def held() -> int:
    """Bytes that are allocated in this process now. The resident size would also count what is free again, and
    Python's small objects, which have arenas of their own."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        pytest.skip("only glibc tells how much is allocated")
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.field7 + info.field4)  # uordblks in all arenas, and hblkhd of what was mapped


class Attack:
    """Connection between an aioquic end, ``hostile``, and a native end, ``victim``."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        client, edge = pair.connect()
        if pair.victim == "edge":
            self.hostile, self.victim, self.attacker, self.defender = client, edge, pair.client, pair.edge
        else:
            self.hostile, self.victim, self.attacker, self.defender = edge, client, pair.edge, pair.client
        pair.settle(1)

    def held(self) -> int:
        """Return the bytes that are allocated now, as the victim's engine allocates them."""
        if self.defender.engine.name == "native":
            return held()
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    @property
    def source(self) -> Address:
        """Address from which the peer's packets come."""
        return self.pair.client_address if self.hostile.is_client else EDGE

    def say(self, *frames: bytes, **how) -> None:
        inject(self.pair, self.hostile, *frames, **how)

    def stream(self) -> int:
        """A stream that both know, begun by the victim."""
        number = self.victim.open()
        assert number is not None
        self.victim.write(number, b"x")
        self.pair.settle()
        return number

    def swallow(self, seconds: float = 0.0) -> list[int]:
        """Let time pass for the victim alone; the numbers of the packets that it sends, which nobody receives."""
        engine, pair = self.defender.engine, self.pair
        pair.now += seconds
        due = engine.timeout()
        if due is not None and due <= pair.now:
            engine.expire(pair.now)
        self.defender.collect()
        keys, space = self.hostile.quic.one_rtt, self.hostile.quic._loss.spaces[2]
        numbers = []
        for burst in engine.transmit(pair.now):
            joined = b"".join(burst.parts)
            for start in range(0, len(joined), burst.segment):
                datagram = joined[start : start + burst.segment]
                number = keys.open(datagram, 1 + CID_SIZE, space.expected_packet_number).number
                space.expected_packet_number = max(space.expected_packet_number, number + 1)
                numbers.append(number)
        return numbers

    def is_over(self) -> bool:
        return bool(self.defender.of(Closed))

    def check_aftermath(self) -> None:
        """Nothing panicked, a new connection works, and once all are closed nothing is left."""
        pair = self.pair
        for link in (pair.up, pair.down):
            link.down, link.loss = False, 0.0
        pair.client_address = CLIENT
        other = pair.client.engine.connect(EDGE, "edge.test", pair.now)
        pair.settle(2)
        stream = other.open()
        assert stream is not None
        other.write(stream, b"a bystander lives")
        pair.settle()
        assert bytes(pair.edge.received[stream]).endswith(b"a bystander lives")
        self.victim.close(0)
        other.close(0)
        pair.run(limit=120)
        engine = self.defender.engine
        assert panics(engine) == 0
        assert not engine.has_connections()
        assert is_empty(engine)
        tracemalloc.stop()
