"""Which certificate a visitor is met with: TLS contexts by name and protocol.

The rule that lives here: **with h2 a name is met with a certificate for itself alone.** A browser that holds
an h2 connection sends requests for every other name of its certificate down the same connection (RFC 9113
section 9.1.1), which under one wildcard certificate would hand one tenant's requests to another. Connections
of http/1.1 are never shared like that, so there one wildcard serves everybody.

Must not know: sockets, leases, who asks.
"""

from __future__ import annotations

import ssl
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from cryptography import x509

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from certs.authority import DevelopmentAuthority

MAX_CONTEXTS: Final = 512
"""Contexts kept; each costs about 20 KiB. A name that was pushed out is minted or loaded again in a
millisecond, and its connections keep the context they have."""

MAX_SESSIONS: Final = 128
"""TLS 1.2 sessions (1 KiB each) that a context may remember before a fresh one takes its place. OpenSSL
remembers up to 20,480 a context, and Python has no switch for it."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """One certificate of the operator's."""

    names: frozenset[str]
    cert: Path
    key: Path

    def covers(self, name: str) -> bool:
        return name in self.names or _wildcard_of(name) in self.names


class Certificates:
    """Contexts for the names that the operator's files or a development authority cover."""

    def __init__(self, *, allow_wildcard_h2: bool = False, max_contexts: int = MAX_CONTEXTS) -> None:
        """``allow_wildcard_h2``: the operator knows that names of one certificate then share connections,
        as when all tunnels are one tenant's."""
        self._allow_wildcard_h2 = allow_wildcard_h2
        self._max_contexts = max_contexts
        self._pairs: list[_Pair] = []
        self._authority: DevelopmentAuthority | None = None
        self._domain = ""
        self._contexts: OrderedDict[tuple[str, bool], ssl.SSLContext] = OrderedDict()

    def add_files(self, cert: Path, key: Path) -> frozenset[str]:
        """Use a certificate chain and its key; the names it covers. ``ConfigError`` says what is wrong."""
        names = _names_in(cert)
        _load(cert, key, h2=False)
        self._pairs.append(_Pair(names, cert, key))
        return names

    def add_authority(self, authority: DevelopmentAuthority, domain: str) -> frozenset[str]:
        """Mint for ``domain`` and the names one label below it, on demand."""
        self._authority = authority
        self._domain = domain
        return frozenset((domain, f"*.{domain}"))

    def h2_allowed(self, name: str) -> bool:
        """Whether ``name`` may be met with h2: with a certificate of its own, or knowingly with another."""
        if self._mints(name) or self._own_pair(name) is not None:
            return True
        return self._allow_wildcard_h2 and self._pair_for(name) is not None

    def context_for(self, name: str, *, h2: bool) -> ssl.SSLContext | None:
        """The context for a lower-case ``name``; None when no certificate covers it, or none may with h2.

        Ask anew for each visitor: that is how a context full of remembered sessions is replaced."""
        if h2 and not self.h2_allowed(name):
            return None
        pair = self._own_pair(name) or self._pair_for(name)
        if h2 and pair is not None and self._mints(name) and pair.names != {name}:
            pair = None  # one minted for it alone is better
        if pair is not None:
            files = pair
            return self._cached(str(pair.cert), h2, lambda: _load(files.cert, files.key, h2=h2))
        if self._authority is None or not self._mints(name):
            return None
        names = (name,) if h2 else (f"*.{self._domain}", self._domain)
        chain, key = names[0], self._authority
        return self._cached(chain, h2, lambda: _load_pem(*key.issue(names), h2=h2))

    def _pair_for(self, name: str) -> _Pair | None:
        exact = (pair for pair in self._pairs if name in pair.names)
        return next(exact, next((pair for pair in self._pairs if pair.covers(name)), None))

    def _own_pair(self, name: str) -> _Pair | None:
        return next((pair for pair in self._pairs if pair.names == {name}), None)

    def _mints(self, name: str) -> bool:
        if self._authority is None:
            return False
        return name == self._domain or name.partition(".")[2] == self._domain

    def _cached(self, key: str, h2: bool, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        contexts = self._contexts
        context = contexts.get((key, h2))
        if context is None or context.session_stats()["number"] >= MAX_SESSIONS:
            context = contexts[key, h2] = make()
        contexts.move_to_end((key, h2))
        if len(contexts) > self._max_contexts:
            contexts.popitem(last=False)
        return context


def _wildcard_of(name: str) -> str:
    return "*." + name.partition(".")[2]  # RFC 6125 section 6.4.3: one label, the left-most


def _new_context(*, h2: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No tickets: one made under a certificate that several names share would be good for all of them.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"] if h2 else ["http/1.1"])
    return context


def _load(cert: Path, key: Path, *, h2: bool) -> ssl.SSLContext:
    _readable(key, "private key")
    context = _new_context(h2=h2)
    try:
        # Without a password callback OpenSSL would stop and ask on the terminal.
        context.load_cert_chain(cert, key, password=lambda: _refuse_passphrase(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"The private key {key} does not belong to the certificate {cert}.") from error
        raise ConfigError(f"Not a PEM private key for {cert}: {key}.") from error
    return context


def _load_pem(chain: bytes, key: bytes, *, h2: bool) -> ssl.SSLContext:
    context = _new_context(h2=h2)
    # The ssl module loads from files only. This one is its owner's alone and gone after the call.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(key + chain)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _names_in(cert: Path) -> frozenset[str]:
    pem = _readable(cert, "certificate")
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternative = x509.SubjectAlternativeName([])
    except ValueError as error:
        raise ConfigError(f"Not a PEM certificate: {cert}.") from error
    names = frozenset(name.lower() for name in alternative.get_values_for_type(x509.DNSName))
    if not names:
        raise ConfigError(f"The certificate {cert} names no host (it has no DNS subjectAltName).")
    return names


def _readable(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read the {what} {path}: {error.strerror}.") from error


def _refuse_passphrase(key: Path) -> NoReturn:
    raise ConfigError(f"The private key {key} is protected by a passphrase. Give one that is not.")
