"""Recognition of a PROXY protocol header, which an edge may send before the visitor's bytes.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

from typing import Final

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""First bytes of a header of version 2."""


def proxy_header(head: bytes | bytearray) -> int:
    """Return the length of a PROXY protocol header at the beginning of a connection: 0 without one, -1 while it is
    incomplete."""
    if head.startswith(b"PROXY "):
        end = head.find(b"\r\n", 0, 108)
        return end + 2 if end >= 0 else -1 if len(head) < 108 else 0
    if head.startswith(SIGNATURE):
        return -1 if len(head) < 16 or len(head) < (size := 16 + int.from_bytes(head[14:16], "big")) else size
    return -1 if len(head) > 3 and SIGNATURE.startswith(bytes(head)) else 0
