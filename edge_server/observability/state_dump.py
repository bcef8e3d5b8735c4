"""A dump of the whole state of an edge to one file (SIGUSR1).

The file contains no secrets, but the addresses of visitors: only its owner can read it, as should be the case for
the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from edge_server.observability.metrics import METRICS, read_metrics
from quictunnel.shared.address import format_address
from quictunnel.shared.files import replace_file
from quictunnel.shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from edge_server.clients.session import ClientSession
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.tunnel import Tunnel
    from edge_server.tunnels.visitor_log import VisitorConnection

T = TypeVar("T")
logger = logging.getLogger(__name__)

FILE_NAME: Final = "dump.json"
"""File name in the state directory; each dump replaces the previous one."""
MAX_ENTRIES: Final = 2000
"""Sessions, names and visitors of each kind: about a megabyte, built in about 30 ms during which the loop is
blocked."""


def refuse_dump() -> None:
    """Log that there is nothing to dump while the edge starts."""
    logger.warning("no state was dumped: the edge does not serve yet")


def write_dump(introspection: Introspection) -> None:
    """Write the dump. The state is collected at once, and written in another thread; the log has the result."""
    state = describe(introspection)
    writing = asyncio.get_running_loop().run_in_executor(
        None, _write, introspection.config.state_dir / FILE_NAME, state
    )
    writing.add_done_callback(_log_result)


def describe(introspection: Introspection, now: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Return the state as JSON-compatible values."""
    config, visitor_log = introspection.config, introspection.visitor_log
    served = [(tunnel, each) for tunnel in introspection.registry for each in tunnel.backends or (None,)]
    return {
        "time": time.time(),
        "version": VERSION,
        "process": os.getpid(),
        "engine": f"{introspection.endpoint.engine.name} {introspection.endpoint.engine.version}",
        "domain": config.domain,
        "quic": format_address(*introspection.endpoint.local_address[:2]),
        "https_port": introspection.https_port,
        "figures": {
            name: [
                dict(zip(METRICS[name].labels, labels, strict=True)) | {"value": value}
                for labels, value in at.items()
            ]
            for name, at in read_metrics(introspection)
        },
        "sessions": _bounded(introspection.clients, _session),
        "tunnels": _bounded(served, lambda each: _tunnel(*each)),
        "visitors": _bounded(
            visitor_log.active, lambda visit: {"visit": visitor_log.id_of(visit)} | _visitor(visit, now())
        ),
    }


def _bounded(entries: Collection[T], describe: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    described = [describe(entry) for entry in islice(entries, MAX_ENTRIES)]
    return {"total": len(entries), "left_out": len(entries) - len(described), "entries": described}


def _session(client: ClientSession) -> dict[str, Any]:
    session = client.session
    return {
        "owner": client.identity.key if client.identity is not None else None,
        "address": client.peer,
        "is_away": session.is_away,
        "is_leaving": client.is_draining,
        "tunnels": [lease.name for lease in client.bindings],
        "streams": session.stream_count,
        "kept_bytes": session.retained_bytes,
        "link": msgspec.to_builtins(session.stats()),
    }


def _tunnel(tunnel: Tunnel, backend: Backend | None) -> dict[str, Any]:
    return {
        "name": tunnel.name,
        "owner": tunnel.owner,
        "tcp_port": tunnel.tcp_port or None,
        "is_pooled": tunnel.is_pool,
        "has_client": backend is not None and not backend.session.is_away,
        "visitors": backend.active if backend is not None and tunnel.is_pool else len(tunnel.visitors),
    }


def _visitor(visit: VisitorConnection, now: float) -> dict[str, Any]:
    return {
        "visitor": visit.address,
        "visitor_port": visit.port,
        "name": visit.tunnel_name,
        "owner": visit.owner,
        "kind": visit.kind,
        "seconds": round(now - visit.began, 3),
        "first_byte": visit.time_to_first_byte,
        "bytes_in": visit.bytes_in,
        "bytes_out": visit.bytes_out,
        "has_client": visit.stream is not None,
    }


def _write(path: Path, state: dict[str, Any]) -> Path:
    replace_file(path, msgspec.json.encode(state), durable=False)
    return path


def _log_result(writing: asyncio.Future[Path]) -> None:
    if writing.cancelled():
        return
    error = writing.exception()
    if error is None:
        logger.info("the state of the edge was written to %s", writing.result())
    else:
        logger.error("the state of the edge could not be written: %s", error)
