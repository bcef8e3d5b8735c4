"""Checks of the edge's certificate and of this machine's clock."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Final

from cryptography import x509

from quictunnel.doctor.result import Finding, fail, ok, warn
from quictunnel.transport.engines import handshake_probe

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import HandshakeReport

EXPIRY_WARNING: Final = dt.timedelta(days=7)
"""Time before a certificate's expiry from which it is reported; automatic renewal happens weeks before."""
MAX_CLOCK_SKEW: Final = 30.0
"""Seconds that two clocks may differ: more than a handshake takes, and too few to matter for a certificate."""
MAX_NAMES: Final = 4
"""Names of a certificate to show."""


def utc_now() -> dt.datetime:
    """Return the current time in UTC."""
    return dt.datetime.now(dt.UTC)


def examine(
    report: HandshakeReport, host: str, authority: Path | None, now: dt.datetime, pin: bytes = b""
) -> tuple[Finding, Finding]:
    """Check the certificate chain of a handshake against name, authority (or its fingerprint) and time.

    Returns:
        The findings about the certificate and about the clock.
    """
    try:
        leaf = x509.load_der_x509_certificate(report.chain[0])
        names = _names(leaf)
    except ValueError as error:
        broken = fail("certificate", f"it cannot be parsed ({error})", "Create a new certificate on the edge.")
        return broken, ok("clock", "there is nothing to compare it with")
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begins:
        return _too_early(begins, now)
    if now > ends:
        return _too_late(ends, now)
    clock = ok("clock", f"{_moment(now)}, within the certificate's validity")
    why = handshake_probe().trust_error(report.chain, host, authority, pin)
    if why is not None:
        return _not_trusted(leaf, host, names, authority, why, has_pin=bool(pin)), clock
    issuer = "the system's authorities" if authority is None else str(authority)
    if pin:
        issuer = "the authority of the credential"
    message = f"for {_listed(names)}, trusted by {issuer}, valid until {_moment(ends)}"
    if ends - now < EXPIRY_WARNING:
        remedy = "The edge should have renewed it: see its log, or restart a development edge."
        return warn("certificate", message, remedy), clock
    return ok("certificate", message), clock


def pinned(chain: tuple[bytes, ...], pin: bytes) -> bytes | None:
    """Return the certificate of a chain that has this SHA-256 fingerprint, or None."""
    return next((each for each in chain if hashlib.sha256(each).digest() == pin), None)


def compare_clocks(now: dt.datetime, edge: int) -> Finding:
    """Compare this machine's clock with the edge's, which is in seconds since the epoch."""
    ahead = now.timestamp() - edge
    if abs(ahead) <= MAX_CLOCK_SKEW:
        return ok("clock", f"{_moment(now)}, the same as the edge's clock")
    direction = "ahead of" if ahead > 0 else "behind"
    return warn("clock", f"it shows {_moment(now)}, {abs(ahead):.0f} s {direction} the edge's", SET_CLOCK)


def _too_early(begins: dt.datetime, now: dt.datetime) -> tuple[Finding, Finding]:
    message = f"it is valid from {_moment(begins)}, which is in the future by this machine's clock"
    return (
        fail("certificate", message, "Check the clock."),
        fail("clock", f"it shows {_moment(now)}, before the beginning of the edge's certificate", SET_CLOCK),
    )


def _too_late(ends: dt.datetime, now: dt.datetime) -> tuple[Finding, Finding]:
    remedy = "Renew it on the edge (a development edge does so at a restart)."
    doubt = f"it shows {_moment(now)}: if that is wrong, the clock is the problem and not the certificate"
    return (
        fail("certificate", f"it expired on {_moment(ends)}", remedy),
        warn("clock", doubt, SET_CLOCK),
    )


SET_CLOCK: Final = "Compare it with another clock; `timedatectl set-ntp true` synchronises it."


def _not_trusted(
    leaf: x509.Certificate, host: str, names: list[str], authority: Path | None, why: str, *, has_pin: bool
) -> Finding:
    if "doesn't match" in why:
        return fail(
            "certificate",
            f"it is for {_listed(names)}, not for {host}",
            "Set QUICTUNNEL_EDGE to one of those names, or give the edge a certificate for this one.",
            is_configuration=True,
        )
    issuer = leaf.issuer.rfc4514_string() or "nobody"
    if has_pin:
        message = f"issued by {issuer}, which is not the authority of the credential ({why})"
        remedy = "If the edge was set up anew, get a new credential from its operator and run `quictunnel login`."
    elif authority is None:
        message = f"issued by {issuer}, which this system does not trust ({why})"
        remedy = "Set QUICTUNNEL_CA to the edge's ca.pem, which is in its state directory."
    else:
        message = f"issued by {issuer}, which {authority} does not contain ({why})"
        remedy = f"Replace {authority}, which belongs to another edge, by ca.pem from this edge's state directory."
    return fail("certificate", message, remedy, is_configuration=True)


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [str(each.value) for each in extension.value]


def _listed(names: list[str]) -> str:
    if not names:
        return "no name"
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _moment(when: dt.datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
