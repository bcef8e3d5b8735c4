"""Errors of a connection to an edge: the end of a connection in, the error that a caller should see out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from quictunnel.config.variables import CREDENTIAL
from quictunnel.connection.edge_identity import EdgeIdentityError
from quictunnel.errors import AuthError, ConfigError, EdgeUnavailableError, Error
from quictunnel.shared.address import format_address
from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.wire.codes import ALPN, OLDEST_VERSION, PROTOCOL_VERSION, SESSION_SENTENCES, SessionCode

if TYPE_CHECKING:
    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Address
    from quictunnel.wire.messages import Welcome

TCP_PROBE_TIMEOUT: Final = 1.0
"""Seconds that the host of an edge that does not answer has to answer a TCP connection."""
MAX_REASON: Final = 200
"""Characters of an edge's reason to show."""

# The TLS alert no_application_protocol, as QUIC carries it (RFC 9001 section 4.8: 0x100 plus the alert).
_NO_ALPN: Final = 0x100 + 120
_ASK_FOR_ANOTHER: Final = "Ask the edge's operator for another one, for QUICTUNNEL_TOKEN or --token-file."
_LATER: Final = "Try again in a moment."
_OPERATOR: Final = "Ask the operator of the edge."

# For each code that ends a session: the class of the error, and what to do. EdgeUnavailableError means that a
# client which has a tunnel dials again.
_SESSION_ERRORS: Final[dict[SessionCode, tuple[type[Error], str]]] = {
    SessionCode.VERSION: (
        ConfigError,
        f"Upgrade the older of the two; this client speaks versions {OLDEST_VERSION} to {PROTOCOL_VERSION}.",
    ),
    SessionCode.BANNED: (ConfigError, _OPERATOR),
    # After these two, dialling again would take the name back, and the other client would do the same, for
    # ever; or it would undo what the operator has done.
    SessionCode.SUPERSEDED: (Error, "Stop one of the two, or give each a ticket and a name of its own."),
    SessionCode.ENDED: (Error, _OPERATOR),
    SessionCode.OVERLOADED: (
        EdgeUnavailableError,
        "Stop a client that is not needed, try again later, or ask the edge's operator for a higher limit.",
    ),
    SessionCode.TOO_MANY_REQUESTS: (EdgeUnavailableError, "Try again in a minute."),
}


class EdgePortClosedError(EdgeUnavailableError):
    """Nothing listens on the edge's UDP port: its machine has said so.

    It ends the first dial at once. A client that was connected before dials again, because the edge may be
    starting again."""


def explain(closed: Closed, edge: str, *, welcome: Welcome | None) -> Error:
    """Return why a session ended, as the error that a caller should see.

    ``welcome``: the edge's Welcome, if one had arrived.
    """
    if closed.cause is CloseCause.PEER and closed.code in frozenset(SessionCode):
        return _session_error(SessionCode(closed.code), closed.reason[:MAX_REASON], edge, welcome)
    if closed.code == _NO_ALPN:
        return EdgeIdentityError(
            f"The server at {edge} speaks QUIC but is not an edge (it does not offer the protocol {ALPN}).",
            advice="Check the address of the edge (QUICTUNNEL_EDGE, --edge).",
        )
    return EdgeUnavailableError(f"The connection to the edge at {edge} ended: {closed.cause.value}.")


def _session_error(code: SessionCode, reason: str, edge: str, welcome: Welcome | None) -> Error:
    if code is SessionCode.UNAUTHORIZED:
        return token_error(edge, reason, was_accepted=welcome is not None)
    if code is SessionCode.LINK_REPLACED and welcome is not None and welcome.version < 2:
        code = SessionCode.SUPERSEDED  # an edge of version 1 has one code for both
    kind, advice = _SESSION_ERRORS.get(code, (EdgeUnavailableError, _LATER))
    if reason:
        return kind(f"The edge at {edge} refused this client: {reason}.", advice=advice)
    return kind(f"{SESSION_SENTENCES[code]} (edge at {edge})", advice=advice)


def token_error(edge: str, reason: str, *, was_accepted: bool) -> AuthError:
    """Return the error for a token that an edge does not accept.

    Args:
        edge: address of the edge.
        reason: the edge's reason; it gives one only to a client with the right secret.
        was_accepted: True if the edge has accepted the token before.
    """
    if reason:
        return AuthError(f"The edge at {edge} does not accept the token: {reason}.", advice=_ASK_FOR_ANOTHER)
    if was_accepted:
        return AuthError(
            f"The edge at {edge} does not accept the token any more: it has been revoked or has expired.",
            advice=_ASK_FOR_ANOTHER,
        )
    return AuthError(
        f"The edge at {edge} refused the token: it is not a token of this edge.",
        advice="Give a token of this edge by QUICTUNNEL_TOKEN or --token-file; that of an edge on this machine is "
        "the file `token` in its state directory.",
    )


def with_source(error: Error, source: str) -> Error:
    """Return the error; if it is about a token, with an advice that fits the source of a credential."""
    if not isinstance(error, AuthError):
        return error
    if source == CREDENTIAL:
        how = f"set {CREDENTIAL} to it"
    elif source.startswith(("the profile", "the credential")):
        how = "run `quictunnel login` with it"
    else:
        return error
    origin = "" if source == "the credential" else f" (the token is from {source})"
    advice = f"Ask the edge's operator for another credential, and {how}{origin}."
    return AuthError(error.message, advice=advice)


def port_closed_error(config: ClientConfig, address: Address) -> EdgePortClosedError:
    """Return the error for an edge's address at which nothing listens."""
    host, port = config.address
    at = "" if address[0] == host else f" ({address[0]})"
    return EdgePortClosedError(
        f"{host}{at} answered that nothing listens on its UDP port {port}: UDP gets through, but no edge is "
        f"running at {format_address(host, port)}.",
        advice="Check the address of the edge (QUICTUNNEL_EDGE, --edge), or start one: `quictunnel-edge`.",
    )


async def no_answer_error(config: ClientConfig, seconds: float) -> EdgeUnavailableError:
    """Return the error for an edge that has not answered at all; it says whether UDP looks blocked."""
    host, port = config.address
    edge = format_address(host, port)
    verdict = "nothing on that host answers, not even to TCP: is the address right and the edge running?"
    # A refused TCP connection proves, like an accepted one, that the host exists.
    with contextlib.suppress(OSError, TimeoutError):
        try:
            async with asyncio.timeout(TCP_PROBE_TIMEOUT):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except ConnectionRefusedError:
            pass
        verdict = (
            "the host itself answers, so either no edge is running on this port (`quictunnel-edge` starts "
            "one) or UDP looks blocked on the way."
        )
    return EdgeUnavailableError(
        f"No answer from the edge at {edge} over UDP within {seconds:.0f} s; {verdict}",
        advice="`quictunnel doctor` finds out where UDP is lost.",
    )
