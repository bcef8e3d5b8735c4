"""A visitor's arrival: welcomed, refused with words it understands, or cut off in time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import TYPE_CHECKING

import pytest

from edge_server.visitors import farewell
from edge_server.visitors.farewell import FAREWELL_BYTES
from edge_server.visitors.front import CROWD, PATIENCE, Alert, Deadlines, Front, Outcome

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.edge_server.visitors.conftest import Doorstep

NAME = "a.tunnel.localhost"
TLS13 = ssl.TLSVersion.TLSv1_3


async def run(*command: str, stdin: bytes = b"") -> tuple[int, str]:
    """A real program's exit status and everything it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        # Who has nothing to say gets no pipe: some programs end before they could be told so.
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate(stdin or None)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def refused_with(doorstep: Doorstep, name: str | None, version: ssl.TLSVersion) -> str:
    visitor = await doorstep.visitor(version, name)
    with pytest.raises(ssl.SSLError) as caught:
        await visitor.handshake()
    assert await asyncio.get_running_loop().sock_recv(visitor.sock, 1) == b""  # a FIN, not a RST
    return caught.value.reason or ""


async def drained(doorstep: Doorstep, outcome: Outcome, count: int = 1) -> None:
    await doorstep.eventually(lambda: doorstep.front.outcomes[outcome] == count)
    await doorstep.eventually(lambda: not doorstep.front.pending)


async def test_unknown_and_missing_names_get_their_alerts(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    assert "UNRECOGNIZED_NAME" in await refused_with(doorstep, "b.tunnel.localhost", version)
    assert "MISSING_EXTENSION" in await refused_with(doorstep, None, version)
    for sock in doorstep.sockets:
        sock.close()
    await drained(doorstep, Outcome.REFUSED, 2)
    assert [hello.server_name for hello in doorstep.hellos] == ["b.tunnel.localhost", None]
    assert doorstep.hellos[0].alpn == ("h2", "http/1.1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-servername", "b.tunnel.localhost"], r"alert number 112"),
        (["-noservername"], r"alert number 109"),
        (["-servername", NAME], r"Verify return code: 0 \(ok\)"),
        (["-servername", NAME, "-tls1_2"], r"Verify return code: 0 \(ok\)"),
        (["-servername", NAME, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], r"alert number 70"),
    ],
)
async def test_openssl_understands(doorstep: Doorstep, ca_file: str, arguments: list[str], words: str) -> None:
    address = f"127.0.0.1:{doorstep.port}"
    _, said = await run("openssl", "s_client", "-connect", address, "-CAfile", ca_file, *arguments)
    assert re.search(words, said), said
    await doorstep.eventually(lambda: not doorstep.front.pending)


async def test_renegotiation_is_refused(doorstep: Doorstep, ca_file: str) -> None:
    address = f"127.0.0.1:{doorstep.port}"
    command = ("openssl", "s_client", "-connect", address, "-servername", NAME, "-tls1_2", "-CAfile", ca_file)
    _, said = await run(*command, stdin=b"R\n")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    await doorstep.apps[0].lost


