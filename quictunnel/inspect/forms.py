"""Decoding of form bodies into fields and files: urlencoded and ``multipart/form-data`` (RFC 7578)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

URLENCODED: Final = b"application/x-www-form-urlencoded"
MULTIPART: Final = b"multipart/form-data"
TOO_MANY: Final = "Only the first {} fields are shown."
BROKEN: Final = "The body does not have the format of its Content-Type: {}."
CUT: Final = "The body was stored in part, so the last field may be incomplete and others may be missing."

_BOUNDARY: Final = re.compile(rb';\s*boundary=(?:"([^"]{1,200})"|([^;\s"]{1,200}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(rb';\s*(name|filename\*?)=(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))', re.IGNORECASE)


class FormField(NamedTuple):
    """Field of a form."""

    name: str
    value: bytes
    filename: str | None = None
    """Name of a file; None for a plain field."""
    content_type: str = ""


class Form(NamedTuple):
    """Decoded form."""

    fields: list[FormField]
    note: str
    """Reason why fields are missing, or empty."""


class _BrokenError(ValueError):
    """Error of a malformed body."""


def decode_form(body: bytes, content_type: bytes, *, is_cut: bool) -> Form | None:
    """Decode the body of a form.

    Args:
        body: the body without content codings.
        content_type: value of the Content-Type header.
        is_cut: True if the end of the body is missing.

    Returns:
        At most ``limits.MAX_FIELDS`` fields; None if the type is not one of a form.
    """
    media = content_type.partition(b";")[0].strip().lower()
    if media not in (URLENCODED, MULTIPART):
        return None
    fields: list[FormField] = []
    try:
        for field in _urlencoded(body) if media == URLENCODED else _multipart(body, content_type):
            if len(fields) >= limits.MAX_FIELDS:
                return Form(fields, TOO_MANY.format(limits.MAX_FIELDS))
            fields.append(field)
    except _BrokenError as why:
        return Form(fields, CUT if is_cut else BROKEN.format(why))
    return Form(fields, CUT if is_cut else "")


def _urlencoded(body: bytes) -> Iterator[FormField]:
    at = 0
    while at < len(body):
        end = body.find(b"&", at)
        end = len(body) if end < 0 else end
        name, _, value = body[at:end].replace(b"+", b" ").partition(b"=")
        if name or value:
            yield FormField(_readable(unquote_to_bytes(name)), unquote_to_bytes(value))
        at = end + 1


def _multipart(body: bytes, content_type: bytes) -> Iterator[FormField]:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise _BrokenError("it names no boundary")
    delimiter = b"\r\n--" + (match[1] or match[2])
    at = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    if at == 1:
        raise _BrokenError("the boundary does not occur")
    at += len(delimiter) - 2
    while not body.startswith(b"--", at):
        line_end = body.find(b"\r\n", at, at + limits.MAX_PART_HEAD)
        if line_end < 0 or body[at:line_end].strip(b" \t"):
            raise _BrokenError("a boundary is not at the end of its line")
        end = body.find(delimiter, line_end)
        yield _part(body, line_end, len(body) if end < 0 else end)
        if end < 0:
            raise _BrokenError("the last boundary is missing")
        at = end + len(delimiter)


def _part(body: bytes, start: int, end: int) -> FormField:
    """Return the field of a part; ``start`` is the offset of the line break before its headers."""
    head_end = body.find(b"\r\n\r\n", start, min(end, start + limits.MAX_PART_HEAD))
    if head_end < 0:
        raise _BrokenError("a part has no end of its headers")
    name, filename, content_type = "", None, ""
    for line in body[start:head_end].split(b"\r\n"):
        key, _, value = line.partition(b":")
        match key.strip().lower():
            case b"content-disposition":
                name, filename = _disposition(value)
            case b"content-type":
                content_type = _readable(value.strip())[: limits.MAX_FIELD_NAME]
    return FormField(name, body[head_end + 4 : end], filename, content_type)


def _disposition(value: bytes) -> tuple[str, str | None]:
    """Return the field's name, and the file's name or None."""
    name, filename = "", None
    for match in _PARAMETER.finditer(value):
        text = _readable(re.sub(rb"\\(.)", rb"\1", match[2]) if match[2] is not None else match[3])
        match match[1].lower():
            case b"name":
                name = text[: limits.MAX_FIELD_NAME]
            case b"filename":
                filename = filename or text[: limits.MAX_FIELD_NAME]
            case _:  # filename*=UTF-8''... (RFC 5987)
                filename = unquote(text.rpartition("'")[2])[: limits.MAX_FIELD_NAME]
    return name, filename


def _readable(value: bytes) -> str:
    return value[: 4 * limits.MAX_FIELD_NAME].decode("utf-8", "replace")
