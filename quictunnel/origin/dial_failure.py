"""Reasons why an origin could not be reached, with the sentences for the edge, the visitor and the user."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.origin.target import Target
    from quictunnel.origin.tls import OriginTlsError


class DialFailure(NamedTuple):
    """Reason why an origin could not be reached, with its texts for edge, visitor and user."""

    code: StreamCode
    """Code of the stream's reset, for the edge."""
    status: str
    """HTTP status and reason phrase, for the visitor."""
    visitor_text: str
    """Body of the HTTP response, for the visitor: a template with ``{place}`` only."""
    event: str
    """Text of the client's event, for the user: a template of ``Target.format``."""

    def event_for(self, target: Target) -> str:
        """Return the text of the client's event about a target."""
        return target.format(self.event)

    def body_for(self, target: Target) -> str:
        """Return the text for a visitor of a target; no name or path of this machine's network is in it."""
        return self.visitor_text.format(place=target.place)


REFUSED: Final = DialFailure(
    StreamCode.REFUSED,
    "502 Bad Gateway",
    "nobody listens on {place}",
    "Nobody listens on {origin}; visitors are refused.",
)
BUSY: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "504 Gateway Timeout",
    "{place} accepts no connections now",
    "{origin} accepts no connections: its backlog has been full for minutes (raise the backlog of the server, "
    "or the number of its workers).",
)
NO_DESCRIPTORS: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "503 Service Unavailable",
    "the program behind this tunnel has no room for another visitor now",
    "No file descriptors are left for a connection to {origin} (see ulimit -n); visitors are refused.",
)
_FORBIDDEN: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "502 Bad Gateway",
    "the program behind this tunnel may not connect to its service",
    "This program may not connect to {origin} (a firewall or a security policy); visitors are refused.",
)
NO_ANSWER: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "504 Gateway Timeout",
    "{place} does not answer",
    "{origin} does not answer: is its machine up, and does a firewall let this one in? Visitors are refused.",
)
NO_FILE: Final = DialFailure(
    StreamCode.REFUSED,
    "502 Bad Gateway",
    "nobody listens on {place}",
    "{origin} does not exist: is the service running? Visitors are refused.",
)
NO_NAME: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "502 Bad Gateway",
    "the service behind this tunnel cannot be found",
    "The name of {origin} has no address: is the service running, and on a network of this machine? Visitors are "
    "refused.",
)
_NO_ROUTE: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "502 Bad Gateway",
    "the machine behind this tunnel has no route to its service",
    "There is no route to {origin} (is the network, or the loopback interface, up?); visitors are refused.",
)
_NO_LOCAL_PORTS: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "503 Service Unavailable",
    "the machine behind this tunnel has no room for another visitor now",
    "No local ports are left for a connection to {origin} (see net.ipv4.ip_local_port_range); visitors are "
    "refused.",
)
_NO_MEMORY: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "503 Service Unavailable",
    "the machine behind this tunnel has no room for another visitor now",
    "The system has no memory for a connection to {origin}; visitors are refused.",
)
_BY_ERRNO: Final = {
    errno.ECONNREFUSED: REFUSED,
    errno.ENOENT: NO_FILE,
    errno.EAGAIN: BUSY,  # a Unix socket with a full backlog
    errno.ETIMEDOUT: BUSY,
    errno.EMFILE: NO_DESCRIPTORS,
    errno.ENFILE: NO_DESCRIPTORS._replace(
        event="The system has no file descriptors left for a connection to {origin}; visitors are refused."
    ),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENETUNREACH: _NO_ROUTE,
    errno.EHOSTUNREACH: _NO_ROUTE,
    errno.ENETDOWN: _NO_ROUTE,
    errno.EADDRNOTAVAIL: _NO_LOCAL_PORTS,
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOBUFS: _NO_MEMORY,
}
NO_IPV6: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH})
"""Errors that a dial of ``::1`` has on a machine without IPv6; they are ignored."""


def dial_failure(error: OSError) -> DialFailure:
    """Return the DialFailure for the error of a connection attempt."""
    known = _BY_ERRNO.get(errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or 0)
    if known is not None:
        return known
    return DialFailure(
        StreamCode.UNREACHABLE,
        "502 Bad Gateway",
        "{place} cannot be reached",
        f"A connection to {{origin}} failed ({_escape(error.strerror or str(error))}); visitors are refused.",
    )


def tls_failure(error: OriginTlsError) -> DialFailure:
    """Return the DialFailure for a TLS handshake with an origin that failed."""
    if error.certificate_error:
        return DialFailure(
            StreamCode.UNREACHABLE,
            "502 Bad Gateway",
            "the certificate of the service behind this tunnel is not valid",
            f"The certificate of {{origin}} was not accepted ({_escape(error.certificate_error)}). Name its "
            "authority "
            "with --origin-ca (origin_ca=), or do not check it with --insecure-origin (verify_origin=False); "
            "visitors are refused.",
        )
    return DialFailure(
        StreamCode.UNREACHABLE,
        "502 Bad Gateway",
        "the service behind this tunnel does not speak TLS",
        f"The TLS handshake with {{origin}} failed ({_escape(str(error))}): does it speak TLS? If not, give "
        "http:// "
        "instead of https://. Visitors are refused.",
    )


def _escape(text: str) -> str:
    """Return a text for a template."""
    return text.replace("{", "{{").replace("}", "}}")