async def test_curl_comes_in(doorstep: Doorstep, ca_file: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

    def answering():
        app = doorstep.app()
        received = app.data_received

        def data_received(data: bytes) -> None:
            received(data)
            app.transport.write(answer)
            app.transport.close()

        app.data_received = data_received
        return app

    doorstep.make_app = answering
    url = f"https://{NAME}:{doorstep.port}/"
    status, said = await run(
        "curl", "-sS", "--cacert", ca_file, "--resolve", f"{NAME}:{doorstep.port}:127.0.0.1", url
    )
    assert (status, said) == (0, "hello")
    assert doorstep.apps[0].data.startswith(b"GET / HTTP/1.1\r\n")
    assert await doorstep.apps[0].lost is None


@pytest.mark.parametrize("arguments", [[], ["-d", "x=1"], ["--http2-prior-knowledge", "--http0.9"]])
async def test_curl_without_tls_is_told_to_use_https(doorstep: Doorstep, arguments: list[str]) -> None:
    _, said = await run("curl", "-sS", "-i", *arguments, f"http://127.0.0.1:{doorstep.port}/")
    if not arguments or arguments[0] == "-d":
        head, _, body = said.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
        assert "Connection: close" in head
        assert "https://" in body
        assert body.count("\n") == 1
    await drained(doorstep, Outcome.PLAIN_HTTP)


async def test_a_large_plain_upload_still_reads_its_answer(doorstep: Doorstep) -> None:
    sock = await doorstep.connect()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"POST / HTTP/1.1\r\n\r\n" + bytes(FAREWELL_BYTES // 2))
    answer = b""
    while chunk := await loop.sock_recv(sock, 4096):
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 400 ")
    sock.close()
    await drained(doorstep, Outcome.PLAIN_HTTP)


async def test_a_refused_visitor_is_not_listened_to_for_ever(
    doorstep: Doorstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    flood = await doorstep.connect()
    await loop.sock_sendall(flood, b"GET / HTTP/1.1\r\n")
    with pytest.raises(ConnectionError):
        await loop.sock_sendall(flood, bytes(100 * FAREWELL_BYTES))
    monkeypatch.setattr(farewell, "FAREWELL_TIMEOUT", 0.05)
    lingering = await doorstep.connect()
    await loop.sock_sendall(lingering, b"GET / HTTP/1.1\r\n")
    await drained(doorstep, Outcome.PLAIN_HTTP, 2)


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (b"SSH-2.0-x\r\n", Outcome.NOT_TLS),
        (b"\0" * 2000, Outcome.NOT_TLS),
        (b"\x16\x03\x01\xff\xff", Outcome.BAD_HELLO),
        (b"", Outcome.LEFT),
        (b"\x16\x03\x01", Outcome.LEFT),
    ],
)
async def test_other_newcomers(doorstep: Doorstep, first: bytes, outcome: Outcome) -> None:
    sock = await doorstep.connect()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, first)
    if outcome is Outcome.BAD_HELLO:
        assert await loop.sock_recv(sock, 100) == b"\x15\x03\x03\x00\x02\x02\x16"
    elif outcome is Outcome.NOT_TLS:
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(sock, 100)
    sock.close()
    await drained(doorstep, outcome)
    assert doorstep.hellos == []


async def test_a_visitor_that_leaves_in_its_handshake(doorstep: Doorstep) -> None:
    visitor = await doorstep.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.do_handshake()
    await visitor.flush()
    await doorstep.eventually(lambda: doorstep.hellos != [])
    visitor.sock.close()
    await drained(doorstep, Outcome.LEFT)
    assert doorstep.apps == []


async def test_a_handshake_that_fails_is_no_exception(doorstep: Doorstep) -> None:
    # The visitor does not trust the certificate and says so with an alert.
    visitor = await doorstep.visitor()
    context = ssl.create_default_context()
    distrusting = type(visitor)(visitor.sock, context, NAME)
    with pytest.raises(ssl.SSLCertVerificationError):
        await distrusting.handshake()
    await distrusting.flush()
    await drained(doorstep, Outcome.LEFT)
    assert doorstep.apps == []


@pytest.fixture
def hurry(doorstep: Doorstep) -> Callable[..., None]:
    def set_deadlines(**seconds: float) -> None:
        doorstep.front.deadlines = Deadlines(**seconds)

    return set_deadlines


