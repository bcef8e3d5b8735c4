"""Validation of the names that a tunnel may request: one DNS label, or a custom domain, in canonical form."""

from __future__ import annotations

import re
from typing import Final

MAX_LABEL: Final = 63
"""RFC 1035 section 2.3.4."""
RANDOM_LABEL: Final = re.compile(r"(?=.*[2-7])[a-z2-7]{16}")
"""Random name, which the edge assigns to a tunnel that requests no name: 80 bits in base32, with at least one
digit. No client may request a name of this form, because visitors may still use it to reach its former
owner."""

LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Any label of a host name, in lower case (RFC 1123 section 2.1)."""

_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that resolvers read as part of an IPv4 address: decimal or hexadecimal."""
MAX_DOMAIN: Final = 253
"""RFC 1035 section 2.3.4, as text."""


def validation_error(name: str) -> str | None:
    """Return the reason why a label is invalid, as the end of a sentence that begins with the name, or None."""
    if LABEL.fullmatch(name) is None:
        if name.isascii() and LABEL.fullmatch(name.lower()):
            return "should be in lower case"
        return f"should be up to {MAX_LABEL} of a-z, 0-9 and hyphens, with no hyphen at either end"
    if name[2:4] == "--":
        # RFC 5891 section 4.2.3.1. Browsers decode xn-- labels, and the result may look like another name.
        return "should not have hyphens in the third and fourth place (reserved for encoded names such as xn--)"
    if RANDOM_LABEL.fullmatch(name):
        return "has the form of the edge's random names (16 characters of a-z and 2-7)"
    return None


def domain_validation_error(domain: str) -> str | None:
    """Return the reason why a domain is invalid, as the end of a sentence that begins with it, or None."""
    labels = domain.split(".")
    if len(domain) > MAX_DOMAIN or not all(map(LABEL.fullmatch, labels)):
        lower = domain.lower().removesuffix(".")
        if lower != domain and domain.isascii() and domain_validation_error(lower) is None:
            return "should be in lower case, without a dot at its end"
        if not domain.isascii():
            return "should be in ASCII form (xn--...)"
        return "should be a domain name such as app.example.com"
    if len(labels) < 2 or _NUMBER.fullmatch(labels[-1]):
        return "should be a custom domain name such as app.example.com"
    return None
