"""Which names a tunnel may ask for: one label of a DNS name, in the one form that no other can be mistaken for."""

from __future__ import annotations

import re
from typing import Final

MAX_LABEL: Final = 63
"""RFC 1035 section 2.3.4."""
RANDOM_LABEL: Final = re.compile(r"(?=.*[2-7])[a-z2-7]{16}")
"""What the edge gives to tunnels that ask for no name: 80 bits in base32, at least one digit among them.
Nobody may ask for such a name, because whoever had it has told it to visitors."""

LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Any label of a host name, in lower case (RFC 1123 section 2.1)."""

_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that resolvers read as the end of an IPv4 address, in whatever of its notations."""
MAX_DOMAIN: Final = 253
"""RFC 1035 section 2.3.4, as text."""


def objection(name: str) -> str | None:
    """What is wrong with a name, as the end of a sentence that begins with it; None when nothing is."""
    if LABEL.fullmatch(name) is None:
        if name.isascii() and LABEL.fullmatch(name.lower()):
            return "should be in lower case"
        return f"should be up to {MAX_LABEL} of a-z, 0-9 and hyphens, with no hyphen at either end"
    if name[2:4] == "--":
        # RFC 5891 section 4.2.3.1: what is shown for xn-- looks like any other name.
        return "should not have hyphens in the third and fourth place, which is how other alphabets are encoded"
    if RANDOM_LABEL.fullmatch(name):
        return "has the form of the names that are given at random"
    return None


def domain_objection(domain: str) -> str | None:
    """What is wrong with a whole domain, as the end of a sentence that begins with it; None when nothing is."""
    labels = domain.split(".")
    if len(domain) > MAX_DOMAIN or not all(map(LABEL.fullmatch, labels)):
        lower = domain.lower().removesuffix(".")
        if lower != domain and domain.isascii() and domain_objection(lower) is None:
            return "should be in lower case and have no dot at its end"
        if not domain.isascii():
            return "should be in its ASCII form, which begins with xn--"
        return "should be a domain name such as app.example.com"
    if len(labels) < 2 or _NUMBER.fullmatch(labels[-1]):
        return "should be a whole domain name such as app.example.com"
    return None
