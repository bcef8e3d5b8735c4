"""End-to-end check: a test visitor connects to a test tunnel at the edge's public address.

No service of this machine is exposed: the origin is an echo server of this module.
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

VISIT_TIMEOUT: Final = 10.0
"""Seconds for the visitor's TCP and TLS handshakes and for one round trip through the tunnel."""
PAYLOAD_SIZE: Final = 16
"""Bytes that the visitor sends and expects back."""
CHECK: Final = "public address"
"""Name of this check."""


def check_public_address(config: ClientConfig, pinned: bytes | None = None) -> Finding:
    """Open a tunnel to an echo server, connect to it as a visitor, and close it.

    Args:
        config: the client's configuration.
        pinned: DER of the authority that the client knows by its fingerprint.
    """
    try:
        with _echo() as port, Client.from_config(config) as client, forward(port, client=client) as tunnel:
            return _visit(tunnel, config, pinned)
    except Error as error:
        return fail(CHECK, f"no tunnel could be opened: {error.message}", error.advice)


def _visit(tunnel: Tunnel, config: ClientConfig, pinned: bytes | None) -> Finding:
    host = tunnel.host
    domain = host.partition(".")[2]
    # RFC 6761 section 6.3: names under localhost are loopback. Browsers implement this, glibc does not.
    where = "127.0.0.1" if host.rpartition(".")[2] == "localhost" else host
    try:
        address = str(socket.getaddrinfo(where, tunnel.port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        remedy = f"Add a DNS record for *.{domain} that points to the edge's public address."
        return fail(CHECK, f"the name {host} has no address ({error.strerror or error})", remedy)
    try:
        seconds = _fetch(tunnel, address, ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        return _untrusted(tunnel, address, config, error.verify_message, pinned)
    except (OSError, EOFError) as error:
        why = "timeout" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        place = format_address(address, tunnel.port)
        remedy = f"Is TCP port {tunnel.port} of the edge open in its firewall, and does *.{domain} point to it?"
        return fail(CHECK, f"a visitor cannot reach {tunnel.url} at {place}: {why}", remedy)
    return ok(
        CHECK, f"{tunnel.url} answered through a tunnel in {seconds * 1000:.0f} ms, with a valid certificate"
    )


def _untrusted(tunnel: Tunnel, address: str, config: ClientConfig, why: str, pinned: bytes | None) -> Finding:
    """Report a certificate that this system does not trust. Try again with the edge's own authority."""
    if config.ca is not None or pinned is not None:
        name = "the edge's ca.pem" if config.ca is None else str(config.ca)
        context = ssl.create_default_context(cafile=config.ca, cadata=pinned)
        try:
            seconds = _fetch(tunnel, address, context)
        except (OSError, EOFError) as error:
            why = f"{why}; with {name}: {error}"
        else:
            return warn(
                CHECK,
                f"{tunnel.url} answered through a tunnel in {seconds * 1000:.0f} ms; browsers do not trust its "
                "certificate, which the edge's own authority has issued",
                f"For development, trust {name}; otherwise give the edge a public certificate (--acme, --cert).",
            )
    remedy = "Give the edge a certificate for its domain that visitors trust (--acme, or --cert and --key)."
    return fail(CHECK, f"browsers of visitors reject the certificate of {tunnel.url} ({why})", remedy)


def _fetch(tunnel: Tunnel, address: str, context: ssl.SSLContext) -> float:
    """Send random bytes, read them back and return the seconds that it took.

    Raises:
        OSError: the connection or the TLS handshake failed.
        EOFError: other bytes came back.
    """
    begun = time.monotonic()
    payload = secrets.token_bytes(PAYLOAD_SIZE)
    with (
        socket.create_connection((address, tunnel.port), timeout=VISIT_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=tunnel.host) as secure,
    ):
        secure.sendall(payload)
        received = b""
        while len(received) < PAYLOAD_SIZE and (more := secure.recv(PAYLOAD_SIZE)):
            received += more
    if received != payload:
        raise EOFError("the response is not the sent data")
    return time.monotonic() - begun


@contextmanager
def _echo() -> Iterator[int]:
    """Run an echo server on loopback for one message a connection, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        is_stopping = threading.Event()

        def serve() -> None:
            while True:
                visitor, _ = listener.accept()
                with visitor:
                    if is_stopping.is_set():
                        return
                    visitor.settimeout(VISIT_TIMEOUT)
                    try:
                        visitor.sendall(visitor.recv(PAYLOAD_SIZE))
                    except OSError:
                        continue  # another visitor has left; the test visitor sees errors on its own socket

        thread = threading.Thread(target=serve, name="quictunnel-doctor", daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            is_stopping.set()
            socket.create_connection(listener.getsockname(), timeout=VISIT_TIMEOUT).close()
            thread.join(VISIT_TIMEOUT)
