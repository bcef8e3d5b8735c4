"""Handshake with a QUIC server for diagnosis, without verification of its certificate.

The connection sends no stream and ends after the handshake, so no secret can be disclosed. It uses aioquic
directly, because the adapter cannot disable verification.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from aioquic import tls
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quictunnel.transport.engine import HandshakeReport
from quictunnel.transport.engines.aioquic.tls import pinned_authority

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import Address

MAX_READ: Final = 65_535
MAX_DATAGRAMS: Final = 64
"""Datagrams of one handshake; a typical one has a dozen."""


def probe(address: Address, server_name: str, alpn: str, timeout: float) -> HandshakeReport:
    """Do a handshake and close the connection.

    Args:
        address: the server's address.
        server_name: name for SNI.
        alpn: the protocol to offer.
        timeout: seconds for the handshake.

    Raises:
        TimeoutError: the handshake did not end in time. (A refusal by the server is in the report.)
        OSError: the socket failed.
    """
    connection = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True,
            alpn_protocols=[alpn],
            server_name=server_name,
            verify_mode=ssl.CERT_NONE,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
    )
    begun = time.monotonic()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        connection.connect(address, now=begun)
        ended = _shake(connection, sock, address, begun + timeout)
        seconds = time.monotonic() - begun
        chain = _chain(connection)
        if isinstance(ended, events.HandshakeCompleted):
            connection.close()
            _send(connection, sock)
            return HandshakeReport(chain, ended.alpn_protocol or "", seconds)
    return HandshakeReport(chain, "", seconds, ended.error_code, ended.reason_phrase)


def trust_error(
    chain: tuple[bytes, ...], server_name: str, authority: Path | None, pin: bytes = b""
) -> str | None:
    """Return the reason why aioquic does not trust a certificate chain, or None. With a pin, ``authority`` does
    not count."""
    certificates = [x509.load_der_x509_certificate(each) for each in chain]
    paths = ssl.get_default_verify_paths()
    has_own = bool(pin) or authority is not None
    try:
        cadata = None if authority is None else authority.read_bytes()
        tls.verify_certificate(
            certificate=certificates[0],
            chain=certificates[1:],
            server_name=server_name,
            cadata=pinned_authority(certificates[1:], pin) if pin else cadata,
            cafile=None if has_own else paths.cafile,
            capath=None if has_own else paths.capath,
        )
    except tls.Alert as alert:
        return str(alert)
    return None


def _shake(
    connection: QuicConnection, sock: socket.socket, address: Address, deadline: float
) -> events.HandshakeCompleted | events.ConnectionTerminated:
    for _ in range(MAX_DATAGRAMS):
        _send(connection, sock)
        now = time.monotonic()
        if now >= deadline:
            break
        timer = connection.get_timer()
        sock.settimeout(max(0.001, min(deadline, timer if timer is not None else deadline) - now))
        try:
            connection.receive_datagram(sock.recv(MAX_READ), address, now=time.monotonic())
        except TimeoutError:
            connection.handle_timer(now=time.monotonic())
        while (event := connection.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted | events.ConnectionTerminated):
                return event
    raise TimeoutError("the handshake did not end")


def _send(connection: QuicConnection, sock: socket.socket) -> None:
    for datagram, _ in connection.datagrams_to_send(now=time.monotonic()):
        sock.send(datagram)


def _chain(connection: QuicConnection) -> tuple[bytes, ...]:
    leaf = connection.tls._peer_certificate
    if leaf is None:
        return ()
    rest = connection.tls._peer_certificate_chain
    return tuple(each.public_bytes(Encoding.DER) for each in (leaf, *rest))
