"""Requests that a person edited on the page before they are sent to the origin again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quictunnel.inspect.exchange_store import Exchange

FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"trailer", b"expect"})
"""Headers that say how the body is sent; they are computed."""

_METHOD: Final = re.compile(r"[A-Z][A-Z-]*")
_TARGET: Final = re.compile(r"/[!-~]*|\*")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class EditError(ValueError):
    """Error of a request that cannot be sent. The text is for the person who edited it."""


class EditedRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Request as the page sends it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: str | None = None
    """Text of the new body; None: the body as it was recorded."""


def read_edited(data: bytes) -> EditedRequest:
    """Return the edited request from the page's JSON. Raises EditError."""
    try:
        return msgspec.json.decode(data, type=EditedRequest)
    except msgspec.DecodeError as error:
        raise EditError(f"The edited request is not valid: {error}.") from None


def encode_request(edited: EditedRequest, recorded: Exchange) -> bytes:
    """Return the bytes of an edited request.

    The headers are sent as given, except those that say how the body is sent. A new body is sent without content
    codings, so Content-Encoding is left out with it.

    Raises:
        EditError: the request is not valid HTTP/1, asks for another protocol, or is too long.
    """
    if len(edited.method) > limits.MAX_METHOD or not _METHOD.fullmatch(edited.method):
        raise EditError("The method should be a word in capital letters, such as GET.")
    if edited.method == "CONNECT":
        raise EditError("CONNECT cannot be replayed, because it needs both sides.")
    if not _TARGET.fullmatch(edited.target):
        raise EditError("The path should begin with / and have no spaces; write a space as %20.")
    if edited.body is None and not recorded.request.body.is_complete:
        raise EditError("Only a part of the request's body was stored. Give another body.")
    body = bytes(recorded.request.body.data) if edited.body is None else edited.body.encode("utf-8", "replace")
    if len(body) > limits.MAX_BODY:
        raise EditError(f"The body has {len(body)} bytes; the limit is {limits.MAX_BODY}.")
    version = recorded.version if recorded.version in ("1.0", "1.1") else "1.1"
    lines = [f"{edited.method} {edited.target} HTTP/{version}".encode("ascii")]
    lines += _headers(edited, has_new_body=edited.body is not None)
    if body or edited.method in ("POST", "PUT", "PATCH"):
        lines.append(b"Content-Length: %d" % len(body))
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if len(head) > limits.MAX_HEAD:
        raise EditError(f"The headers have {len(head)} bytes; the limit is {limits.MAX_HEAD}.")
    return head + body


def _headers(edited: EditedRequest, *, has_new_body: bool) -> list[bytes]:
    if len(edited.headers) > limits.MAX_EDITED_HEADERS:
        raise EditError(f"There are more than {limits.MAX_EDITED_HEADERS} headers.")
    lines = []
    for name_text, value_text in edited.headers:
        name, value = name_text.strip().encode("utf-8", "replace"), value_text.strip().encode("utf-8", "replace")
        if not _NAME.fullmatch(name):
            raise EditError(f"The header {name_text[:40]!r} has an invalid name.")
        if _CONTROLS.search(value):
            raise EditError(f"The value of the header {name_text[:40]} has control characters.")
        lowered = name.lower()
        if lowered == b"upgrade" or (lowered == b"connection" and b"upgrade" in value.lower()):
            raise EditError("A request for another protocol cannot be replayed: remove Upgrade from its headers.")
        if lowered in FRAMING or (has_new_body and lowered == b"content-encoding"):
            continue
        lines.append(name + b": " + value)
    return lines


def changes(edited: EditedRequest, recorded: Exchange) -> str:
    """Return a note that says what was edited."""
    before = _comparable(recorded.request.headers)
    after = _comparable(
        (name.encode("utf-8", "replace"), value.encode("utf-8", "replace")) for name, value in edited.headers
    )
    found: dict[str, Any] = {
        "method": edited.method != recorded.method,
        "path": edited.target != recorded.target,
        "headers": after != before,
        "body": edited.body is not None,
    }
    names = [name for name, is_changed in found.items() if is_changed]
    return f"Edited before it was sent: {', '.join(names)}." if names else ""


def _comparable(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without those that are computed."""
    stripped = [(name.strip(), value.strip()) for name, value in headers]
    return [(name, value) for name, value in stripped if name.lower() not in FRAMING]
