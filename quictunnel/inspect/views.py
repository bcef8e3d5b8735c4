"""JSON representation of exchanges for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quictunnel.inspect.decoding import decode_body, text_or_base64
from quictunnel.inspect.exchange_store import Exchange, ExchangeKind
from quictunnel.inspect.forms import decode_form
from quictunnel.inspect.images import recognise
from quictunnel.inspect.limits import MAX_FIELD, MAX_PIXELS

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import Frame, HttpMessage
    from quictunnel.inspect.forms import FormField

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
        "is_edited": exchange.is_edited,
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
        "no_edit": edit_error(exchange),
        "has_request": bool(exchange.request.head),
    }


def replay_error(exchange: Exchange) -> str:
    """Return the reason why a request cannot be replayed, or ""."""
    if reason := edit_error(exchange):
        return reason
    if not exchange.request.body.is_complete:
        return "Only a part of the request's body was stored."
    if not exchange.is_request_complete:
        return "The request is not complete yet."
    return ""


def edit_error(exchange: Exchange) -> str:
    """Return the reason why a request cannot be edited and replayed, or ""."""
    if exchange.kind is ExchangeKind.WEBSOCKET or exchange.is_upgrade or exchange.method == "CONNECT":
        return "A WebSocket or tunnel cannot be replayed, because it needs both sides."
    if exchange.kind is ExchangeKind.RAW or not exchange.request.head:
        return "There is no HTTP/1 request to replay."
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
    content_type = _first(message, b"content-type")
    return {
        "size": message.body.size,
        "kept": len(message.body.data),
        "note": note,
        "media": content_type.partition(b";")[0].strip().decode("latin-1")[:80],
        **_form(body, content_type, is_cut=not message.body.is_complete),
        **_image(body, is_complete=message.body.is_complete),
        **text_or_base64(body, content_type, is_cut=is_cut),
    }


def image_of(message: HttpMessage, field: int | None = None) -> tuple[bytes, str] | None:
    """Return the bytes and the media type of an image that may be shown; None if there is no such image.

    Args:
        message: the request or response.
        field: index of the field of a form with the image; None: the image is the body.
    """
    body, _ = decode_body(bytes(message.body.data), message.header_values(b"content-encoding"))
    if field is not None:
        is_cut = not message.body.is_complete
        form = decode_form(body, _first(message, b"content-type"), is_cut=is_cut)
        if form is None or not 0 <= field < len(form.fields):
            return None
        body = form.fields[field].value
    image = recognise(body)
    if image is None or not image.is_small or not message.body.is_complete:
        return None
    return body, image.media_type


def _image(body: bytes, *, is_complete: bool) -> dict[str, Any]:
    image = recognise(body)
    if image is None:
        return {}
    reason = ""
    if not image.is_small:
        reason = (
            f"An image of {image.width} by {image.height} pixels is not shown: the limit is {MAX_PIXELS} pixels."
        )
    elif not is_complete:
        reason = "The image is not shown, because only a part of it was stored."
    return {"image": {"type": image.media_type, "width": image.width, "height": image.height, "no_view": reason}}


def _form(body: bytes, content_type: bytes, *, is_cut: bool) -> dict[str, Any]:
    form = decode_form(body, content_type, is_cut=is_cut)
    if form is None:
        return {}
    return {
        "form": {"note": form.note, "fields": [_field(field, is_complete=not is_cut) for field in form.fields]}
    }


def _field(field: FormField, *, is_complete: bool) -> dict[str, Any]:
    shown = field.value[:MAX_FIELD]
    is_cut = len(shown) < len(field.value)
    return {
        "name": field.name,
        "filename": field.filename,
        "type": field.content_type,
        "size": len(field.value),
        "is_cut": is_cut,
        **_image(field.value, is_complete=is_complete),
        **text_or_base64(shown, field.content_type.encode("latin-1", "replace"), is_cut=is_cut),
    }


def _frame(frame: Frame, exchange: Exchange) -> dict[str, Any]:
    began = exchange.request.began or frame.when
    is_cut = frame.size > len(frame.data)
    is_close = frame.kind == "close" and exchange.kind is ExchangeKind.WEBSOCKET
    return {
        "way": frame.direction.value,
        "kind": frame.kind,
        "at": max(0.0, frame.when - began),
        "size": frame.size,
        "is_cut": is_cut,
        "note": frame.note,
        **(_close(frame.data) if is_close else text_or_base64(frame.data, is_cut=is_cut)),
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