async def drip(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        await asyncio.get_running_loop().sock_sendall(sock, bytes((byte,)))
        await asyncio.sleep(0.01)  # the pace of the attack


async def test_a_dripping_hello_is_cut(doorstep: Doorstep, hurry: Callable[..., None]) -> None:
    hurry(hello=0.1)
    visitor = await doorstep.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.do_handshake()
    with pytest.raises(ConnectionError):
        await drip(visitor.sock, visitor.outgoing.read())
    await drained(doorstep, Outcome.SLOW)
    assert doorstep.hellos == []


async def test_a_stalled_handshake_is_cut(doorstep: Doorstep, hurry: Callable[..., None]) -> None:
    hurry(handshake=0.1)
    visitor = await doorstep.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.do_handshake()
    await visitor.flush()
    await visitor.fill()  # the server's flight, which is left without an answer
    with pytest.raises(ConnectionResetError):
        await visitor.fill()
    await drained(doorstep, Outcome.SLOW)


async def test_many_drips_do_not_keep_a_newcomer_waiting(doorstep: Doorstep, hurry: Callable[..., None]) -> None:
    hurry(hello=0.3)
    loop = asyncio.get_running_loop()
    for _ in range(200):
        await loop.sock_sendall(await doorstep.connect(), b"\x16")
    await doorstep.pair()
    await drained(doorstep, Outcome.SLOW, 200)
    assert doorstep.front.outcomes[Outcome.WELCOME] == 1


async def test_the_one_that_has_owed_its_hello_for_longest_makes_room(doorstep: Doorstep) -> None:
    """However many connect and say nothing, who says something is served."""
    loop = asyncio.get_running_loop()
    doorstep.front.max_pending = 3
    first = await doorstep.connect()
    await doorstep.eventually(lambda: len(doorstep.front.pending) == 1)
    others = [await doorstep.connect() for _ in range(2)]
    await doorstep.eventually(lambda: len(doorstep.front.pending) == 3)
    await asyncio.sleep(PATIENCE)
    await doorstep.pair()
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(first, 1)
    assert doorstep.front.outcomes == {Outcome.CROWDED: 1, Outcome.WELCOME: 1}
    for other in others:
        other.close()
    await drained(doorstep, Outcome.LEFT, 2)
    assert not doorstep.front.silent


async def test_who_comes_while_there_are_too_many_is_reset(doorstep: Doorstep) -> None:
    doorstep.route = lambda _hello, _host: CROWD
    visitor = await doorstep.visitor()
    with pytest.raises(ConnectionResetError):
        await visitor.handshake()
    assert doorstep.front.outcomes == {Outcome.CROWDED: 1}


async def test_newcomers_beyond_the_bound_are_reset(doorstep: Doorstep) -> None:
    doorstep.front.max_pending = 2
    first, second = await doorstep.connect(), await doorstep.connect()
    await doorstep.eventually(lambda: len(doorstep.front.pending) == 2)
    third = await doorstep.connect()
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(third, 1)
    first.close()
    second.close()
    await drained(doorstep, Outcome.LEFT, 2)
    await doorstep.pair()


async def test_a_route_may_take_a_while(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    later: asyncio.Future = asyncio.get_running_loop().create_future()
    doorstep.route = lambda hello, _host: doorstep.hellos.append(hello) or later
    visitor = await doorstep.visitor(version)
    handshake = asyncio.create_task(visitor.handshake())
    await doorstep.eventually(lambda: doorstep.hellos != [])
    assert not handshake.done()
    later.set_result(doorstep.welcome)
    await handshake
    await visitor.send(b"hello")
    await doorstep.eventually(lambda: len(doorstep.apps) == 1 and doorstep.apps[0].data == b"hello")


@pytest.mark.parametrize("how", ["deadline", "cancelled", "alert"])
async def test_a_route_may_never_come(doorstep: Doorstep, hurry: Callable[..., None], how: str) -> None:
    hurry(route=0.05 if how == "deadline" else 10)
    later: asyncio.Future = asyncio.get_running_loop().create_future()
    doorstep.route = lambda _hello, _host: later
    if how == "cancelled":
        later.cancel()
    elif how == "alert":
        later.set_result(Alert.UNRECOGNIZED_NAME)
    assert "UNRECOGNIZED_NAME" in await refused_with(doorstep, NAME, TLS13)
    assert later.cancelled() or how == "alert"


async def test_a_route_that_fails_is_our_fault_and_is_told(doorstep: Doorstep) -> None:
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    later: asyncio.Future = asyncio.get_running_loop().create_future()
    later.set_exception(LookupError("a bug"))
    doorstep.route = lambda _hello, _host: later
    assert "INTERNAL_ERROR" in await refused_with(doorstep, NAME, TLS13)
    assert isinstance(told[0]["exception"], LookupError)


async def test_abort_clears_the_doorstep(doorstep: Doorstep) -> None:
    later: asyncio.Future = asyncio.get_running_loop().create_future()
    doorstep.route = lambda hello, _host: doorstep.hellos.append(hello) or later
    silent = await doorstep.connect()
    visitor = await doorstep.visitor()
    handshake = asyncio.create_task(visitor.handshake())
    await doorstep.eventually(lambda: doorstep.hellos != [] and len(doorstep.front.pending) == 2)
    doorstep.front.abort()
    with pytest.raises(ConnectionResetError):
        await handshake
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(silent, 1)
    await drained(doorstep, Outcome.LEFT, 2)
    assert later.cancelled()


async def test_a_front_needs_no_loop_argument() -> None:
    assert Front(lambda _hello: Alert.UNRECOGNIZED_NAME).loop is asyncio.get_running_loop()
