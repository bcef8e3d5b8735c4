"""Credentials of an edge: a token with the edge's public address and the fingerprint of its authority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.storage.state_dir import StateDir
from quictunnel.config.credential import Credential, pin_of
from quictunnel.config.secret import Secret
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def credential_of(state_dir: Path, token: str, address: str | None = None) -> str | None:
    """Return the credential of a token as text, or None if the edge's address or authority is not known yet.

    Args:
        state_dir: the edge's state directory.
        token: the token.
        address: ``host:port`` for clients; None: the public address at the last start of the edge.

    Raises:
        ConfigError: the address is invalid, or a file cannot be read.
    """
    address = address or StateDir(state_dir).public_address()
    authority = state_dir / "ca.pem"
    if not address or not authority.exists():
        return None
    try:
        pin = pin_of(authority.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{authority} is not a readable certificate: start the edge again.") from None
    return Credential((address,), pin, Secret(token)).encode()
