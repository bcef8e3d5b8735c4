"""Tests of the edge's error pages: their places, what is read of a request, and how a connection ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edge_server.ingress import error_pages
from edge_server.ingress.error_pages import (
    MAX_PER_ADDRESS,
    MAX_WITHOUT_TUNNEL,
    PAGES,
    ErrorPages,
    PageConnection,
    PageSlots,
)
from quictunnel.transport.lingering_close import MAX_LINGER_BYTES
from quictunnel.transport.refusal import Refusal
from tests.harness.waiting import soon

ADDRESS = "192.0.2.1"
GET = b"GET /secret-path HTTP/1.1\r\nHost: secret-host\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """A transport that records what is written, and how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.has_ended = self.is_aborted = False

    def write(self, data: Any) -> None:
        assert not self.has_ended
        self.written += data

    def write_eof(self) -> None:
        self.has_ended = True

    def abort(self) -> None:
        self.is_aborted = True


class Rig:
    """A stranger whose handshake is complete."""

    def __init__(self) -> None:
        self.pages = ErrorPages()
        self.held: list[PageConnection] = []
        self.pages.hold_place = lambda holder, _: self.held.append(holder)  # type: ignore[arg-type]
        self.pages.release_place = self.held.remove  # type: ignore[assignment]
        page = self.pages.for_visitor_without_tunnel(ADDRESS)
        assert page is not None
        self.page = page
        self.transport = FakeTransport()
        page.connection_made(self.transport)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_places_are_bounded_for_an_address_and_in_all():
    places = PageSlots(20)
    taken = [places.acquire(ADDRESS) for _ in range(MAX_PER_ADDRESS)]
    assert None not in taken
    assert places.acquire(ADDRESS) is None
    assert places.acquire("2001:db8::1") is not None
    others = [places.acquire(f"198.51.100.{number}") for number in range(20)]
    assert sum(each is not None for each in others) == 20 - MAX_PER_ADDRESS - 1
    assert places.used == places.limit


async def test_addresses_of_one_ipv6_network_are_one():
    places = PageSlots(20)
    taken = [places.acquire(f"2001:db8::{number:x}") for number in range(20)]
    assert sum(each is not None for each in taken) == MAX_PER_ADDRESS


async def test_a_place_is_held_for_a_while_however_fast_its_visitor_leaves(monkeypatch):
    monkeypatch.setattr(error_pages, "MIN_HOLD", 0.05)
    places = PageSlots(1)
    release = places.acquire(ADDRESS)
    assert release is not None
    release()
    assert places.used == 1
    assert places.acquire(ADDRESS) is None
    await soon(lambda: places.used == 0)
    later = places.acquire(ADDRESS)
    assert later is not None
    await asyncio.sleep(0.06)
    later()
    assert places.used == 0
    assert not places._by_address


async def test_a_failed_handshake_gives_its_place_back(monkeypatch):
    monkeypatch.setattr(error_pages, "MIN_HOLD", 0.0)
    pages = ErrorPages()
    page = pages.for_visitor_without_tunnel(ADDRESS)
    assert page is not None
    assert pages.without_tunnel.used == 1
    page.discard()
    assert pages.without_tunnel.used == 0


async def test_there_are_no_pages_where_they_are_off():
    assert ErrorPages(is_on=False).for_visitor_without_tunnel(ADDRESS) is None
    assert ErrorPages().without_tunnel.limit == MAX_WITHOUT_TUNNEL


async def test_one_request_gets_one_response(rig: Rig):
    assert rig.held == [rig.page]
    rig.page.data_received(GET[:20])
    assert rig.transport.written == b""
    rig.page.data_received(GET[20:] + GET)
    assert rig.transport.written.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert rig.transport.written.count(b"HTTP/1.1") == 1
    assert rig.transport.has_ended
    assert b"secret" not in rig.transport.written
    assert rig.pages.sent == {"404": 1}
    rig.page.connection_lost(None)
    assert rig.held == []


async def test_what_follows_the_request_is_discarded_up_to_a_bound(rig: Rig):
    rig.page.data_received(GET)
    rig.page.data_received(b"b" * MAX_LINGER_BYTES)
    assert not rig.transport.is_aborted
    rig.page.data_received(b"b")
    assert rig.transport.is_aborted


@pytest.mark.parametrize("data", [b"\x00\x01", b"PRI * HTTP/2.0\r\n\r\n", b"SSH-2.0-x\r\n"])
async def test_other_protocols_are_reset(rig: Rig, data: bytes):
    rig.page.data_received(data)
    assert rig.transport.is_aborted
    assert rig.transport.written == b""


@pytest.mark.parametrize(("sent", "answered"), [(b"", False), (b"GE", False), (b"GET / HTTP/1.1\r\nA: b", True)])
@pytest.mark.parametrize("how", ["time", "end"])
async def test_a_request_that_does_not_continue(monkeypatch, sent: bytes, answered: bool, how: str):
    monkeypatch.setattr(error_pages, "REQUEST_TIMEOUT", 0.01)
    rig = Rig()
    if sent:
        rig.page.data_received(sent)
    if how == "end":
        assert rig.page.eof_received() is False
    await soon(lambda: rig.transport.has_ended or rig.transport.is_aborted)
    assert rig.transport.written.startswith(b"HTTP/1.1 404") is answered
    assert rig.transport.is_aborted is not answered


async def test_a_visitor_that_does_not_close_is_reset_in_the_end(monkeypatch):
    monkeypatch.setattr(error_pages, "LINGER_TIMEOUT", 0.01)
    rig = Rig()
    rig.page.data_received(GET)
    await soon(lambda: rig.transport.is_aborted)


def test_every_reason_has_a_page():
    assert set(PAGES) == set(Refusal)
    for page in PAGES.values():
        assert (page.retry_after is not None) is page.status.startswith("503")
