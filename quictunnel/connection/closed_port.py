"""Detection of a closed UDP port: its machine answers a datagram with ICMP "port unreachable" (RFC 1122 4.1.3.1).

The socket of a connection is not connected, so that it survives a change of the network, and does not get these
messages. A second, connected socket does. It sends one datagram that no QUIC server answers: too short, and
without the fixed bit.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from quictunnel.shared import unpatched

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address

PROBE_DELAY: Final = 0.3
"""Seconds that an edge has to answer before its port is probed: nearly all have answered by then."""
PROBE_INTERVAL: Final = 0.5
"""Seconds between two datagrams: systems limit how often they send ICMP messages."""
PROBE: Final = b"\0"
MAX_PROBES: Final = 8
"""Datagrams of one probe, which ends with the dial at the latest."""


async def wait_until_refused(address: Address) -> bool:
    """Return True as soon as the machine at an address says that its port is closed; False if it does not.

    Cancellation leaves no socket open.
    """
    await asyncio.sleep(PROBE_DELAY)
    try:
        sock = unpatched.new_socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return False  # no descriptor is left; the dial itself reports what it finds
    with sock:
        sock.setblocking(False)
        try:
            sock.connect(address)
            for _ in range(MAX_PROBES):
                sock.send(PROBE)
                await _read(sock)
        except (ConnectionRefusedError, ConnectionResetError):  # the second one on Windows
            return True
        except OSError:  # no route, or a firewall of this machine: not the port
            return False
    return False


async def _read(sock: socket.socket) -> None:
    """Read for PROBE_INTERVAL. Raises ConnectionRefusedError if the port is closed."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PROBE_INTERVAL):
            while True:
                await loop.sock_recv(sock, 2048)
    except TimeoutError:
        return
