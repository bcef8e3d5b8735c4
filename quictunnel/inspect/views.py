"""Exchanges as the page is told of them: plain values for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quictunnel.inspect.decoding import decoded, shown
from quictunnel.inspect.exchange_store import Exchange, ExchangeKind

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import Frame, HttpMessage

MAX_TARGET: Final = 300
"""Characters of a target in the list; the detail has all of it."""


def summary(exchange: Exchange) -> dict[str, Any]:
    """A row of the list."""
    media = _first(exchange.response, b"content-type").partition(b";")[0].strip()
    return {
        "id": exchange.number,
        "kind": exchange.kind.value,
        "state": exchange.state.value,
        "method": exchange.method,
        "target": exchange.target[:MAX_TARGET],
        "status": exchange.status,
        "type": media.decode("latin-1")[:80],
        "began": exchange.began,
        "duration": exchange.duration,
        "sent": exchange.request.body.size,
        "received": exchange.response.body.size,
        "frames": exchange.frames_seen,
        "replay_of": exchange.replay_of,
        "note": exchange.notes[0] if exchange.notes and exchange.kind is ExchangeKind.RAW else "",
    }


def detail(exchange: Exchange) -> dict[str, Any]:
    """Everything of one."""
    return summary(exchange) | {
        "target": exchange.target,
        "reason": exchange.reason,
        "version": exchange.version,
        "visitor": exchange.visitor,
        "connection": exchange.connection,
        "waited": exchange.waited,
        "interim": exchange.interim,
        "notes": exchange.notes,
        "request": _message(exchange.request),
        "response": _message(exchange.response),
        "messages": [_frame(frame, exchange) for frame in exchange.frames],
        "messages_dropped": exchange.frames_seen - len(exchange.frames),
        "no_replay": no_replay(exchange),
        "has_request": bool(exchange.request.head),
    }


def no_replay(exchange: Exchange) -> str:
    """Why a request cannot be sent again; "" when it can."""
    if exchange.kind is ExchangeKind.WEBSOCKET or exchange.is_upgrade or exchange.method == "CONNECT":
        return "A WebSocket or tunnel is a conversation, which cannot be had again by one side."
    if exchange.kind is ExchangeKind.RAW or not exchange.request.head:
        return "There is no HTTP/1 request to send again."
    if not exchange.request.body.is_whole:
        return "The request's body was longer than what is kept of it."
    if not exchange.has_asked:
        return "The request has not come to its end."
    return ""


def _message(message: HttpMessage) -> dict[str, Any]:
    return {
        "start": message.start.decode("latin-1"),
        "headers": [[_readable(name), _readable(value)] for name, value in message.headers],
        "body": _body(message),
    }


def _body(message: HttpMessage) -> dict[str, Any]:
    body, note = decoded(bytes(message.body.data), message.all_of(b"content-encoding"))
    is_cut = not message.body.is_whole or note != ""
    return {
        "size": message.body.size,
        "kept": len(message.body.data),
        "note": note,
        **shown(body, _first(message, b"content-type"), is_cut=is_cut),
    }


def _frame(frame: Frame, exchange: Exchange) -> dict[str, Any]:
    began = exchange.request.began or frame.when
    return {
        "way": frame.way.value,
        "kind": frame.kind,
        "at": max(0.0, frame.when - began),
        "size": frame.size,
        "is_cut": frame.size > len(frame.data),
        "note": frame.note,
        **(
            shown(frame.data, is_cut=frame.size > len(frame.data)) if frame.kind != "close" else _close(frame.data)
        ),
    }


def _close(data: bytes) -> dict[str, str]:
    """RFC 6455 section 5.5.1: a code and a reason."""
    if len(data) < 2:
        return {"text": ""}
    return {"text": f"{int.from_bytes(data[:2], 'big')} {_readable(data[2:])}".strip()}


def _first(message: HttpMessage, name: bytes) -> bytes:
    return next(iter(message.all_of(name)), b"")


def _readable(value: bytes) -> str:
    """Headers are ASCII, and what is not is UTF-8 these days, or any bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
