"""An attacking program: ``python -m tests.harness.attacker KIND ...`` runs one kind of attack against an edge.

Each kind prints one line of JSON when it has finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.transport.engines.aioquic.varint import encode
from quictunnel.wire.codes import ALPN
from quictunnel.wire.messages import Bind, Credits, Unbind
from tests.harness.hostile_peer import HostileClient
from tests.transport.engine_pair import ack_frame, forge, new_cid_frame, stream_frame

if TYPE_CHECKING:
    from collections.abc import Callable

POOL = 200
"""Number of genuine first flights, made beforehand because each takes a millisecond."""


DIALLED = ("127.0.0.1", 1)
"""Address of the edge for the connections of :func:`first_flight`; they ignore datagrams from elsewhere."""
ANSWER_TIMEOUT = 1.0


def first_flight() -> tuple[QuicConnection, bytes]:
    """Return a QUIC client connection and its first datagram."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE)
    connection = QuicConnection(configuration=configuration)
    connection.connect(DIALLED, now=0.0)
    return connection, connection.datagrams_to_send(now=0.0)[0][0]


def junk_initial(chance: random.Random) -> bytes:
    """Return an Initial packet of 1,200 bytes that cannot be decrypted."""
    header = b"\xc3\x00\x00\x00\x01\x08" + chance.randbytes(8) + b"\x08" + chance.randbytes(8) + b"\x00\x44\x90"
    return header + chance.randbytes(1200 - len(header))


def initials(edge: tuple[str, int], count: int, rate: int, sources: int) -> dict[str, object]:
    """Send ``count`` Initials from ``sources`` addresses of loopback; every fourth is genuine."""
    chance = random.Random(5)
    real = [first_flight()[1] for _ in range(POOL)]
    socks = []
    for number in range(sources):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind((f"127.1.{number >> 8}.{number & 255}", 0))
        sock.setblocking(False)
        socks.append(sock)
    began = time.monotonic()
    for number in range(count):
        datagram = chance.choice(real) if number % 4 == 0 else junk_initial(chance)
        chance.choice(socks).sendto(datagram, edge)
        ahead = number / rate - (time.monotonic() - began)
        if ahead > 0.005:
            time.sleep(ahead)
    return {"seconds": time.monotonic() - began}


def half_open(edge: tuple[str, int], count: int, rate: int, source: str = "127.1.0.1") -> dict[str, object]:
    """Begin handshakes from one address and stop after the edge's flight, when the address is validated. Return
    the number of answered Retries."""
    return asyncio.run(_half_open(edge, count, rate, source))


async def _half_open(edge: tuple[str, int], count: int, rate: int, source: str) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    socks = []

    async def begin() -> bool:
        connection, datagram = first_flight()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        socks.append(sock)
        sock.setblocking(False)
        sock.bind((source, 0))
        sock.connect(edge)
        sock.send(datagram)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                retry = await loop.sock_recv(sock, 2000)
        except TimeoutError:
            return False
        connection.receive_datagram(retry, DIALLED, now=0.0)
        again = [datagram for datagram, _ in connection.datagrams_to_send(now=0.0)]
        for datagram in again:
            sock.send(datagram)
        return bool(again)

    began = loop.time()
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(begin()))
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
    answered = sum(await asyncio.gather(*tasks))
    return {"answered": answered, "seconds": loop.time() - began}


def client_hello(name: str) -> bytes:
    """Return a ClientHello for a server name."""
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(*bios, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return bios[1].read()
    raise AssertionError("the handshake needs no answer")


async def drips(edge: tuple[str, int], count: int, sources: int, name: str) -> dict[str, object]:
    """Send ClientHellos byte by byte, one byte a second, until the connections are closed. Return the duration of
    the longest."""
    hello = client_hello(name)
    loop = asyncio.get_running_loop()
    lasted: list[float] = []

    async def drip(number: int) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        source = number % sources
        sock.bind((f"127.2.{source >> 8}.{source & 255}", 0))
        try:
            await loop.sock_connect(sock, edge)
            began = loop.time()
            ended = asyncio.ensure_future(loop.sock_recv(sock, 100))
            # The edge's reset may arrive between two bytes, or fail the next send.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                for byte in hello:
                    await loop.sock_sendall(sock, bytes([byte]))
                    done, _ = await asyncio.wait([ended], timeout=1.0)
                    if done:
                        break
            lasted.append(loop.time() - began)
            ended.exception() if ended.done() else ended.cancel()
        finally:
            sock.close()

    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(drip(number)))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    print(json.dumps({"all": "there"}), flush=True)
    await asyncio.gather(*tasks)
    return {"longest": max(lasted), "kept": sum(seconds > 1 for seconds in lasted)}


