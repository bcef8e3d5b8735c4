"""The error for a server whose certificate a client does not accept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import CloseCause

if TYPE_CHECKING:
    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Closed

# TLS alerts about a certificate (RFC 8446 section 6.2), as QUIC carries them (RFC 9001 section 4.8: 0x100 plus the
# alert).
_CERTIFICATE_ALERTS: Final = range(0x100 + 42, 0x100 + 49)
_EXPIRED: Final = 0x100 + 45
_UNKNOWN_AUTHORITY: Final = 0x100 + 48


class EdgeIdentityError(ConfigError):
    """A server other than the configured edge answers.

    It ends the first dial. A client that was connected before dials again, because a proxy may be in the path
    for a while, or the renewal of a certificate may be late."""


def certificate_error(closed: Closed, config: ClientConfig) -> EdgeIdentityError | None:
    """Return the error of a handshake that ended because of the edge's certificate; None of another end."""
    if closed.code not in _CERTIFICATE_ALERTS or closed.cause not in (CloseCause.HANDSHAKE, CloseCause.PROTOCOL):
        return None
    edge = config.edge
    source = f" (from {config.source})" if config.source else ""
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    reason = closed.reason.lower()  # of either QUIC engine
    if closed.code == _EXPIRED and "not valid yet" in reason:
        return EdgeIdentityError(
            f"The certificate of the edge at {edge} is not valid yet by this machine's clock, {now}.",
            advice="Set this machine's clock; if it is right, the edge's certificate was made with a wrong one.",
        )
    if closed.code == _EXPIRED:
        return EdgeIdentityError(
            f"The certificate of the edge at {edge} has expired by this machine's clock, {now}.",
            advice="Set this machine's clock; if it is right, the edge has to be restarted, which renews it.",
        )
    if "not valid for name" in reason or "doesn't match" in reason:
        return EdgeIdentityError(
            f"The certificate of the edge at {edge} is for another name than {config.address[0]}.",
            advice="Use a name that is in the certificate (`quictunnel doctor` lists them), or check the edge's "
            "--public-host.",
        )
    if config.pin and closed.code == _UNKNOWN_AUTHORITY:
        return EdgeIdentityError(
            f"The certificate authority of the edge at {edge} is not the one of this credential{source}. The "
            "token "
            "was not sent.",
            advice="If the edge was set up anew, get a new credential from its operator; if not, another server "
            "answers in its place.",
        )
    if config.pin:
        return EdgeIdentityError(
            f"The certificate of the edge at {edge} was not accepted: the authority of this credential{source} "
            f"has not issued it for the name {config.address[0]}. The token was not sent.",
            advice="Get a new credential from the edge's operator, or check the edge's --public-host.",
        )
    trusted = f"no authority in {config.ca}" if config.ca else "none of the public authorities"
    return EdgeIdentityError(
        f"The certificate of the edge at {edge}{source} was not accepted: {trusted} has issued it.",
        advice="Set QUICTUNNEL_CA to the file with the authority that issued it (a development edge writes it as "
        "ca.pem into its state directory), or use a credential, which needs no file.",
    )
