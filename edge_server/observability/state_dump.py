"""The whole state of an edge in one file, for who wants to know what it is doing right now (SIGUSR1).

The file holds no secret, but says who visits what: it is its owner's alone, as the log should be.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from certs.authority import replace_file
from edge_server.observability.metrics import FIGURES, read
from quictunnel.shared.address import format_address
from quictunnel.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from edge_server.clients.session import ClientSession
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.lease import Lease
    from edge_server.tunnels.visitor_log import VisitorConnection

T = TypeVar("T")
logger = logging.getLogger(__name__)

FILE: Final = "dump.json"
"""In the state directory; the next one takes its place."""
MAX_ENTRIES: Final = 2000
"""Of sessions, of names and of visitors: about a megabyte, made in some 30 ms during which everybody waits."""


def take(scene: Introspection | None) -> None:
    """Write the file, off the loop's thread as far as it is not about looking; the log says where, or why not."""
    if scene is None:
        logger.warning("there is nothing to dump: the edge does not serve yet")
        return
    state = describe(scene)
    writing = asyncio.get_running_loop().run_in_executor(None, _write, scene.config.state_dir / FILE, state)
    writing.add_done_callback(_say)


def describe(scene: Introspection, now: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Everything, as what JSON knows."""
    config, ledger = scene.config, scene.ledger
    leases = [
        each for lease in scene.registry for each in (lease.pool.members if lease.pool is not None else (lease,))
    ]
    return {
        "time": time.time(),
        "version": VERSION,
        "process": os.getpid(),
        "engine": f"{scene.endpoint.engine.name} {scene.endpoint.engine.version}",
        "domain": config.domain,
        "quic": format_address(*scene.endpoint.local_address[:2]),
        "https_port": scene.https_port,
        "figures": {
            name: [
                dict(zip(FIGURES[name].labels, labels, strict=True)) | {"value": value}
                for labels, value in at.items()
            ]
            for name, at in read(scene)
        },
        "sessions": _bounded(scene.guests, _session),
        "tunnels": _bounded(leases, _tunnel),
        "visitors": _bounded(ledger.now, lambda visit: {"visit": ledger.name_of(visit)} | _visitor(visit, now())),
    }


def _bounded(entries: Collection[T], tell: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    told = [tell(entry) for entry in islice(entries, MAX_ENTRIES)]
    return {"total": len(entries), "left_out": len(entries) - len(told), "entries": told}


def _session(guest: ClientSession) -> dict[str, Any]:
    session = guest.session
    return {
        "owner": guest.identity.key if guest.identity is not None else None,
        "address": guest.peer,
        "is_away": session.is_away,
        "is_leaving": guest.is_leaving,
        "tunnels": [lease.name for lease in guest.holdings],
        "streams": session.streams,
        "kept_bytes": session.kept,
        "link": msgspec.to_builtins(session.stats()),
    }


def _tunnel(lease: Lease) -> dict[str, Any]:
    return {
        "name": lease.name,
        "owner": lease.owner,
        "tcp_port": lease.tcp_port or None,
        "is_pooled": lease.pool is not None,
        "has_client": lease.session is not None and not lease.session.is_away,
        "visitors": len(lease.visitors),
    }


def _visitor(visit: VisitorConnection, now: float) -> dict[str, Any]:
    return {
        "visitor": visit.host,
        "visitor_port": visit.port,
        "name": visit.lease,
        "owner": visit.owner,
        "kind": visit.kind,
        "seconds": round(now - visit.began, 3),
        "first_byte": visit.first_byte,
        "bytes_in": visit.bytes_in,
        "bytes_out": visit.bytes_out,
        "has_client": visit.stream is not None,
    }


def _write(path: Path, state: dict[str, Any]) -> Path:
    replace_file(path, msgspec.json.encode(state), mode=0o600)
    return path


def _say(writing: asyncio.Future[Path]) -> None:
    if writing.cancelled():
        return
    error = writing.exception()
    if error is None:
        logger.info("the edge's state is in %s", writing.result())
    else:
        logger.error("the edge's state could not be written: %s", error)
