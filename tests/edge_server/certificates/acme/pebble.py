"""Debian's pebble and pebble-challtestsrv, as a CA of the test's own; nothing leaves loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge_server.certificates.authority import DevelopmentAuthority
from tests.harness.programs import free_port, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START = 20.0
"""Seconds for either program to begin to serve, on a machine that does other things."""


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    while True:
        assert process.poll() is None, "it ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environ)
    try:
        wait_until_listening(port, process)
        yield process
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class Names:
    """pebble-challtestsrv as a DNS server."""

    dns: int
    management: int

    def ask(self, action: str, **what: object) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management}/{action}", json.dumps(what).encode(), method="POST"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            assert answer.status == 200

    def point(self, host: str, address: str) -> None:
        self.ask("add-a", host=f"{host}.", addresses=[address])

    def break_(self, host: str) -> None:
        self.ask("set-servfail", host=f"{host}.")

    def mend(self, host: str) -> None:
        self.ask("clear-servfail", host=f"{host}.")


@contextlib.contextmanager
def names(directory: Path) -> Iterator[Names]:
    """Every name is at 127.0.0.1 until a test says otherwise."""
    found = Names(free_port(), free_port())
    command = [
        need("pebble-challtestsrv"),
        *("-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""),
        *("-dns01", f"127.0.0.1:{found.dns}", "-management", f"127.0.0.1:{found.management}"),
    ]
    with running(command, found.management, directory / "names.log"):
        yield found


@dataclass
class Pebble:
    """An authority that runs."""

    port: int
    management: int
    ca: Path
    """Vouches for its web server."""

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def roots(self, path: Path) -> Path:
        """A file with what vouches for its certificates."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.management, context=self.context, timeout=10)
        connection.request("GET", "/roots/0")
        path.write_bytes(connection.getresponse().read())
        connection.close()
        return path


@contextlib.contextmanager
def pebble(
    directory: Path,
    *,
    dns: int,
    tls_port: int = 1,
    http_port: int = 1,
    nonce_reject: int = 0,
    port: int = 0,
    **config: object,
) -> Iterator[Pebble]:
    """``tls_port``, ``http_port``: where it proves names. ``config``: more of its configuration."""
    directory.mkdir(exist_ok=True)
    authority = DevelopmentAuthority.load_or_create(directory)
    chain, key = authority.issue(["127.0.0.1", "localhost"])
    (directory / "web.pem").write_bytes(chain)
    (directory / "web.key").write_bytes(key)
    found = Pebble(port or free_port(), free_port(), authority.certificate)
    whole = {
        "listenAddress": f"127.0.0.1:{found.port}",
        "managementListenAddress": f"127.0.0.1:{found.management}",
        "certificate": str(directory / "web.pem"),
        "privateKey": str(directory / "web.key"),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "ocspResponderURL": "",
        **config,
    }
    path = directory / "pebble.json"
    path.write_text(json.dumps({"pebble": whole}))
    command = [need("pebble"), "-config", str(path), "-dnsserver", f"127.0.0.1:{dns}"]
    environ = {
        "PEBBLE_VA_NOSLEEP": "1",
        "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
        "PEBBLE_AUTHZREUSE": "0",
    }
    with running(command, found.port, directory / "pebble.log", **environ):
        yield found


@dataclass
class FaultyProxy:
    """A proxy before a pebble, which answers some requests itself, or changes an answer."""

    pebble: Pebble
    port: int = 0
    refusals: list[tuple[str, int, dict[str, str], bytes]] = field(default_factory=list)
    """Refusals: part of a path and the answer to send; each is used once, in this order."""
    change: Callable[[str, bytes], bytes] | None = None
    """Function that changes the answer to a path."""
    own: dict[str, Callable[[str], bytes]] = field(default_factory=dict)
    """Answers of this proxy itself, by the beginning of the path."""
    cut: str = ""
    """Answers to paths that contain it end before they have said everything."""
    drip: str = ""
    """Answers to paths that contain it come byte by byte."""
    asked: list[str] = field(default_factory=list)
    """Method and path of everything that came."""

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    def refuse(self, path: str, status: int, kind: str, detail: str, **headers: str) -> None:
        """Answer the next request for a path with a problem document (RFC 8555 section 6.7)."""
        body = json.dumps({"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status})
        self.refusals.append((path, status, {name.replace("_", "-"): value for name, value in headers.items()},
                              body.encode()))  # fmt: skip


class _ProxyHandler(BaseHTTPRequestHandler):
    """Connection to a :class:`FaultyProxy`."""

    found: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do(self) -> None:
        self.found.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        refusal = next((each for each in self.found.refusals if each[0] in self.path), None)
        if refusal is not None:
            self.found.refusals.remove(refusal)
            _, status, headers, said = refusal
            self.say(status, {"Content-Type": "application/problem+json", **headers}, said)
            return
        for begin, say in self.found.own.items():
            if self.path.startswith(begin):
                self.say(200, {"Content-Type": "application/json"}, say(self.path))
                return
        upstream = http.client.HTTPSConnection(
            "127.0.0.1", self.found.pebble.port, context=self.found.pebble.context
        )
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            said = answer.read()
        if self.found.change is not None:
            said = self.found.change(self.path, said)
        kept = ("content-length", "transfer-encoding", "connection", "date")
        self.say(answer.status, {n: v for n, v in answer.getheaders() if n.lower() not in kept}, said)

    do_GET = do_POST = do_HEAD = do  # noqa: N815 - the names of http.server

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # it has read enough
                self.write(body)

    def write(self, body: bytes) -> None:
        if self.found.cut and self.found.cut in self.path:
            body, self.close_connection = body[:-5], True
        if self.found.drip and self.found.drip in self.path:
            for byte in body:
                self.wfile.write(bytes((byte,)))
                time.sleep(0.02)
        else:
            self.wfile.write(body)


@contextlib.contextmanager
def running_proxy(authority: Pebble, directory: Path) -> Iterator[FaultyProxy]:
    found = FaultyProxy(authority)

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Passing", (_ProxyHandler,), {"found": found}))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "web.pem", directory / "web.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def path_of(url: str) -> str:
    return urlsplit(url).path