async def hurry(edge: tuple[str, int], at_once: int, seconds: float, source: str, name: str) -> dict[str, object]:
    """Begin ``at_once`` handshakes at a time from one address and reset each after the edge's first flight, which
    costs the edge most and this program little. Return how many the edge answered and rejected."""
    hello = client_hello(name)
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    answered = refused = 0

    async def again_and_again() -> None:
        nonlocal answered, refused
        while loop.time() < until:
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.bind((source, 0))
                try:
                    async with asyncio.timeout(5):  # the kernel drops some connections when its queue is full
                        await loop.sock_connect(sock, edge)
                        await loop.sock_sendall(sock, hello)
                        flight = await loop.sock_recv(sock, 10_000)
                except (ConnectionError, TimeoutError):
                    refused += 1
                else:
                    answered += bool(flight)

    print(json.dumps({"all": "there"}), flush=True)
    await asyncio.gather(*(again_and_again() for _ in range(at_once)))
    return {"answered": answered, "refused": refused}


def partial_requests(state: str, name: str) -> bytes:
    """Return the bytes that bring a visitor of the TLS port into a state and leave it there."""
    return {
        "silent": b"",
        "half a hello": client_hello(name)[:100],
        "handshake": client_hello(name),
        "refused": client_hello(f"nobody-{name}"),
        "half a request": f"GET / HTTP/1.1\r\nHost: {name}".encode(),
        "redirected": f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode(),
    }[state]


async def occupy(
    edge: tuple[str, int], at_once: int, rate: int, seconds: float, words: list[bytes]
) -> dict[str, object]:
    """Hold connections from all addresses of a network, each with one of ``words`` sent, and open ``rate`` new
    ones a second to replace closed ones. Return their number."""
    loop = asyncio.get_running_loop()
    made = 0

    async def stay(number: int) -> None:
        nonlocal made
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.bind((f"127.9.9.{1 + number % 250}", 0))
            with contextlib.suppress(ConnectionError):
                await loop.sock_connect(sock, edge)
                made += 1
                await loop.sock_sendall(sock, words[number % len(words)])
                while await loop.sock_recv(sock, 10_000):
                    pass
                await loop.create_future()  # the connection stays open after a refusal

    began = loop.time()
    stays: set[asyncio.Task[None]] = set()
    for number in range(at_once + int(rate * seconds)):
        if number == at_once:
            print(json.dumps({"all": "there"}), flush=True)
            began = loop.time()
        stays.add(task := asyncio.create_task(stay(number)))
        task.add_done_callback(stays.discard)
        ahead = (number - at_once) / rate - (loop.time() - began) if number >= at_once else 0.0
        if number % 20 == 0 or ahead > 0.005:
            await asyncio.sleep(max(0.0, ahead))
    for task in stays:
        task.cancel()
    return {"made": made}


def _floods(client: HostileClient, sock: socket.socket, edge: tuple[str, int]) -> dict[str, Callable[[int], None]]:
    """Return the floods by kind; each function sends the packet with a number."""

    def forged(*frames: bytes) -> None:
        sock.sendto(forge(client.connection, *frames), edge)

    def eight(number: int) -> bytes:
        return number.to_bytes(8, "big")

    return {
        "pings": lambda _: forged(b"\x01"),
        "challenges": lambda n: forged(*(b"\x1a" + eight(n * 40 + i) for i in range(40))),
        "new connection IDs": lambda n: forged(new_cid_frame(20 + n, 20 + n)),
        "limits": lambda n: forged(*(b"\x11\x00" + encode(1 << 20 | n) for _ in range(100))),
        "blocked": lambda n: forged(*(b"\x14" + encode(n), b"\x15\x00" + encode(n), b"\x16" + encode(n)) * 50),
        "acknowledgements": lambda n: forged(*[ack_frame(3, *(0, 0) * 1)] * 100),
        "empty pieces": lambda _: forged(*[stream_frame(0, 0, b"")] * 200),
        "retired connection IDs": lambda n: forged(b"\x19" + encode(n % 3)),
        "answers to challenges": lambda n: forged(*(b"\x1b" + eight(n * 40 + i) for i in range(40))),
        "CRYPTO": lambda n: forged(b"\x06" + encode(n * 900) + encode(900) + bytes(900)),
        "sparse streams": lambda n: forged(stream_frame(0, 100_000 + 700 * n, b"x")),
        "credit": lambda _: client.say(Credits([(0, 0, 65_536)] * 200)),
        "requests": lambda n: client.say(Unbind(1000 + n)),
        "names": lambda n: client.say(Bind(1000 + n, False, False, b"", name=f"name-{n}")),
        "leases": lambda n: client.say(Bind(1000 + n, True, False, b""), Unbind(1000 + n)),
    }


