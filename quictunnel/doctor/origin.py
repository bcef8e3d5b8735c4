"""Check of the local service: a port of this machine, another address, or a Unix socket."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from quictunnel.doctor.machine import CONNECT_TIMEOUT, check_local_port
from quictunnel.doctor.result import Finding, fail, ok, warn

if TYPE_CHECKING:
    from quictunnel.origin.target import Target


def check_origin(target: Target) -> Finding:
    """Check whether a server accepts connections at a target, and its certificate where it speaks TLS."""
    if target.is_local_port and target.tls is None:
        return check_local_port(target.port)
    name = target.text
    try:
        with _connect(target) as sock:
            return ok(name, "a server listens") if target.tls is None else _check_tls(target, sock)
    except socket.gaierror as error:
        message = f"the name has no address ({error.strerror})"
        return fail(name, message, "Is the service running, and on a network of this machine?")
    except TimeoutError:
        message = f"no answer within {CONNECT_TIMEOUT:.0f} s"
        return fail(name, message, "Is its machine up, and does a firewall let this one in?")
    except OSError as error:
        message = f"nobody listens there ({error.strerror or error})"
        return fail(name, message, "Start the local service, or check its address.")


def _connect(target: Target) -> socket.socket:
    """Return a socket that is connected to a target. Raises OSError."""
    if not target.path:
        return socket.create_connection((target.host or "localhost", target.port), timeout=CONNECT_TIMEOUT)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect(target.path)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_tls(target: Target, sock: socket.socket) -> Finding:
    assert target.tls is not None, "checked by the caller"
    try:
        target.tls.wrap_socket(sock, server_hostname=target.server_name).close()
    except ssl.SSLCertVerificationError as error:
        return warn(
            target.text,
            f"a server listens; its certificate is not valid here ({error.verify_message})",
            "Name its authority with --origin-ca FILE, or give --insecure-origin, when you open the tunnel.",
        )
    except ssl.SSLError as error:
        return fail(
            target.text,
            f"a server listens, but the TLS handshake failed ({error.reason or error})",
            "If it does not speak TLS, give http:// instead of https://.",
        )
    return ok(target.text, "a server listens, with a certificate that is valid for this name")
