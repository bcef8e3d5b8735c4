"""The probe for a QUIC server: which datagrams count as its response."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.probe import SMALLEST, Answer, probe_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = (0.2,)
NEGOTIATION = b"\x80" + bytes(4)
"""First bytes of a Version Negotiation packet (RFC 8999 section 6)."""
VERSIONS = bytes.fromhex("1a2a3a4a 00000001")


def ids(question: bytes) -> tuple[bytes, bytes]:
    """Return the destination and the source connection ID of a probe, each with its length."""
    return question[5:14], question[14:23]


def response(question: bytes) -> bytes:
    """Return the response of a QUIC server, which has the two IDs the other way round."""
    destination, source = ids(question)
    return NEGOTIATION + source + destination + VERSIONS


@pytest.fixture
def server() -> Iterator[Callable[[Callable[[bytes], list[bytes]]], tuple[socket.socket, list[bytes]]]]:
    """Return a function that starts a UDP server, which answers each datagram as told, and keeps the datagrams."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    received: list[bytes] = []
    threads = []

    def start(answers: Callable[[bytes], list[bytes]]) -> tuple[socket.socket, list[bytes]]:
        def serve() -> None:
            while True:
                datagram, peer = sock.recvfrom(2048)
                if not datagram:
                    return
                received.append(datagram)
                for answer in answers(datagram):
                    sock.sendto(answer, peer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return sock, received

    yield start
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(b"", sock.getsockname())
    for thread in threads:
        thread.join()
    sock.close()


def test_a_response_is_found(server):
    sock, received = server(lambda question: [response(question)])
    found = probe_server(sock.getsockname(), rounds=ROUNDS)
    assert (found.answer, found.sizes, found.lost) == (Answer.QUIC, (SMALLEST,), 0)
    assert 0 < found.rtt < 5
    assert [len(question) for question in received] == [SMALLEST]


def test_the_connection_ids_are_random(server):
    sock, received = server(lambda question: [response(question)])
    probe_server(sock.getsockname(), rounds=ROUNDS)
    probe_server(sock.getsockname(), rounds=ROUNDS)
    one, other = received
    assert one[:5] == other[:5]
    assert not set(ids(one)) & set(ids(other))


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: b"",
        lambda question: b"\x00" + response(question)[1:],  # a short header
        lambda question: b"\x80\x00\x00\x00\x01" + response(question)[5:],  # no Version Negotiation
        lambda question: question,
        lambda question: response(question)[:8] + b"\xff" + response(question)[9:],  # another connection ID
        lambda question: response(question)[:10],
    ],
    ids=["empty", "short header", "version", "echo", "connection ID", "cut"],
)
def test_other_datagrams_are_no_response(server, forge):
    sock, _ = server(lambda question: [forge(question)])
    assert probe_server(sock.getsockname(), rounds=ROUNDS).answer is Answer.NOT_QUIC


def test_a_response_among_forged_ones_is_found(server):
    sock, _ = server(lambda question: [b"", question, response(question)])
    assert probe_server(sock.getsockname(), rounds=ROUNDS).answer is Answer.QUIC


def test_a_lost_response_is_asked_for_again(server):
    seen: list[bytes] = []

    def answers(question: bytes) -> list[bytes]:
        seen.append(question)
        return [response(question)] if len(seen) > 2 else []

    sock, _ = server(answers)
    found = probe_server(sock.getsockname(), rounds=(0.05, 0.05, 5.0))
    assert (found.answer, found.lost) == (Answer.QUIC, 2)


def test_closed_port_is_reported():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    assert probe_server(address, rounds=ROUNDS).answer is Answer.REFUSED
