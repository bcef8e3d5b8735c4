"""JSON representation of exchanges for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quictunnel.inspect.decoding import decode_body, text_or_base64
from quictunnel.inspect.exchange_store import Exchange, ExchangeKind

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import Frame, HttpMessage

MAX_TARGET: Final = 300
"""Characters of a target in the list; the details have the whole target."""


def summary(exchange: Exchange) -> dict[str, Any]:
    """Return an exchange's row in the list."""
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
    """Return all details of an exchange."""
    return summary(exchange) | {
        "target": exchange.target,
        "reason": exchange.reason,
        "version": exchange.version,
        "visitor": exchange.visitor,
        "connection": exchange.connection,
        "waited": exchange.time_to_first_byte,
        "interim": exchange.interim,
        "notes": exchange.notes,
        "request": _message(exchange.request),
        "response": _message(exchange.response),
        "messages": [_frame(frame, exchange) for frame in exchange.frames],
        "messages_dropped": exchange.frames_seen - len(exchange.frames),
        "no_replay": replay_error(exchange),
        "has_request": bool(exchange.request.head),
    }


def replay_error(exchange: Exchange) -> str:
    """Return the reason why a request cannot be replayed, or ""."""
    if exchange.kind is ExchangeKind.WEBSOCKET or exchange.is_upgrade or exchange.method == "CONNECT":
        return "A WebSocket or tunnel cannot be replayed, because it needs both sides."
    if exchange.kind is ExchangeKind.RAW or not exchange.request.head:
        return "There is no HTTP/1 request to replay."
    if not exchange.request.body.is_complete:
        return "Only a part of the request's body was stored."
    if not exchange.is_request_complete:
        return "The request is not complete yet."
    return ""


def _message(message: HttpMessage) -> dict[str, Any]:
    return {
        "start": message.start.decode("latin-1"),
        "headers": [[_readable(name), _readable(value)] for name, value in message.headers],
        "body": _body(message),
    }


def _body(message: HttpMessage) -> dict[str, Any]:
    body, note = decode_body(bytes(message.body.data), message.header_values(b"content-encoding"))
    is_cut = not message.body.is_complete or note != ""
    return {
        "size": message.body.size,
        "kept": len(message.body.data),
        "note": note,
        **text_or_base64(body, _first(message, b"content-type"), is_cut=is_cut),
    }


def _frame(frame: Frame, exchange: Exchange) -> dict[str, Any]:
    began = exchange.request.began or frame.when
    is_cut = frame.size > len(frame.data)
    return {
        "way": frame.direction.value,
        "kind": frame.kind,
        "at": max(0.0, frame.when - began),
        "size": frame.size,
        "is_cut": is_cut,
        "note": frame.note,
        **(_close(frame.data) if frame.kind == "close" else text_or_base64(frame.data, is_cut=is_cut)),
    }


def _close(data: bytes) -> dict[str, str]:
    """Return code and reason of a close frame (RFC 6455 section 5.5.1)."""
    if len(data) < 2:
        return {"text": ""}
    return {"text": f"{int.from_bytes(data[:2], 'big')} {_readable(data[2:])}".strip()}


def _first(message: HttpMessage, name: bytes) -> bytes:
    return next(iter(message.header_values(name)), b"")


def _readable(value: bytes) -> str:
    """Decode a header: UTF-8 if possible, else Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
