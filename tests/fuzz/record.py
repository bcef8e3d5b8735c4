"""``python -m tests.fuzz.record``: records anew what Chromium says first, into ``tests/fuzz/hellos``.

It is kept, because not every machine has a browser: GREASE, a key share of X25519MLKEM768, a made-up ECH and a
ticket of an earlier visit make these ClientHellos longer than a segment of TCP, and their extensions are shuffled.
The profile, the name and the server are made for the recording and gone after it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from tests.fuzz.seeds import HELLOS, RECORDED_NAME
from tests.harness import browser

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = b"<meta http-equiv=refresh content=1><img src=/picture>"
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(
    PAGE
)
VISITS = 8
"""After a few a ticket of an earlier one is shown."""


def record_visits(server: ssl.SSLContext, *options: str) -> Iterator[bytes]:
    """The first words of one connection after the other to a server that answers, by one browser."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made,
    ):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            browser.command(Path(made), RECORDED_NAME, address, "--ignore-certificate-errors", *options),
            env=browser.environment(Path(made)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            listener.settimeout(20)
            for _ in range(VISITS):
                visitor, _ = listener.accept()
                visitor.settimeout(5)
                yield whole_hello(visitor)
                # Those that were opened in advance say nothing and leave.
                with contextlib.suppress(OSError), server.wrap_socket(visitor, server_side=True) as tls:
                    if tls.recv(65_536):
                        tls.sendall(ANSWER + PAGE)
                        tls.unwrap()
        finally:
            process.kill()
            process.wait()


def whole_hello(visitor: socket.socket) -> bytes:
    """The first record, which stays where it is."""
    head = visitor.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    return visitor.recv(5 + int.from_bytes(head[3:]), socket.MSG_PEEK | socket.MSG_WAITALL)


def main() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(RECORDED_NAME).configure_cert(server)
    older = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    trustme.CA().issue_cert(RECORDED_NAME).configure_cert(older)
    page = f"https://{RECORDED_NAME}/"
    socket_page = f"data:text/html,<script>new WebSocket('wss://{RECORDED_NAME}/')</script>"

    again = list(record_visits(server, page))
    found = {
        "first": again[0],
        "again": max(again, key=len),
        "again-1.2": max(record_visits(older, page), key=len),
        "websocket": next(record_visits(server, socket_page)),
        "at-most-1.2": next(record_visits(server, "--ssl-version-max=tls1.2", page)),
    }
    HELLOS.mkdir(exist_ok=True)
    for name, hello in found.items():
        (HELLOS / f"chromium-{name}.bin").write_bytes(hello)
        print(name, len(hello))


if __name__ == "__main__":
    main()
