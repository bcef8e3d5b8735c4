"""WebSocket messages, as a real library writes them: masked, in fragments, compressed, and wrongly."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from quictunnel.inspect import limits
from quictunnel.inspect.exchange_store import ExchangeKind, ExchangeState
from quictunnel.inspect.views import detail
from quictunnel.inspect.websocket import (
    TOO_LARGE,
    Deflate,
    FrameError,
    FrameParser,
    WebSocketMessage,
    negotiated_deflate,
)
from tests.inspect.recorded_connection import IN, OUT, Recording, bytewise

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
YES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


def written(opcode: Opcode, data: bytes, *, mask: bool = False, last: bool = True, extensions=()) -> bytes:
    return Frame(opcode, data, last).serialize(mask=mask, extensions=extensions)


def read(frames: FrameParser, *pieces: bytes) -> list[WebSocketMessage]:
    return [said for piece in pieces for said in frames.feed(memoryview(piece))]


@given(
    st.lists(
        st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING]), st.binary(max_size=120)), max_size=6
    ),
    st.booleans(),
    st.booleans(),
    st.integers(1, 50),
)
def test_messages_in_any_split(messages: list[tuple[Opcode, bytes]], mask: bool, deflate: bool, step: int) -> None:
    extensions = [PerMessageDeflate(False, False, 15, 15)] if deflate else []
    data = b"".join(written(opcode, said, mask=mask, extensions=extensions) for opcode, said in messages)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    found = read(FrameParser(Deflate(15, keeps_context=True) if deflate else None), *pieces)
    assert [(each.kind, each.data, each.size) for each in found] == [
        (opcode.name.lower(), said, len(said)) for opcode, said in messages
    ]


def test_a_message_in_fragments_with_a_ping_between() -> None:
    data = (
        written(Opcode.TEXT, b"one ", mask=True, last=False)
        + written(Opcode.PING, b"?", mask=True)
        + written(Opcode.CONT, b"two ", mask=True, last=False)
        + written(Opcode.CONT, b"three", mask=True)
    )
    assert read(FrameParser(None), *bytewise(data)) == [
        WebSocketMessage("ping", b"?", 1, ""),
        WebSocketMessage("text", b"one two three", 13, ""),
    ]


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 300_000])
def test_of_a_large_message_a_beginning_is_kept(size: int) -> None:
    data = written(Opcode.BINARY, os.urandom(size), mask=True)
    frames = FrameParser(None)
    (said,) = read(frames, *(data[at : at + 9_999] for at in range(0, len(data), 9_999)))
    assert (len(said.data), said.size) == (min(size, limits.MAX_FRAME), size)


def test_large_payload_is_skipped() -> None:
    frames = FrameParser(None)
    data = written(Opcode.BINARY, b"x" * 100_000)
    assert not frames.skip(5)
    read(frames, data[:50_000])
    assert frames.is_full
    assert frames.skip(40_000)
    assert not frames.skip(len(data) - 90_000), "not its last byte"
    (said,) = read(frames, data[90_000:])
    assert (said.data, said.size) == (b"x" * limits.MAX_FRAME, 100_000)


def test_a_bomb_is_not_blown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_INFLATED", 100_000)
    extensions = [PerMessageDeflate(False, False, 15, 15)]
    small = written(Opcode.TEXT, b"small" * 10, extensions=extensions)
    bomb = written(Opcode.BINARY, bytes(50_000_000), extensions=extensions)
    after = written(Opcode.TEXT, b"after" * 10, extensions=extensions)
    frames = FrameParser(Deflate(15, keeps_context=True))
    first, second, third = read(frames, small, bomb, after)
    assert first == WebSocketMessage("text", b"small" * 10, 50, "compressed")
    assert (len(second.data), second.note) == (limits.MAX_FRAME, TOO_LARGE)
    assert (third.data, third.note) == (b"", TOO_LARGE)
    assert third.size == len(after) - 2


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x83\x00",  # an opcode that is none
        b"\xa1\x00",  # a reserved bit
        b"\xc1\x00",  # compressed without having negotiated_deflate
        b"\x80\x00",  # a continuation of nothing
        b"\x09\x00",  # a ping in fragments
        b"\x89\x7e\x00\xff",  # a ping that is too long
        b"\x8b\x00",
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x01\x00\x81\x00",  # a message inside another
    ],
)
def test_malformed_frames_are_an_error(wrong: bytes) -> None:
    with pytest.raises(FrameError):
        read(FrameParser(None), *bytewise(wrong + b"\x00" * 8))


def test_malformed_deflate_is_an_error() -> None:
    with pytest.raises(FrameError):
        read(FrameParser(Deflate(15, keeps_context=True)), b"\xc1\x05\xff\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("said", "from_server", "expected"),
    [
        ([], True, None),
        ([b"x-other"], True, None),
        ([b"permessage-deflate"], True, Deflate(15, keeps_context=True)),
        ([b"a, permessage-deflate; server_no_context_takeover"], True, Deflate(15, keeps_context=False)),
        ([b"permessage-deflate; server_no_context_takeover"], False, Deflate(15, keeps_context=True)),
        ([b'PerMessage-Deflate; client_max_window_bits="10"'], False, Deflate(10, keeps_context=True)),
        ([b"permessage-deflate; client_max_window_bits=99"], False, Deflate(15, keeps_context=True)),
    ],
)
def test_negotiated_extensions(said: list[bytes], from_server: bool, expected: Deflate | None) -> None:
    assert negotiated_deflate(said, from_server=from_server) == expected


@pytest.mark.parametrize("deflate", [False, True])
def test_a_websocket_in_a_connection(deflate: bool) -> None:
    recording = Recording()
    ours, theirs = ([PerMessageDeflate(False, False, 15, 15)] if deflate else [] for _ in range(2))
    recording.visitor_sends(ASK)
    recording.origin_sends(
        YES + (DEFLATE if deflate else b"") + b"\r\n" + written(Opcode.TEXT, b"hello", extensions=theirs)
    )
    recording.now += 1
    recording.visitor_sends(*bytewise(written(Opcode.TEXT, "grüß".encode(), mask=True, extensions=ours)))
    recording.visitor_sends(written(Opcode.CLOSE, b"\x03\xe8bye", mask=True))
    exchange = recording.only
    assert (exchange.kind, exchange.status, exchange.state) == (ExchangeKind.WEBSOCKET, 101, ExchangeState.OPEN)
    shown = detail(exchange)["messages"]
    assert [(each["way"], each["kind"], each["text"]) for each in shown] == [
        ("response", "text", "hello"),
        ("request", "text", "grüß"),
        ("request", "close", "1000 bye"),
    ]
    assert [each["at"] for each in shown] == [0.0, 1.0, 1.0]
    recording.closed()
    assert recording.only.state is ExchangeState.DONE


def test_early_frames_of_a_visitor_are_held() -> None:
    recording = Recording()
    recording.visitor_sends(ASK + written(Opcode.TEXT, b"early", mask=True))
    recording.origin_sends(YES + b"\r\n")
    assert [frame.data for frame in recording.only.frames] == [b"early"]
    assert recording.recorder.head_budget.used == 0


def test_when_it_stops_being_a_websocket() -> None:
    recording = Recording()
    recording.visitor_sends(ASK)
    recording.origin_sends(YES + b"\r\n" + b"\xff" * 20)
    socket, raw = recording.exchanges
    assert (socket.state, raw.kind, raw.response.body.data) == (
        ExchangeState.BROKEN,
        ExchangeKind.RAW,
        b"\xff" * 20,
    )


def test_messages_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording()
    recording.visitor_sends(ASK)
    recording.origin_sends(YES + b"\r\n")
    monkeypatch.setattr(limits, "MAX_FRAMES", 10)
    for number in range(25):
        recording.origin_sends(written(Opcode.TEXT, b"%d" % number))
    assert [int(frame.data) for frame in recording.only.frames] == list(range(15, 25))
    assert detail(recording.only)["messages_dropped"] == 15
    monkeypatch.setattr(limits, "MAX_STORED_FRAMES", 5000)
    for _ in range(9):
        recording.origin_sends(written(Opcode.TEXT, b"x" * 1000))
    assert len(recording.only.frames) == 5


def test_unseen_bytes_of_a_message_do_not_lose_the_thread() -> None:
    recording = Recording()
    recording.visitor_sends(ASK)
    recording.origin_sends(YES + b"\r\n")
    data = written(Opcode.BINARY, b"x" * 100_000) + written(Opcode.TEXT, b"next")
    recording.origin_sends(data[:1000])
    recording.unseen(OUT, 50_000)
    recording.origin_sends(data[51_000:])
    assert [(frame.size, len(frame.data)) for frame in recording.only.frames] == [(100_000, 990), (4, 4)]
    recording.unseen(IN, 5)  # here nobody knows what it was
    recording.visitor_sends(b"x")
    assert recording.exchanges[-1].kind is ExchangeKind.RAW
