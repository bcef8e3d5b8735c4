"""Fuzz targets: properties that hold for any bytes. A target raises AssertionError, or anything else, when its
property fails."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Final

from edge_server.ingress import proxy_protocol
from edge_server.ingress.client_hello import MAX_CLIENT_HELLO, ClientHelloReader, HelloError
from edge_server.ingress.ip_filter import IpFilter
from edge_server.tunnels.tickets import Ticket, TicketSealer
from quictunnel.errors import ProtocolError
from quictunnel.wire import labels
from quictunnel.wire.control_state import ControlStateMachine, Side
from quictunnel.wire.credit import INITIAL_WINDOW, ReceiveWindow, SendWindow, WindowPool
from quictunnel.wire.framing import HEADER_SIZE, FrameReader, frame
from quictunnel.wire.messages import MAX_MESSAGE, decode, encode
from quictunnel.wire.preface import MAX_PREFACE, PrefaceReader, encode_preface

if TYPE_CHECKING:
    from collections.abc import Callable

_SEALER: Final = TicketSealer(bytes(32), "example.com")
GOOD_TICKET: Final = _SEALER.seal(Ticket("name", 20_000, "owner", 1))


def _pieces(data: bytes) -> list[bytes]:
    """The data in pieces whose sizes it says itself."""
    pieces, start = [], 0
    while start < len(data):
        size = 1 + data[start] % 97
        pieces.append(data[start : start + size])
        start += size
    return pieces


def client_hello(data: bytes) -> None:
    """Check that the verdict does not depend on how the bytes are split, that only HelloError is raised, and
    that no more than the bound is kept."""
    assert _read_hello([data]) == _read_hello(_pieces(data))


def _read_hello(pieces: list[bytes]) -> object:
    reader = ClientHelloReader()
    for piece in pieces:
        try:
            outcome = reader.feed(piece)
        except HelloError as error:
            return error.alert, error.reason
        if outcome is not None:
            return outcome
        assert len(reader.received) <= MAX_CLIENT_HELLO
    return None


def control(data: bytes) -> None:
    """Frames and messages on either side's ear: ProtocolError or a message that says the same when it is said
    again; a dialogue that goes on only along its table; one incomplete frame kept at most."""
    for side in Side:
        reader, dialogue = FrameReader(), ControlStateMachine(side)
        for piece in _pieces(data):
            try:
                for message in reader.feed(piece):
                    assert decode(encode(message)) == message
                    assert len(frame(message)) <= HEADER_SIZE + MAX_MESSAGE
                    dialogue.received(message)
            except ProtocolError:
                break
            assert len(reader._buffer) <= HEADER_SIZE + MAX_MESSAGE


def preface(data: bytes) -> None:
    """ProtocolError, or a preface that travels as it came; the same for the whole as for its pieces."""
    found = [_read_preface(pieces) for pieces in ([data], _pieces(data))]
    assert found[0] == found[1]


def _read_preface(pieces: list[bytes]) -> object:
    reader = PrefaceReader()
    for index, piece in enumerate(pieces):
        try:
            parsed = reader.feed(piece)
        except ProtocolError:
            return "wrong"
        if parsed is not None:
            read, rest = parsed
            assert len(encode_preface(read)) <= 1 + MAX_PREFACE
            return read, rest + b"".join(pieces[index + 1 :])
    return None


def credit(data: bytes) -> None:
    """A sender never gets room beyond what a receiver's window could be; nothing goes down; ProtocolError else. A
    receiver never keeps more than it has promised."""
    sender, pool = SendWindow(INITIAL_WINDOW), WindowPool()
    receiver = ReceiveWindow(INITIAL_WINDOW, pool, 0.0)
    now = 0.0
    for a, b, c in struct.iter_unpack("!QQB", data[: len(data) // 17 * 17]):
        before = sender.consumed, sender.limit
        try:
            if c & 1:
                sender.apply_credit(a >> (c >> 2), b >> (c >> 2), sender.written)
            else:
                sender.written += min(sender.room, a % 100_000)
                receiver.arrived(b % 100_000)
                receiver.consume(min(a % 100_000, receiver.received - receiver.consumed))
                now += (c >> 1) / 1000
                receiver.next_credit(now, 0.05)
        except ProtocolError:
            return
        assert (sender.consumed, sender.limit) >= before
        assert sender.room >= 0
        assert receiver.received - receiver.consumed <= receiver.window
        assert 0 <= pool.used <= pool.size


def ticket(data: bytes) -> None:
    """Only what this edge sealed is opened, and for its owner alone."""
    mixed = bytes(a ^ b for a, b in zip(GOOD_TICKET, data.ljust(len(GOOD_TICKET), b"\0"), strict=False))
    for candidate in (data, mixed, GOOD_TICKET + data, GOOD_TICKET[: len(data)]):
        for owner in ("owner", data[:20].decode("latin-1")):
            opened = _SEALER.open(candidate, owner)
            assert (opened is not None) == (candidate == GOOD_TICKET and owner == "owner")


def proxy_header(data: bytes) -> None:
    """Check that a PROXY header is one line, or a block that states its length, for any addresses and names."""
    text = data.decode("latin-1")
    size = len(text) // 4 + 1
    host, other, name, alpn = (text[start : start + size] for start in range(0, 4 * size, size))
    port = int.from_bytes(data[:2], "big")
    for source in ((host, port), ("203.0.113.9", port), ("2001:db8::1%" + host, port)):
        destination = (other, port) if port & 1 else ("198.51.100.1", port)
        tls = proxy_protocol.Tls(name[:253], "TLSv1.3", "cipher", alpn[:255]) if port & 2 else None
        line = proxy_protocol.header(1, source, destination, tls)
        assert line.endswith(b"\r\n")
        assert line.count(b"\r") == line.count(b"\n") == 1
        assert len(line) <= 107
        binary = proxy_protocol.header(2, source, destination, tls)
        assert binary.startswith(proxy_protocol.SIGNATURE)
        assert len(binary) == 16 + int.from_bytes(binary[14:16], "big")


def names(data: bytes) -> None:
    """A name that is allowed is one label of ASCII; networks are parsed or are a ValueError."""
    text = data.decode("utf-8", "replace")
    if labels.validation_error(text) is None:
        assert text.isascii()
        assert text == text.lower()
        assert 0 < len(text) <= labels.MAX_LABEL
    with contextlib.suppress(ValueError):
        IpFilter([text], []).admits("203.0.113.9")
    IpFilter([], ["203.0.113.0/24"]).admits(text)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "client-hello": client_hello,
    "control": control,
    "preface": preface,
    "credit": credit,
    "ticket": ticket,
    "proxy": proxy_header,
    "names": names,
}
