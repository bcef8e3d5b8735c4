"""The whole way: a visitor of our own comes to a tunnel of our own, through the edge's public side.

Nothing of this machine is exposed for it: the origin is a socket of the doctor's, which answers one word.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from quictunnel.client import Client
from quictunnel.doctor.result import Finding, fail, ok, warn
from quictunnel.errors import Error
from quictunnel.forwarding import forward
from quictunnel.shared.address import format_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.tunnel import Tunnel

PATIENCE: Final = 10.0
"""Seconds for the visitor: TCP, TLS, and there and back through the tunnel."""
WORD: Final = 16
"""Bytes that the visitor sends and expects back."""
CHECK: Final = "public address"


def visit(config: ClientConfig) -> Finding:
    """Open a tunnel, come to it as a stranger, and close it."""
    try:
        with _echo() as port, Client.from_config(config) as client, forward(port, client=client) as tunnel:
            return _come(tunnel, config)
    except Error as error:
        return fail(CHECK, f"no tunnel could be opened: {error}", "See above; the edge's log says more.")


def _come(tunnel: Tunnel, config: ClientConfig) -> Finding:
    host = tunnel.host
    domain = host.partition(".")[2]
    # RFC 6761 section 6.3: names under localhost are loopback, which browsers know and glibc does not.
    where = "127.0.0.1" if host.rpartition(".")[2] == "localhost" else host
    try:
        address = str(socket.getaddrinfo(where, tunnel.port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        remedy = f"Let *.{domain} in the DNS point to the edge's public address."
        return fail(CHECK, f"the name {host} has no address ({error.strerror or error})", remedy)
    try:
        seconds = _fetch(tunnel, address, ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        return _unknown(tunnel, address, config, error.verify_message)
    except (OSError, EOFError) as error:
        why = "time is up" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        place = format_address(address, tunnel.port)
        remedy = f"Is TCP port {tunnel.port} of the edge open in its firewall, and does *.{domain} lead there?"
        return fail(CHECK, f"a visitor does not get to {tunnel.url}, at {place}: {why}", remedy)
    return ok(CHECK, f"{tunnel.url} answered through a tunnel in {seconds * 1000:.0f} ms, its certificate is good")


def _unknown(tunnel: Tunnel, address: str, config: ClientConfig, why: str) -> Finding:
    """Visitors who trust what this system trusts are warned off; perhaps those who trust the edge are not."""
    if config.ca is not None:
        try:
            seconds = _fetch(tunnel, address, ssl.create_default_context(cafile=config.ca))
        except (OSError, EOFError) as error:
            why = f"{why}; with {config.ca}: {error}"
        else:
            return warn(
                CHECK,
                f"{tunnel.url} answered through a tunnel in {seconds * 1000:.0f} ms; browsers do not know its "
                "certificate, which is of the edge's own authority",
                f"For development, trust {config.ca}; else give the edge a public certificate (--acme, --cert).",
            )
    remedy = "Give the edge a certificate for its domain that visitors know (--acme, or --cert and --key)."
    return fail(CHECK, f"visitors of {tunnel.url} are warned of its certificate ({why})", remedy)


def _fetch(tunnel: Tunnel, address: str, context: ssl.SSLContext) -> float:
    """Send a word and get it back. Raises OSError or EOFError."""
    begun = time.monotonic()
    word = secrets.token_bytes(WORD)
    with (
        socket.create_connection((address, tunnel.port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=tunnel.host) as secure,
    ):
        secure.sendall(word)
        received = b""
        while len(received) < WORD and (more := secure.recv(WORD)):
            received += more
    if received != word:
        raise EOFError("what came back is not what was sent")
    return time.monotonic() - begun


@contextmanager
def _echo() -> Iterator[int]:
    """A server on loopback that gives every visitor one word back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            while True:
                visitor, _ = listener.accept()
                with visitor:
                    if over.is_set():
                        return
                    visitor.settimeout(PATIENCE)
                    try:
                        visitor.sendall(visitor.recv(WORD))
                    except OSError:
                        continue  # a stranger who left; the visitor of ours is told by its own side

        thread = threading.Thread(target=serve, name="quictunnel-doctor", daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            socket.create_connection(listener.getsockname(), timeout=PATIENCE).close()
            thread.join(PATIENCE)
