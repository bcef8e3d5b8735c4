"""Prober of QUIC servers without a connection: reachability, round-trip time, and sizes of datagrams that pass.

A server answers an Initial packet of an unknown version, of 1200 bytes or more, with Version Negotiation (RFC 9000
section 6; the format is in RFC 8999), whatever its certificate. The answer repeats the connection IDs of the
probe, which identifies it, and the answers to probes of many sizes tell the largest that passes. Blocking, on
sockets of its own.
"""

from __future__ import annotations

import enum
import errno
import os
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quictunnel.transport import sockopts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quictunnel.transport.engine import Address

SMALLEST: Final = 1200
"""UDP payload bytes below which a server does not answer (RFC 9000 section 14.1)."""
SIZES: Final = (1200, 1232, 1252, 1280, 1300, 1350, 1372, 1400, 1420, 1440, 1452, 1472, 8952)
"""UDP payload sizes of probes: those that fit VPNs, PPPoE, Ethernet and jumbo frames, with IPv4 and IPv6."""
ROUNDS: Final = (0.4, 0.8, 1.6)
"""Seconds to wait after each round of probes: three losses in a row, or a round trip of 400 ms, is not
"blocked"."""
_VERSION: Final = 0x1A2A3A4A
"""One of the versions reserved to force negotiation (RFC 9000 section 15)."""
_CID: Final = 8
_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class Answer(enum.Enum):
    """Result of a probe."""

    QUIC = "a QUIC server answers"
    REFUSED = "the port is closed"
    NOT_QUIC = "what answers is no QUIC server"
    NO_ANSWER = "nothing answers"
    FORBIDDEN = "this machine does not let UDP out"
    NO_ROUTE = "there is no way to that address"


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    answer: Answer
    rtt: float = 0.0
    """Shortest round-trip time of all answers, in seconds."""
    sizes: tuple[int, ...] = ()
    """Sizes of the datagrams that were answered."""
    lost: int = 0
    """Probes of the smallest size that were not answered before the first answer."""
    detail: str = ""


@dataclass(slots=True)
class _State:
    sent: dict[bytes, tuple[int, float]] = field(default_factory=dict)
    """Size and time of each probe by its connection ID."""
    sizes: set[int] = field(default_factory=set)
    rtt: float = float("inf")
    has_other_answer: bool = False
    """True if datagrams came that answer none of the probes."""
    error: OSError | None = None


def probe_server(
    address: Address,
    sizes: Sequence[int] = (SMALLEST,),
    *,
    rounds: Sequence[float] | None = None,
    forbid_fragments: bool = True,
) -> ProbeAnswer:
    """Send probes until all sizes are answered or the rounds are over.

    Args:
        address: the server.
        sizes: UDP payload sizes of the probes.
        rounds: seconds to wait after each round; ``ROUNDS`` by default.
        forbid_fragments: forbid IP fragmentation, as a connection does.

    Returns:
        The result. Errors of the network are part of it and are not raised.
    """
    state = _State()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if forbid_fragments:
                sockopts.forbid_fragments(sock)
            sock.connect(address)
            sock.setblocking(False)
            unanswered = _rounds(sock, sizes, ROUNDS if rounds is None else rounds, state)
    except OSError as error:
        state.error = error
        unanswered = 0
    if state.sizes:
        return ProbeAnswer(Answer.QUIC, state.rtt, tuple(sorted(state.sizes)), unanswered)
    return _failure(state)


def _rounds(sock: socket.socket, sizes: Sequence[int], rounds: Sequence[float], state: _State) -> int:
    unanswered = 0
    for seconds in rounds:
        for size in sizes:
            if size not in state.sizes:
                _send_probe(sock, size, state)
        _receive_answers(sock, set(sizes), seconds, state)
        if set(sizes) <= state.sizes or isinstance(state.error, ConnectionRefusedError):
            break
        unanswered += not state.sizes
    return unanswered


def _send_probe(sock: socket.socket, size: int, state: _State) -> None:
    probe_id = os.urandom(_CID)
    head = (
        bytes((0xC0,))
        + _VERSION.to_bytes(4, "big")
        + bytes((_CID,))
        + os.urandom(_CID)
        + bytes((_CID,))
        + probe_id
    )
    try:
        sock.send(head.ljust(size, b"\0"))
    except OSError as error:
        if error.errno != errno.EMSGSIZE:  # too large for the interface: it does not pass, and that is an answer
            state.error = error
    else:
        state.sent[probe_id] = (size, time.monotonic())


def _receive_answers(sock: socket.socket, sizes: set[int], seconds: float, state: _State) -> None:
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while not sizes <= state.sizes and (left := deadline - time.monotonic()) > 0:
            if state.sizes:  # the other sizes take as long; a much later answer was lost
                deadline = min(deadline, time.monotonic() + max(0.1, 4 * state.rtt))
                left = max(0.0, deadline - time.monotonic())
            if not selector.select(left):
                return
            try:
                _on_datagram(sock.recv(2048), state)
            except BlockingIOError:
                continue
            except OSError as error:  # an ICMP message about a probe
                if error.errno != errno.EMSGSIZE:
                    state.error = error
                if isinstance(error, ConnectionRefusedError):
                    return


def _on_datagram(datagram: bytes, state: _State) -> None:
    """Handle a datagram: a Version Negotiation packet for one of the probes (RFC 8999 section 6), or another."""
    is_negotiation = len(datagram) > 6 + _CID and datagram[0] & 0x80 and datagram[1:5] == bytes(4)
    known = state.sent.get(datagram[6 : 6 + _CID]) if is_negotiation and datagram[5] == _CID else None
    if known is None:
        state.has_other_answer = True
        return
    size, sent_at = known
    state.sizes.add(size)
    state.rtt = min(state.rtt, time.monotonic() - sent_at)


def _failure(state: _State) -> ProbeAnswer:
    error = state.error
    if isinstance(error, ConnectionRefusedError):
        return ProbeAnswer(Answer.REFUSED)
    if isinstance(error, PermissionError):
        return ProbeAnswer(Answer.FORBIDDEN, detail=error.strerror or str(error))
    if error is not None and error.errno in _UNREACHABLE:
        return ProbeAnswer(Answer.NO_ROUTE, detail=error.strerror or str(error))
    if state.has_other_answer:
        return ProbeAnswer(Answer.NOT_QUIC)
    return ProbeAnswer(Answer.NO_ANSWER, detail="" if error is None else error.strerror or str(error))
