"""Tests of how connections end: each way that TCP knows looks the same from the other side of the tunnel.

After each, nothing is left: no stream in either session, no task, no socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import sys
import threading

import pytest

import quictunnel
from tests.harness.sockets import (
    SOCKET_TIMEOUT,
    is_reset,
    program,
    receive_all,
    receive_exactly,
    refuses_more,
    reset,
)
from tests.harness.tunnel_fixture import EmbeddedTunnel, ProcessTunnel, TunnelFixture, no_leftovers
from tests.harness.waiting import eventually

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=["embedded", "processes"])
def shared_rig(request, tmp_path_factory, engines):
    made = EmbeddedTunnel() if request.param == "embedded" else ProcessTunnel(tmp_path_factory.mktemp("endings"))
    with made:
        yield made


@pytest.fixture
def rig(shared_rig):
    with no_leftovers(shared_rig):
        yield shared_rig


@pytest.fixture(params=["tcp", "tls"])
def kind(request):
    return request.param


@pytest.fixture
def pair(rig: TunnelFixture, kind: str):
    return rig.pair(kind)


@pytest.mark.parametrize("visitor_ends_first", [True, False])
def test_first_to_finish_still_receives_everything(pair, visitor_ends_first: bool):
    first, second = pair if visitor_ends_first else reversed(pair)
    first.send(b"question")
    first.finish()
    assert receive_all(second) == b"question"
    answer = random.Random(1).randbytes(3 * MEGABYTE)
    sender = threading.Thread(target=lambda: (second.send(answer), second.finish()))
    sender.start()
    assert receive_all(first) == answer
    sender.join()


def test_connection_may_end_without_a_byte(rig, kind):
    visitor, origin = rig.visitor(kind), rig.accept()
    visitor.finish()
    assert receive_all(origin) == b""
    origin.finish()
    assert receive_all(visitor) == b""


def test_both_may_end_at_once(pair):
    visitor, origin = pair
    for one in pair:
        one.send(b"last")
        one.finish()
    assert (receive_all(visitor), receive_all(origin)) == (b"last", b"last")


def test_data_before_a_fin_is_delivered(pair):
    """Both ways at once, more than all windows and buffers on the way hold, to readers that begin late."""
    chance = random.Random(3)
    payloads = [chance.randbytes(24 * MEGABYTE) for _ in pair]
    received: dict[int, str] = {}

    def say(index: int) -> None:
        pair[index].send(payloads[index])
        pair[index].finish()

    def hear(index: int) -> None:
        digest = hashlib.sha256()
        while part := pair[index].receive():
            digest.update(part)
        received[index] = digest.hexdigest()

    # One thread for each end and direction: a TlsEnd is not for two, so TLS visitors hear after they spoke.
    visitor = threading.Thread(target=lambda: (hear(0), say(0)))
    origin_says, origin_hears = (threading.Thread(target=act, args=(1,)) for act in (say, hear))
    for thread in (visitor, origin_says, origin_hears):
        thread.start()
    for thread in (visitor, origin_says, origin_hears):
        thread.join(60)
        assert not thread.is_alive()
    assert received == {i: hashlib.sha256(payloads[1 - i]).hexdigest() for i in (0, 1)}


def test_the_reset_of_a_visitor_reaches_the_origin(pair):
    visitor, origin = pair
    reset(visitor)
    assert is_reset(origin)


def test_the_reset_of_an_origin_reaches_the_visitor(pair):
    visitor, origin = pair
    reset(origin)
    assert is_reset(visitor)


def test_a_visitor_that_resets_in_the_middle_stops_the_origin(pair):
    visitor, origin = pair
    origin.send(bytes(MEGABYTE))
    visitor.receive()
    reset(visitor)
    assert refuses_more(origin)


def test_an_origin_that_resets_in_the_middle_stops_the_visitor(pair):
    visitor, origin = pair
    visitor.sock.settimeout(SOCKET_TIMEOUT)
    visitor.send(bytes(MEGABYTE))
    origin.receive()
    reset(origin)
    assert refuses_more(visitor)


def test_a_visitor_that_closes_altogether_stops_an_origin_that_speaks(rig):
    """A plain close() looks like a half-close until something is sent there."""
    visitor, origin = rig.pair("tcp")
    visitor.sock.close()
    assert receive_all(origin) == b""
    assert refuses_more(origin)


def test_an_origin_that_closes_altogether_stops_a_visitor_that_speaks(pair):
    visitor, origin = pair
    origin.sock.close()
    assert receive_all(visitor) == b""
    assert refuses_more(visitor)


def test_a_reset_after_an_end_is_a_reset(pair):
    visitor, origin = pair
    origin.finish()
    assert receive_all(visitor) == b""
    reset(visitor)
    assert is_reset(origin)


def upload_until_refused(visitor) -> None:
    """Send as a program does that looks for an answer when it has sent everything, or cannot."""
    try:
        while True:
            visitor.send(bytes(64 * 1024))
    except (ConnectionResetError, BrokenPipeError):
        pass


@pytest.mark.parametrize("size", [100, 50_000])
def test_an_answer_to_an_upload_that_is_not_read_arrives(rig, kind, size):
    """413, 401, "max clients": the origin answers and closes, and its kernel says RST for what it has not read."""
    answer = random.Random(size).randbytes(size)
    for _ in range(10):
        visitor, origin = rig.pair(kind)
        visitor.send(bytes(MEGABYTE))
        origin.send(answer)
        origin.sock.close()
        upload_until_refused(visitor)
        assert receive_exactly(visitor, size) == answer


def test_an_answer_that_a_reset_follows_has_no_clean_end(rig, kind):
    for _ in range(10):
        visitor, origin = rig.pair(kind)
        visitor.send(bytes(MEGABYTE))
        assert origin.sock.recv(1, socket.MSG_PEEK)  # something is there that it never reads
        origin.send(b"no")
        origin.sock.close()
        assert receive_exactly(visitor, 2) == b"no"
        assert is_reset(visitor)


@pytest.mark.parametrize(
    "options",
    [{"inspect": True}, {"proxy_protocol": "v1"}, {"proxy_protocol": "v2"}, {"pool": True, "name": "shared"}],
    ids=["inspect", "proxy v1", "proxy v2", "pool"],
)
def test_answer_before_a_reset_arrives_with_each_option(engines, kind, options):
    answer = random.Random(6).randbytes(50_000)
    with EmbeddedTunnel() as rig, socket.create_server(("127.0.0.1", 0)) as rig.listener:
        rig.listener.settimeout(SOCKET_TIMEOUT)
        port = rig.listener.getsockname()[1]
        with quictunnel.forward(port, unencrypted=True, client=rig.client, **options) as rig.tunnel:
            visitor = rig.visitor(kind)
            visitor.send(bytes(MEGABYTE))
            origin = rig.accept()
            assert origin.sock.recv(1, socket.MSG_PEEK)
            origin.send(answer)
            origin.sock.close()
            assert receive_exactly(visitor, len(answer)) == answer
            assert is_reset(visitor)


def test_sender_that_never_reads_is_reset(rig, kind):
    visitor, origin = rig.pair(kind)
    origin.sock.settimeout(0.3)
    assert not refuses_more(origin)  # every buffer on the way is full
    reset(origin)
    upload_until_refused(visitor)


def test_an_answer_that_ends_before_the_upload_does_ends_cleanly(rig, kind):
    for _ in range(10):
        visitor, origin = rig.pair(kind)
        origin.send(b"enough")
        origin.sock.close()  # nothing is unread: a FIN, and a RST for what comes then
        upload_until_refused(visitor)
        assert receive_all(visitor) == b"enough"


def test_data_of_a_leaving_visitor_arrives(rig):
    """The other way round: the origin sends, the visitor says one word and closes with all of it unread."""
    for _ in range(10):
        visitor, origin = rig.pair("tcp")
        origin.send(bytes(MEGABYTE))
        visitor.send(b"enough")
        visitor.sock.close()
        upload_until_refused(origin)
        assert receive_exactly(origin, 6) == b"enough"


def test_data_before_a_tls_visitors_reset_arrives(rig):
    payload = random.Random(4).randbytes(50_000)
    visitor, origin = rig.pair("tls")
    origin.send(bytes(MEGABYTE))
    visitor.send(payload)
    visitor.sock.close()
    upload_until_refused(origin)
    assert receive_exactly(origin, len(payload)) == payload


def test_a_visitor_that_resets_while_the_answer_drains_has_gone(rig, kind):
    visitor, origin = rig.pair(kind)
    visitor.send(bytes(MEGABYTE))
    origin.send(bytes(8 * MEGABYTE))
    origin.sock.close()
    visitor.receive()
    reset(visitor)


def test_tls_that_is_cut_off_in_a_record_is_no_clean_end(rig):
    """Bytes are missing, so the origin must not take it for whole."""
    visitor, origin = rig.pair("tls")
    visitor.send(b"half of a")
    receive_exactly(origin, 9)
    visitor.sock.sendall(b"\x17\x03\x03\x00\x40" + bytes(20))
    visitor.sock.shutdown(socket.SHUT_WR)
    assert is_reset(origin)


def test_data_after_a_broken_record_is_dropped(rig):
    """An attacker on the path can break a TLS record, but the bytes that he adds never reach the origin."""
    visitor, origin = rig.pair("tls")
    visitor.send(b"one")
    receive_exactly(origin, 3)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        visitor.sock.sendall(b"\x17\x03\x03\x00\x40" + bytes(64) + b"GET /admin HTTP/1.1\r\n" * 400_000)
    with pytest.raises(ConnectionResetError):
        assert origin.receive() == b"not a word"


def test_a_tls_visitor_that_only_ends_tcp_has_ended(rig):
    """Many programs never say close_notify; all that they sent has come."""
    visitor, origin = rig.pair("tls")
    visitor.send(b"all of it")
    visitor.sock.shutdown(socket.SHUT_WR)
    assert receive_all(origin) == b"all of it"
    origin.send(b"answer")
    origin.finish()
    assert receive_all(visitor) == b"answer"


def _ask(rig: TunnelFixture, kind: str) -> None:
    # A visitor who is slow sees the reset from connect() already.
    visitor = rig.visitor(kind)
    visitor.send(b"\x00not HTTP")
    visitor.receive()


def test_closed_origin_port_resets_the_visitor(rig, kind):
    """The origin's port refuses: a visitor sees a reset, never an empty answer."""
    listener, rig.listener = rig.listener, socket.socket()
    address = listener.getsockname()
    listener.close()
    try:
        with pytest.raises(ConnectionResetError):
            _ask(rig, kind)
    finally:
        rig.listener.close()
        rig.listener = rig.stack.enter_context(socket.create_server(address, backlog=512))
        rig.listener.settimeout(SOCKET_TIMEOUT)


