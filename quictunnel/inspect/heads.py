"""Beginnings of connections and ends of HTTP/1 heads, found without a parser. Needs no package."""

from __future__ import annotations


def end_of_head(head: bytearray, start: int) -> int:
    """Return the offset of the body, or -1 if the head is incomplete. A lone LF ends a line, as for h11."""
    ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := head.find(mark, start)) >= 0]
    return min(ends, default=-1)


def guess_protocol(beginning: bytes) -> str:
    """Return a note about a connection that does not begin with HTTP/1."""
    if beginning.startswith(b"PRI *"):
        return "HTTP/2 (also used by gRPC), which is shown as bytes"
    if beginning[:1] == b"\x16":  # a handshake record (RFC 8446 section 5.1)
        return "TLS, which is encrypted end to end"
    if beginning.startswith(b"SSH-"):
        return "SSH, which is encrypted end to end"
    return "this is not an HTTP/1 request"
