"""Tests that a copied curl command, run by a real shell with a real curl, sends the same request."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from quictunnel.inspect import limits
from quictunnel.inspect.curl import MAX_ARGUMENT, curl_of
from quictunnel.origin.target import Target
from tests.inspect.recorded_connection import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quictunnel.inspect.exchange_store import Exchange

NASTY = b"'\"`id`$HOME $(id)\\ \\n !! ; | & > < * ? [a] {b,c} ~ # %s %% \xe2\x82\xac"
HOST = b"Host: a.example\r\n"


def request_of(line: bytes, more: bytes = b"") -> bytes:
    return line + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def with_body(body: bytes, more: bytes = b"", method: bytes = b"POST") -> bytes:
    return request_of(method + b" /", more + b"Content-Length: %d\r\n" % len(body)) + body


REQUESTS = {
    "plain": request_of(b"GET /a"),
    "browser": request_of(
        b"GET /a?b=c&d=%20e", b"User-Agent: Mozilla/5.0 (X11)\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
    ),
    "header": request_of(b"GET /", b"X-Nasty: " + NASTY + b"\r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Empty:\r\n"),
    "header bytes": request_of(b"GET /", b"X-Raw: caf\xe9 -'%\r\nCookie: a=b; c='d'\r\n"),
    "no host": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.0": b"GET /old HTTP/1.0\r\n" + HOST + b"\r\n",
    "target": request_of(b"GET /'\"`id`$HOME$(id)\\;|&><*?[a-z]{b,c}~!%41"),
    "dots": request_of(b"GET /a/../b/./c"),
    "fragment": request_of(b"GET /a#b"),
    "whole URL": request_of(b"GET http://other.example/x"),
    "star": request_of(b"OPTIONS *"),
    "HEAD": request_of(b"HEAD /"),
    "DELETE": request_of(b"DELETE /1"),
    "json": with_body(b'{"a": "it\'s $5"}\n\n', b"Content-Type: application/json\r\n"),
    "nasty": with_body(NASTY + b"\nEOF\n\t" + NASTY),
    "at": with_body(b"@/etc/passwd"),
    "empty": with_body(b""),
    "GET with body": with_body(b"x=1", method=b"GET"),
    "PUT": with_body(b"x", method=b"PUT"),
    "binary": with_body(bytes(range(256)) * 2),
    "dash first": with_body(b"--help\x00"),
    "digits behind bytes": with_body(b"\x00123\x0045\xff7"),
    "large": with_body(b"ab'%\n" * 50_000),
    "expects": with_body(b"x", b"Expect: 100-continue\r\n"),
    "chunked": request_of(b"POST /", b"Transfer-Encoding: chunked\r\n") + b"4\r\nit's\r\n0\r\n\r\n",
}


class Listener:
    """Takes one request at a time and answers it with 204."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()

    def serve_one(self, found: list[bytes]) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(20)
            recording, received = Recording(), b""
            while not (recording.exchanges and recording.exchanges[0].is_request_complete):
                data = connection.recv(65536)
                if not data:
                    break
                received += data
                recording.visitor_sends(data)
            found.append(received)
            connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def exchange_of(request: bytes) -> Exchange:
    recording = Recording()
    recording.visitor_sends(request)
    return recording.only


def run(command: str, listener: Listener, shell: str) -> Exchange:
    """The request that a shell makes of a command."""
    program = shutil.which(shell)
    if program is None or shutil.which("curl") is None:
        pytest.skip(f"{shell} and curl are not both installed")
    found: list[bytes] = []
    serving = threading.Thread(target=listener.serve_one, args=(found,))
    serving.start()
    line = command.encode() + b" -sS\n"
    ended = subprocess.run([program], input=line, capture_output=True, check=False, timeout=30)
    serving.join(30)
    assert (ended.returncode, ended.stderr) == (0, b"")
    return exchange_of(found[0])


def headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    return sorted((name.lower(), value.strip()) for name, value in exchange.request.headers)


@pytest.mark.parametrize("case", REQUESTS)
def test_the_same_request(case: str, listener: Listener) -> None:
    first = exchange_of(REQUESTS[case])
    command, note = curl_of(first, Target(listener.port))
    assert note == ""
    again = run(command, listener, "bash" if case == "nasty" else "sh")
    assert (again.method, again.target, again.version) == (first.method, first.target, first.version)
    assert again.request.body.data == first.request.body.data
    expected = headers(first)
    if case == "no host":
        expected += [(b"host", f"127.0.0.1:{listener.port}".encode())]
    assert headers(again) == sorted(expected)


def test_long_body_is_piped_into_curl() -> None:
    assert "printf" not in curl_of(exchange_of(with_body(b"a" * MAX_ARGUMENT)), Target(1))[0]
    assert curl_of(exchange_of(with_body(b"a" * (MAX_ARGUMENT + 1))), Target(1))[0].startswith("printf 'aaa")


def test_truncated_body_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BODY", 3)
    command, note = curl_of(exchange_of(with_body(b"abcdef")), Target(1))
    assert command.endswith("--data-raw abc")
    assert "incomplete" in note
