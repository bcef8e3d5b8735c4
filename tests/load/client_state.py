"""Count what a client holds of its visitors, and its tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quictunnel.connection.manager import ConnectionManager
    from quictunnel.transport.stream import Stream


async def held_by(manager: ConnectionManager) -> dict[str, int]:
    """Count it. On the loop of the client."""
    held = {
        "visitors": manager.visitors.active_count,
        "origins dialled": len(manager.visitors._dialling),
        "dial queue": sum(len(lease.dial_queue) for lease in manager.leases),
        "tasks": len(asyncio.all_tasks()) - 1,  # without this one
    }
    session = manager._connection.session if manager._connection is not None else manager._resumable.session
    if session is not None:
        held |= {
            "streams": session.stream_count,
            "parked": len(session._exchange._parked),
            "skipped numbers": session.skipped_numbers,
            "retained bytes": session.retained_bytes,
            "registered": len(session.link.streams),
        }
        held |= {describe(stream): 1 for stream in session._streams.values()}
    return held


def describe(stream: Stream) -> str:
    """Say how far a stream has come, for whoever wonders why it is still here."""
    receive, sender = stream.receive_window, stream._sender
    buffer = sender.buffer
    return (
        f"stream {stream.number}: received {receive.received}, consumed {receive.consumed}, "
        f"end arrived {stream._has_received_end} and consumed {stream.receive_done}; "
        f"written {buffer.end}, sent {buffer.sent}, acknowledged {buffer.base}, finishing {sender.is_finishing}, "
        f"end sent {sender.is_end_given} and acknowledged {stream.send_done}; on {stream.quic_stream}"
    )
