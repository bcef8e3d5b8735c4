"""A web server whose only page has no end: what is fetched through a tunnel to see how fast HTTPS is.

    python -m perf.origin PORT

Every connection gets one answer that ends when the visitor leaves. Its bytes cost this process next to nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
BLOCK = bytes(1024 * 1024)
MAX_REQUEST = 64 * 1024


def answer(visitor: socket.socket) -> None:
    # Whoever has had enough just leaves; that is how every one of these ends.
    with visitor, contextlib.suppress(OSError):
        request = b""
        while b"\r\n\r\n" not in request:
            more = visitor.recv(MAX_REQUEST)
            request += more
            if not more or len(request) > MAX_REQUEST:
                return
        visitor.sendall(HEAD)
        while True:
            visitor.sendall(BLOCK)


def main() -> None:
    parser = argparse.ArgumentParser(description="A web page without end.")
    parser.add_argument("port", type=int)
    with socket.create_server(("127.0.0.1", parser.parse_args().port)) as listener:
        print("origin ready", flush=True)
        while True:
            visitor, _ = listener.accept()
            threading.Thread(target=answer, args=(visitor,), daemon=True).start()


if __name__ == "__main__":
    main()
