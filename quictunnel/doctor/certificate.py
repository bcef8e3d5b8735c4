"""The certificate that the edge shows its clients, and whether this machine's clock agrees with it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from cryptography import x509

from quictunnel.doctor.result import Finding, fail, ok, warn
from quictunnel.transport.engines import handshake_probe

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import HandshakeReport

SOON: Final = dt.timedelta(days=7)
"""Before its end when a certificate should have been renewed: whoever renews by itself does so weeks before."""
SKEW: Final = 30.0
"""Seconds that two clocks may differ: more than a greeting takes, less than matters to a certificate."""
MAX_NAMES: Final = 4
"""Names of a certificate that are shown."""


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def examine(
    shown: HandshakeReport, host: str, authority: Path | None, now: dt.datetime
) -> tuple[Finding, Finding]:
    """The certificate, and the clock."""
    try:
        leaf = x509.load_der_x509_certificate(shown.chain[0])
        names = _names(leaf)
    except ValueError as error:
        broken = fail("certificate", f"it cannot be read ({error})", "Let the edge make a new one.")
        return broken, ok("clock", "nothing to compare it with")
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begins:
        return _too_early(begins, now)
    if now > ends:
        return _too_late(ends, now)
    clock = ok("clock", f"{_moment(now)}, within the certificate's time")
    why = handshake_probe().objection(shown.chain, host, authority)
    if why is not None:
        return _not_believed(leaf, host, names, authority, why), clock
    vouched = "this system's authorities" if authority is None else str(authority)
    message = f"for {_listed(names)}, vouched for by {vouched}, until {_moment(ends)}"
    if ends - now < SOON:
        remedy = "The edge should have renewed it: see its log, or restart a development edge."
        return warn("certificate", message, remedy), clock
    return ok("certificate", message), clock


def compared(now: dt.datetime, edge: int) -> Finding:
    """This machine's clock and the edge's, in seconds since the epoch."""
    ahead = now.timestamp() - edge
    if abs(ahead) <= SKEW:
        return ok("clock", f"{_moment(now)}, and so says the edge")
    direction = "ahead of" if ahead > 0 else "behind"
    return warn("clock", f"it says {_moment(now)}, {abs(ahead):.0f} s {direction} the edge's", SET_CLOCK)


def _too_early(begins: dt.datetime, now: dt.datetime) -> tuple[Finding, Finding]:
    message = f"it begins on {_moment(begins)}, which is yet to come by this machine's clock"
    return (
        fail("certificate", message, "See the clock."),
        fail("clock", f"it says {_moment(now)}, before the edge's certificate was made", SET_CLOCK),
    )


def _too_late(ends: dt.datetime, now: dt.datetime) -> tuple[Finding, Finding]:
    remedy = "Renew it on the edge (a development edge does so when it is started again)."
    doubt = f"it says {_moment(now)}: if that is not so, it is the clock and not the certificate"
    return (
        fail("certificate", f"it expired on {_moment(ends)}", remedy),
        warn("clock", doubt, SET_CLOCK),
    )


SET_CLOCK: Final = "Compare it with a watch; `timedatectl set-ntp true` keeps it right."


def _not_believed(
    leaf: x509.Certificate, host: str, names: list[str], authority: Path | None, why: str
) -> Finding:
    if "doesn't match" in why:
        return fail(
            "certificate",
            f"it is for {_listed(names)}, not for {host}",
            "Dial the edge by one of those names (QUICTUNNEL_EDGE), or give its certificate this one.",
            is_configuration=True,
        )
    issuer = leaf.issuer.rfc4514_string() or "nobody"
    if authority is None:
        message = f"issued by {issuer}, whom this system does not know ({why})"
        remedy = "Set QUICTUNNEL_CA to the edge's ca.pem, which is in its state directory."
    else:
        message = f"issued by {issuer}, for which {authority} does not vouch ({why})"
        remedy = f"Copy ca.pem from this edge's state directory over {authority}, which is of another edge."
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
