"""The sockets that an edge opens at its start, and the certificate of the QUIC one.

Each error is a ConfigError that says which option to change.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final

from edge_server.ingress.tcp_ports import BACKLOG, try_listen
from quictunnel.errors import ConfigError
from quictunnel.shared.files import PUBLIC, replace_file
from quictunnel.shared.listening import open_listener
from quictunnel.transport import sockopts
from quictunnel.transport.udp import UdpSocket

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.certificates.authority import DevelopmentAuthority
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.systemd import ActivatedSockets


_REFUSALS: Final = {
    errno.EADDRINUSE: "is taken, perhaps by another quictunnel-edge",
    errno.EACCES: "is not allowed to you",
}
"""Clauses for the errors of a port, behind its name."""


def listen_at(option: str, address: tuple[str, int]) -> socket.socket:
    """Return a listening TCP socket for the address of an option. Raises ConfigError."""
    host, port = address
    try:
        return open_listener(host, port, backlog=BACKLOG)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise ConfigError(f"{option} {host}:{port} cannot be used: {error.strerror or error}.") from None
        why = _REFUSALS[error.errno]
        raise ConfigError(f"{option}: port {port} of {host} {why}; choose another, or 0 for any.") from None


def https_socket(config: EdgeConfig, activated: ActivatedSockets) -> socket.socket:
    """Return the listening socket of TLS visitors: an activated one, or a new one. Raises ConfigError."""
    sock, activated.https = activated.https, None
    if sock is None:
        return listen_at("--https", config.https)
    sock.setblocking(False)
    return _of_port(sock, "--https", config.https[1])


async def quic_socket(config: EdgeConfig, activated: ActivatedSockets) -> UdpSocket:
    """Return the UDP socket for clients: an activated one, or a new one. Raises ConfigError."""
    sock, activated.quic = activated.quic, None
    if sock is None:
        return await bind_quic(config.quic)
    sockopts.enlarge_buffers(sock, sockopts.BUFFER_BYTES)
    return UdpSocket.adopt(_of_port(sock, "--quic", config.quic[1]))


def acme_http_socket(config: EdgeConfig, activated: ActivatedSockets) -> socket.socket | None:
    """Return the activated or inherited socket for http-01 validators; None without one. Raises ConfigError."""
    sock, activated.acme_http = activated.acme_http, None
    if sock is None:
        return None
    if config.acme_http is None:
        sock.close()
        raise ConfigError("A socket called acme-http was passed, and --acme-http does not say what for.")
    sock.setblocking(False)
    return _of_port(sock, "--acme-http", config.acme_http[1])


def _of_port(sock: socket.socket, option: str, configured_port: int) -> socket.socket:
    """Return the socket if its port is the configured one; 0 matches any. Raises ConfigError."""
    port = sock.getsockname()[1]
    if configured_port not in (0, port):
        sock.close()
        raise ConfigError(
            f"{option} has port {configured_port}, the socket that was passed has {port}: use the same in both."
        )
    return sock


def check_tcp_host(host: str) -> None:
    """Check at the start, and not at the first request, that ports of this host can be opened. Raises
    ConfigError."""
    try:
        sock = try_listen(host, 0)
    except OSError as error:
        raise ConfigError(f"--tcp-host {host} cannot be used: {error.strerror or error}.") from None
    if sock is not None:
        sock.close()


async def bind_quic(address: tuple[str, int]) -> UdpSocket:
    """Return a new UDP socket for clients. Raises ConfigError."""
    host, port = address
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        # A socket of all IPv6 interfaces accepts IPv4 as well, because clients may have only one of them.
        return UdpSocket.bind(found[0][4], dual=host == "::")  # type: ignore[arg-type]  # typeshed allows for Bluetooth
    except OSError as error:
        raise ConfigError(
            f"--quic: UDP port {port} of {host} cannot be used ({error.strerror or error}); "
            "choose another, or 0 for any."
        ) from None


def make_identity(config: EdgeConfig, directory: Path, authority: DevelopmentAuthority) -> tuple[Path, Path]:
    """Issue the certificate of the QUIC socket, and return its file and that of its key.

    Clients trust it through ``ca.pem`` or the fingerprint in a credential; it is independent of the certificates
    for visitors, because clients need no public authority. The file has the authority's certificate as well, since
    a client with a credential finds it in the handshake. Both together have about 1 KiB, which an edge may send
    before it knows that the client's address is genuine (RFC 9000 section 8.1).
    """
    names = {"localhost", "127.0.0.1", "::1", config.quic[0], config.domain, config.public_host}
    # Clients must be able to connect even if the clock is wrong now, or the edge runs for years.
    chain, key = authority.issue(sorted(names - {"", "0.0.0.0", "::"}), as_long_as_the_authority=True)
    certificate, private_key = directory / "quic.pem", directory / "quic.key"
    # Not synced to disk, because each start creates them again.
    replace_file(certificate, chain + authority.pem, mode=PUBLIC, durable=False)
    replace_file(private_key, key, durable=False)
    return certificate, private_key
