"""Routing of datagrams to connections, by connection ID or stateless reset token.

One dictionary maps connection IDs and another reset tokens. Each connection has the set of its own entries, so its
removal costs no search.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING

from quictunnel.transport.engines.aioquic.quic_connection import CID_SIZE
from quictunnel.transport.engines.aioquic.stateless import SMALLEST_RESET, TOKEN_SIZE

if TYPE_CHECKING:
    from quictunnel.transport.engines.aioquic.connection_adapter import AioquicConnection


class Routes:
    """Connection IDs and reset tokens of all connections of an engine."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._by_cid: dict[bytes, AioquicConnection] = {}
        self._by_token: dict[bytes, AioquicConnection] = {}

    def __len__(self) -> int:
        return len(self._by_cid) + len(self._by_token)

    def short(self, datagram: bytes) -> AioquicConnection | None:
        """Return the connection of a short-header packet, or None."""
        return self._by_cid.get(datagram[1 : 1 + CID_SIZE])

    def long(self, datagram: bytes) -> AioquicConnection | None:
        """Return the connection of a long-header packet, or None."""
        return self._by_cid.get(datagram[6 : 6 + datagram[5]])

    def add(self, cid: bytes, connection: AioquicConnection) -> None:
        """Route a connection ID to a connection, unless it is routed already."""
        if self._by_cid.setdefault(cid, connection) is connection:
            connection.cids.add(cid)

    def remove(self, cid: bytes, connection: AioquicConnection) -> None:
        """Remove one connection ID of a connection."""
        if cid in connection.cids:
            connection.cids.discard(cid)
            del self._by_cid[cid]

    def forget(self, connection: AioquicConnection) -> None:
        """Remove all entries of a connection."""
        for cid in connection.cids:
            del self._by_cid[cid]
        connection.cids.clear()
        self._listen(connection, b"")

    def sync(self, connection: AioquicConnection) -> None:
        """Update the routes after a change of a connection's IDs or of the peer's reset token."""
        quic = connection.quic
        for cid in quic.own_cids():
            if cid not in connection.cids:
                self.add(cid, connection)
        if quic.peer_reset_token != connection.reset_token:
            self._listen(connection, quic.peer_reset_token)

    def _listen(self, connection: AioquicConnection, token: bytes) -> None:
        if connection.reset_token:
            old = self._digest(connection.reset_token)
            if self._by_token.get(old) is connection:
                del self._by_token[old]
        connection.reset_token = token
        if token:
            self._by_token[self._digest(token)] = connection

    def reset_by(self, datagram: bytes) -> AioquicConnection | None:
        """Return the connection for which a datagram is a stateless reset, or None.

        The look-up uses a keyed digest, so its duration reveals nothing about any token (RFC 9000 section 10.3.1).
        """
        if not self._by_token or len(datagram) < SMALLEST_RESET:
            return None
        token = datagram[-TOKEN_SIZE:]
        connection = self._by_token.get(self._digest(token))
        if connection is None or not hmac.compare_digest(token, connection.reset_token):
            return None
        return connection

    def _digest(self, token: bytes) -> bytes:
        return hmac.digest(self._key, token, sha256)
