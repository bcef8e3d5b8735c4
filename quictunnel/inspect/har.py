"""Export of exchanges as HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/)."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from quictunnel.inspect import limits
from quictunnel.inspect.decoding import decode_body, text_or_base64
from quictunnel.inspect.exchange_store import Direction, Exchange, ExchangeKind
from quictunnel.inspect.forms import URLENCODED, decode_form
from quictunnel.shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from quictunnel.inspect.exchange_store import Frame, HttpMessage

UNKNOWN: Final = -1
"""Value of HAR for a size that is not known."""
OPCODES: Final = {"text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}


def is_exportable(exchange: Exchange) -> bool:
    """Return True if an exchange has a place in a HAR file: it is HTTP, and its request was recorded."""
    return exchange.kind is not ExchangeKind.RAW and bool(exchange.request.head)


def har_pieces(exchanges: Iterable[Exchange], base: str) -> Iterator[str]:
    """Yield a HAR file piece by piece, one for each exchange.

    Args:
        exchanges: those that are not exportable are left out.
        base: URL of the tunnel, without a path.
    """
    creator = json.dumps({"name": "quictunnel", "version": VERSION})
    yield f'{{"log": {{"version": "1.2", "creator": {creator}, "entries": ['
    separator = "\n"
    for exchange in exchanges:
        if is_exportable(exchange):
            yield separator + json.dumps(har_entry(exchange, base))
            separator = ",\n"
    yield "\n]}}\n"


def har_entry(exchange: Exchange, base: str) -> dict[str, Any]:
    """Return the entry of one exchange."""
    request, response = exchange.request, exchange.response
    first = exchange.time_to_first_byte
    whole = exchange.duration
    # Without an answer all the time was waiting; HAR knows no unknown here.
    wait = max(0.0, (first if first is not None else whole) or 0.0) * 1000
    receive = 0.0 if first is None or whole is None else max(0.0, whole - first) * 1000
    entry: dict[str, Any] = {
        "startedDateTime": datetime.fromtimestamp(exchange.began, UTC).isoformat(timespec="milliseconds"),
        "time": wait + receive,
        "request": _request(exchange, base),
        "response": {
            "status": exchange.status,
            "statusText": exchange.reason,
            "httpVersion": f"HTTP/{exchange.version}",
            "cookies": [],
            "headers": _headers(response),
            "content": _content(response),
            "redirectURL": _first(response, b"location"),
            "headersSize": len(response.head) or UNKNOWN,
            "bodySize": response.body.size,
        },
        "cache": {},
        "timings": {"send": 0, "wait": wait, "receive": receive},
        "connection": str(exchange.connection),
        "_visitor": exchange.visitor,
    }
    if exchange.notes:
        entry["comment"] = " ".join(exchange.notes)
    if exchange.replay_of:
        entry["_replayOf"] = exchange.replay_of
    if exchange.kind is ExchangeKind.WEBSOCKET:
        entry["_resourceType"] = "websocket"
        entry["_webSocketMessages"] = [_message(frame, exchange) for frame in exchange.frames]
    return entry | {"request": entry["request"] | _post_data(request)}


def _request(exchange: Exchange, base: str) -> dict[str, Any]:
    request = exchange.request
    target = exchange.target
    query = target.partition("?")[2].partition("#")[0]
    return {
        "method": exchange.method,
        "url": base + target if target.startswith("/") else f"{base}/{'' if target == '*' else target}",
        "httpVersion": f"HTTP/{exchange.version}",
        "cookies": [],
        "headers": _headers(request),
        "queryString": [
            {"name": name, "value": value}
            for name, value in parse_qsl(query, keep_blank_values=True)[: limits.MAX_FIELDS]
        ],
        "headersSize": len(request.head),
        "bodySize": request.body.size,
    }


def _post_data(request: HttpMessage) -> dict[str, Any]:
    """Return the item ``postData`` of a request with a body."""
    if not request.body.size:
        return {}
    content_type = _first_bytes(request, b"content-type")
    body, note = decode_body(bytes(request.body.data), request.header_values(b"content-encoding"))
    is_cut = not request.body.is_complete
    media = content_type.decode("latin-1")
    comment = _comment(request, note)
    form = decode_form(body, content_type, is_cut=is_cut)
    if form is not None and content_type.lower().startswith(URLENCODED) and not form.note:
        fields = [{"name": each.name, "value": each.value.decode("utf-8", "replace")} for each in form.fields]
        return {
            "postData": {"mimeType": media, "params": fields, "text": body.decode("utf-8", "replace")} | comment
        }
    shown = text_or_base64(body, content_type, is_cut=is_cut)
    text = shown["text"] if "text" in shown else body.decode("latin-1")
    return {"postData": {"mimeType": media, "params": [], "text": text} | comment}


def _content(response: HttpMessage) -> dict[str, Any]:
    content_type = _first_bytes(response, b"content-type")
    body, note = decode_body(bytes(response.body.data), response.header_values(b"content-encoding"))
    is_cut = not response.body.is_complete
    size = response.body.size if is_cut else len(body)
    content: dict[str, Any] = {"size": size, "mimeType": content_type.decode("latin-1") or "x-unknown"}
    if body:
        shown = text_or_base64(body, content_type, is_cut=is_cut)
        content |= {"text": shown["text"]} if "text" in shown else {"text": shown["base64"], "encoding": "base64"}
    return content | _comment(response, note)


def _comment(message: HttpMessage, note: str) -> dict[str, str]:
    if not message.body.is_complete:
        note = f"Only {len(message.body.data)} of {message.body.size} bytes were stored. {note}".strip()
    return {"comment": note} if note else {}


def _message(frame: Frame, exchange: Exchange) -> dict[str, Any]:
    """Return a WebSocket message as Chromium exports it."""
    is_text = frame.kind == "text"
    began = exchange.request.began or frame.when
    return {
        "type": "send" if frame.direction is Direction.REQUEST else "receive",
        "time": exchange.began + max(0.0, frame.when - began),
        "opcode": OPCODES.get(frame.kind, 0),
        "data": frame.data.decode("utf-8", "replace") if is_text else base64.b64encode(frame.data).decode(),
    }


def _headers(message: HttpMessage) -> list[dict[str, str]]:
    return [
        {"name": name.decode("latin-1"), "value": value.decode("utf-8", "replace")}
        for name, value in message.headers
    ]


def _first_bytes(message: HttpMessage, name: bytes) -> bytes:
    return next(iter(message.header_values(name)), b"")


def _first(message: HttpMessage, name: bytes) -> str:
    return _first_bytes(message, name).decode("utf-8", "replace")