_VISITOR = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(b"I am here")
print("sent", flush=True)
while len(sys.argv) > 2 and sock.recv(65536): pass
sys.stdin.read()
"""
_ORIGIN = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1])).accept()[0]
sock.recv(1)
while True: sock.sendall(bytes(65536))
"""


def kill(process) -> None:
    with process:
        process.kill()
        process.wait(SOCKET_TIMEOUT)


def test_a_visitor_that_was_killed_has_gone(rig):
    """The kernel says FIN for it, and that is what the origin sees; answering is refused then."""
    process = program([sys.executable, "-c", _VISITOR, str(rig.tunnel.unencrypted_port)])
    origin = rig.accept()
    receive_exactly(origin, 9)
    kill(process)
    assert receive_all(origin) == b""
    assert refuses_more(origin)


def test_killed_visitor_is_cleaned_up(rig):
    process = program([sys.executable, "-c", _VISITOR, str(rig.tunnel.unencrypted_port), "reading"])
    origin = rig.accept()
    receive_exactly(origin, 9)
    origin.send(bytes(8 * MEGABYTE))
    kill(process)
    assert refuses_more(origin)


def test_an_origin_that_was_killed_in_the_middle_has_gone(rig, kind):
    """There are bytes that it never read, so its kernel says RST for it."""
    listener = rig.listener.fileno()
    process = program([sys.executable, "-c", _ORIGIN, str(listener)], pass_fds=[listener])
    visitor = rig.visitor(kind)
    visitor.send(b"x" * 100_000)
    visitor.receive()
    kill(process)
    assert is_reset(visitor)


def test_bytes_under_way_when_the_edge_stops_are_not_called_whole(tmp_path, kind):
    """An edge that ends without grace: visitors see a reset, never an end that looks clean."""
    with ProcessTunnel(tmp_path) as rig:
        visitor, origin = rig.pair(kind)
        sender = threading.Thread(target=refuses_more, args=(origin,))
        sender.start()
        visitor.receive()
        rig.edge.process.terminate()
        assert is_reset(visitor)
        sender.join(SOCKET_TIMEOUT)
        assert not sender.is_alive()
        rig.close_ends()
        assert rig.edge.stop() == 0


def test_bytes_under_way_when_the_client_ends_are_not_called_whole(kind):
    """As above for the client, which is given no time either."""
    with EmbeddedTunnel() as rig:
        visitor, origin = rig.pair(kind)
        sender = threading.Thread(target=refuses_more, args=(origin,))
        sender.start()
        visitor.receive()
        rig.client.close()
        assert is_reset(visitor)
        sender.join(SOCKET_TIMEOUT)
        assert not sender.is_alive()
        rig.close_ends()
        eventually(
            lambda: rig.edge.server.visitors == rig.edge.server.client_count == 0, "the edge keeps a visitor"
        )
