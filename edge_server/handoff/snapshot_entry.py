"""One held name, as a snapshot keeps it for the next start."""

from __future__ import annotations

from typing import Final

import msgspec

from edge_server.ingress.ip_filter import IpFilter
from edge_server.tunnels.tickets import MAX_GENERATION
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.shared.address import MAX_PORT
from quictunnel.wire.labels import RANDOM_LABEL, domain_validation_error, validation_error
from quictunnel.wire.messages import CLIENT_ID_SIZE

MAX_OWNER: Final = 64
"""Characters of an owner, as in a ticket."""


class SnapshotEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A held name."""

    record: TunnelRecord
    last_connected: int
    """Time at which its client was last connected (seconds since the epoch); 0: until the edge ended."""


def without_outdated_fields(record: TunnelRecord, *, is_last: bool) -> TunnelRecord:
    """Return a record without the fields that may be outdated.

    The name may have been given to a newer client in the moment before a crash. The tickets of a chosen name then
    count from one again, and must not be refused because of the recorded generation.

    Args:
        record: the record as it was written.
        is_last: True if the edge wrote it at its stop, after which no name was assigned.
    """
    if is_last:
        return record
    if RANDOM_LABEL.fullmatch(record.name):
        return msgspec.structs.replace(record, is_first_bind=False)
    return msgspec.structs.replace(record, generation=0, client_id=b"", is_first_bind=False)


def is_valid(entries: list[SnapshotEntry]) -> bool:
    """Return True if one edge can have held all of these names at once."""
    names = [entry.record.name for entry in entries]
    ports = [entry.record.port for entry in entries if entry.record.port]
    is_unique = len(set(names)) == len(names) and len(set(ports)) == len(ports)
    return is_unique and all(_is_possible(entry) for entry in entries)


def _is_possible(entry: SnapshotEntry) -> bool:
    record = entry.record
    if "." in record.name:
        is_name = domain_validation_error(record.name) is None
    else:
        is_name = bool(RANDOM_LABEL.fullmatch(record.name)) or validation_error(record.name) is None
    try:
        IpFilter(record.options.allow, record.options.deny)
    except ValueError:
        return False
    return (
        is_name
        and 0 < len(record.owner) <= MAX_OWNER
        and 0 <= record.generation <= MAX_GENERATION
        and 0 <= record.port <= MAX_PORT
        and len(record.client_id) <= CLIENT_ID_SIZE
        and 0 <= record.options.proxy_protocol <= 2
        and entry.last_connected >= 0
    )
