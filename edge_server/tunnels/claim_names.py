"""Names, ports and networks as people write them, and as the database of claims has them."""

from __future__ import annotations

import contextlib
import re
from ipaddress import ip_network
from typing import Final, Literal

from quictunnel.shared.address import MAX_PORT, short_repr
from quictunnel.wire.labels import RANDOM_LABEL, domain_validation_error, validation_error

NETWORK_PREFIX: Final = "@"
"""Prefix of networks in the database."""
PORT_PREFIX: Final = ":"
"""Prefix of TCP ports, in the database and as people write them."""

ClaimKind = Literal["name", "port", "network"]


class ClaimNameError(Exception):
    """A text that is neither a name nor a port nor an address; the message says so."""


def parse_claim(text: str, domain: str) -> str:
    """Return a name, a TCP port (``:20022``), an address or a network as the database has it. Raises
    ClaimNameError.

    ``domain``: the edge's own; of a host name directly below it the label is the name.
    """
    with contextlib.suppress(ValueError):
        return f"{NETWORK_PREFIX}{ip_network(text.removeprefix(NETWORK_PREFIX), strict=False)}"
    name = label_below(domain, text.lower())
    if domain and (name == domain or name.endswith(f".{domain}")):
        raise ClaimNameError(f"{short_repr(text)} is no name of a tunnel: those are directly below {domain}.")
    is_port = re.fullmatch(":[1-9][0-9]{0,4}", text) and int(text[1:]) <= MAX_PORT
    is_name = (
        RANDOM_LABEL.fullmatch(name) or validation_error(name) is None or domain_validation_error(name) is None
    )
    if not is_port and not is_name:
        raise ClaimNameError(f"{short_repr(text)} is neither a name nor a port (:20022) nor an address.")
    return name


def label_below(domain: str, host: str) -> str:
    """Return the label of a host name directly below a domain, and any other text as it is."""
    label, _, rest = host.partition(".")
    return label if label and rest == domain else host


def format_claim(what: str) -> str:
    """Return an entry of the database as people write it."""
    return what.removeprefix(NETWORK_PREFIX)


def kind_of(what: str) -> ClaimKind:
    """Return the kind of an entry of the database."""
    if what.startswith(NETWORK_PREFIX):
        return "network"
    return "port" if what.startswith(PORT_PREFIX) else "name"
