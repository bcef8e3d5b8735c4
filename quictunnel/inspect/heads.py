"""Beginnings of connections and ends of HTTP/1 heads, found without a parser. Needs no package."""

from __future__ import annotations

from typing import Final

_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""Signature of version 2 of the PROXY protocol."""


def end_of_head(head: bytearray, start: int) -> int:
    """Return the offset of the body, or -1 if the head is incomplete. A lone LF ends a line, as for h11."""
    ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := head.find(mark, start)) >= 0]
    return min(ends, default=-1)


def proxy_header(head: bytearray) -> int:
    """Return the length of a PROXY protocol header at the beginning of a connection: 0 without one, -1 while it is
    incomplete."""
    if head.startswith(b"PROXY "):
        end = head.find(b"\r\n", 0, 108)
        return end + 2 if end >= 0 else -1 if len(head) < 108 else 0
    if head.startswith(_V2):
        return -1 if len(head) < 16 or len(head) < (size := 16 + int.from_bytes(head[14:16], "big")) else size
    return -1 if len(head) > 3 and _V2.startswith(bytes(head)) else 0


def guess_protocol(beginning: bytes) -> str:
    """Return a note about a connection that does not begin with HTTP/1."""
    if beginning.startswith(b"PRI *"):
        return "HTTP/2 (also used by gRPC), which is shown as bytes"
    if beginning[:1] == b"\x16":  # a handshake record (RFC 8446 section 5.1)
        return "TLS, which is encrypted end to end"
    if beginning.startswith(b"SSH-"):
        return "SSH, which is encrypted end to end"
    return "this is not an HTTP/1 request"
