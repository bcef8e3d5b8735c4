"""Options of a fresh UDP socket, platform by platform: buffers, no fragmentation, offloads.

Only option numbers and the setting of options live here; reading and writing are in ``udp``. Each option is
optional: if a system refuses it, the socket is slower, never broken.
"""

from __future__ import annotations

import functools
import logging
import socket
import sys

logger = logging.getLogger(__name__)

# At 100 Mbit/s this is 320 ms of traffic: what may pile up while the loop is busy elsewhere. It is also the
# most that Linux distributions allow unprivileged programs after the usual tuning.
BUFFER_BYTES = 4 * 1024 * 1024
# Below this, systems that refuse a size outright (macOS does, instead of capping it) get no further attempt.
MIN_REQUESTED_BUFFER = 256 * 1024

LINUX = sys.platform == "linux"

# Numbers of <asm-generic/socket.h> and <linux/udp.h>, which the socket module does not name.
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

# (level, option, value) that sets the DF bit and switches fragmentation off. Linux gets PROBE rather than DO:
# both set DF, but DO also believes ICMP, so that one forged "packet too big" would stop every datagram of
# ordinary size (RFC 9000 section 14.2.1).
_DONT_FRAGMENT: dict[str, dict[int, list[tuple[int, int, int]]]] = {
    "linux": {
        socket.AF_INET: [(socket.IPPROTO_IP, 10, 3)],  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
        socket.AF_INET6: [(socket.IPPROTO_IPV6, 23, 3)],  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE
    },
    "darwin": {
        socket.AF_INET: [(socket.IPPROTO_IP, 28, 1)],  # IP_DONTFRAG
        socket.AF_INET6: [(socket.IPPROTO_IPV6, 62, 1)],  # IPV6_DONTFRAG
    },
    "win32": {
        socket.AF_INET: [(socket.IPPROTO_IP, 14, 1)],  # IP_DONTFRAGMENT
        socket.AF_INET6: [(socket.IPPROTO_IPV6, 14, 1)],  # IPV6_DONTFRAG
    },
}


def forbid_fragments(sock: socket.socket) -> bool:
    """Set the DF bit of sent datagrams (RFC 9000 section 14). Return False if the system cannot."""
    options = list(_DONT_FRAGMENT.get(sys.platform, {}).get(sock.family, []))
    if options and is_dual(sock):
        options += _DONT_FRAGMENT[sys.platform][socket.AF_INET]
    return bool(options) and all(_try_option(sock, *option) for option in options)


def separate_families(sock: socket.socket, separate: bool) -> None:
    """Set IPV6_V6ONLY of a socket that is not bound yet.

    Raises:
        OSError: the system cannot restrict it to IPv6. If it cannot extend it to IPv4, it stays an IPv6 socket.
    """
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, separate)
    except OSError:
        if separate:
            raise


def is_dual(sock: socket.socket) -> bool:
    """Return True if the socket speaks IPv4 and IPv6."""
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def enlarge_buffers(sock: socket.socket, size: int) -> tuple[int, int]:
    """Set both buffers to ``size`` bytes. Return the sizes granted for receiving and sending, and log once per
    process if they are smaller."""
    received = _enlarge(sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, size)
    sent = _enlarge(sock, SO_SNDBUFFORCE, socket.SO_SNDBUF, size)
    if min(received, sent) < size:
        _report_small_buffers(size, received, sent)
    return received, sent


def enable_gro(sock: socket.socket) -> bool:
    """Let the kernel join datagrams of one flow into one read (Linux 5.0)."""
    return LINUX and _try_option(sock, SOL_UDP, UDP_GRO, 1)


def supports_gso(sock: socket.socket) -> bool:
    """Return True if one write may carry many datagrams (Linux 4.18). A network card may still refuse later."""
    if not LINUX:
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:  # the answer of a kernel that does not know the option
        return False
    return True


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:  # refused or unknown: the caller goes on without it
        return False
    return True


def _enlarge(sock: socket.socket, forced: int, ordinary: int, size: int) -> int:
    # The forced option ignores the system's cap and needs CAP_NET_ADMIN, which containers rarely have.
    if not (LINUX and _try_option(sock, socket.SOL_SOCKET, forced, size)):
        requested = size
        while not _try_option(sock, socket.SOL_SOCKET, ordinary, requested) and requested > MIN_REQUESTED_BUFFER:
            requested //= 2
    granted = sock.getsockopt(socket.SOL_SOCKET, ordinary)
    # Linux grants twice what is requested, for its own bookkeeping, and reports the doubled figure.
    return granted // 2 if LINUX else granted


def buffers_remedy(requested: int) -> str:
    """Return the command that raises the system's limit on socket buffers."""
    return {
        "linux": f"sysctl -w net.core.rmem_max={requested} net.core.wmem_max={requested}",
        "darwin": f"sysctl -w kern.ipc.maxsockbuf={2 * requested}",
    }.get(sys.platform, "your system's limit on socket buffers")


@functools.cache  # a client that redials makes many sockets; their owner needs to hear it once
def _report_small_buffers(requested: int, received: int, sent: int) -> None:
    logger.info(
        "UDP socket buffers are %d KiB to receive and %d KiB to send, not %d KiB; fast tunnels may lose packets. "
        "To raise them: %s",
        received // 1024,
        sent // 1024,
        requested // 1024,
        buffers_remedy(requested),
    )