async def insider(config: ClientConfig, kind: str, seconds: float, rate: int) -> dict[str, object]:
    """Flood an edge as a client with a valid token. Return the reason for which the edge ended it, if it did."""
    async with HostileClient(config) as client:
        await client.greet()
        await client.lease()
        sock = socket.socket(type=socket.SOCK_DGRAM, fileno=os.dup(client.descriptor))
        edge = config.address
        sent = 0

        flood = _floods(client, sock, edge)[kind]
        print(json.dumps({"in": True}), flush=True)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() < began + seconds and not client.over.done():
            for _ in range(20):
                flood(sent)
                sent += 1
            await asyncio.sleep(max(0.0, sent / rate - (loop.time() - began)))
        lasted = loop.time() - began
        await asyncio.sleep(max(0.0, began + seconds - loop.time()))
        sock.close()
        cause, code = client.over.result() if client.over.done() else (None, None)
        return {"sent": sent, "lasted": lasted, "cause": cause and cause.name, "code": code}


async def guesses(edge: tuple[str, int], ca: str, key: str, count: int) -> dict[str, object]:
    """Try ``count`` wrong tokens, ten at a time, half of them with an existing key. Return the refusals."""
    refusals: dict[str, int] = {}

    async def guess(number: int) -> None:
        secret = f"{number:043d}"
        token = Secret(f"qt1.{key}.{secret}" if number % 2 else secret)
        config = ClientConfig(edge="{}:{}".format(*edge), token=token, ca=Path(ca))
        async with HostileClient(config) as client:
            client.say(client.good_hello)
            cause, code = await client.end()
            said = f"{cause.name} {code}"
            refusals[said] = refusals.get(said, 0) + 1

    began = time.monotonic()
    for start in range(0, count, 10):
        await asyncio.gather(*(guess(number) for number in range(start, start + 10)))
    return {"refusals": refusals, "seconds": time.monotonic() - began}


def main() -> None:
    """Run the attack that the command line names."""
    kind, host, port, *rest = sys.argv[1:]
    edge = host, int(port)
    match kind:
        case "initials":
            count, rate, sources = map(int, rest)
            done = initials(edge, count, rate, sources)
        case "half-open":
            done = half_open(edge, int(rest[0]), int(rest[1]), rest[2])
        case "drips":
            done = asyncio.run(drips(edge, int(rest[0]), int(rest[1]), rest[2]))
        case "hurry":
            done = asyncio.run(hurry(edge, int(rest[0]), float(rest[1]), rest[2], rest[3]))
        case "occupy":
            at_once, rate, seconds = map(int, rest[:3])
            words = [partial_requests(state, rest[4]) for state in rest[3].split(",")]
            done = asyncio.run(occupy(edge, at_once, rate, seconds, words))
        case "guesses":
            done = asyncio.run(guesses(edge, rest[0], rest[1], int(rest[2])))
        case "insider":
            token = Secret(os.environ["QUICTUNNEL_TOKEN"])
            config = ClientConfig(edge=f"{host}:{port}", token=token, ca=Path(rest[0]))
            done = asyncio.run(insider(config, rest[1], float(rest[2]), int(rest[3])))
        case _:
            raise SystemExit(f"unknown: {kind}")
    print(json.dumps(done | {"pid": os.getpid()}), flush=True)


if __name__ == "__main__":
    main()
