"""What all clients of one edge share."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_server.rights.requests import Requests
from edge_server.rights.shaping import Shaping
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from edge_server.admission import Admission
    from edge_server.certificates import Certificates
    from edge_server.claims.claims import Claims
    from edge_server.expected import Expected
    from edge_server.ports import Ports
    from edge_server.registry import Registry
    from edge_server.rights.attempts import Attempts
    from edge_server.rights.tokens import Tokens
    from edge_server.sessions import Sessions
    from edge_server.tickets import Sealer
    from edge_server.visits import Ledger

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """See the module."""

    admission: Admission
    attempts: Attempts
    certificates: Certificates
    claims: Claims
    domain: str
    expected: Expected
    https_port: int
    ledger: Ledger
    ports: Ports
    registry: Registry
    requests: Requests = field(default_factory=Requests)
    sealer: Sealer
    sessions: Sessions
    shaping: Shaping = field(default_factory=Shaping)
    tcp_host: str
    tokens: Tokens

    async def close(self) -> None:
        """Write what is not written yet."""
        self.tokens.close()
        try:
            await asyncio.to_thread(self.claims.close)
        except ConfigError as error:
            logger.error("%s The claims of the last moment are lost.", error)
