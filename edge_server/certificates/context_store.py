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
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from certs.authority import DevelopmentAuthority

MAX_CONTEXTS: Final = 512
"""Contexts kept; each costs about 20 KiB. A name that was pushed out is minted or loaded again in a
millisecond, and its connections keep the context they have."""

MAX_SESSIONS: Final = 128
"""TLS 1.2 sessions (1 KiB each) that a context may remember before a fresh one takes its place. OpenSSL
remembers up to 20,480 a context, and Python has no switch for it."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secret and authenticated as a whole (RFC 9325 section 4.2); 1.3 has no others."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate is good, in seconds since the epoch."""

    names: frozenset[str]
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """One certificate of the operator's."""

    names: frozenset[str]
    cert: Path
    key: Path
    pem: bytes
    """Key and chain as they were read: files that are half replaced are nobody's certificate."""
    stamp: tuple[object, ...]
    """Of the files when they were read."""
    validity: Validity

    def covers(self, name: str) -> bool:
        return name in self.names or _wildcard_of(name) in self.names

    @property
    def place(self) -> str:
        """What its contexts are kept under."""
        return str(self.cert)


@dataclass(frozen=True, slots=True)
class _Issued:
    """One certificate that is no file of the operator's."""

    names: frozenset[str]
    place: str
    pem: bytes
    validity: Validity


class ContextStore:
    """Contexts for the names that the operator's files, ACME or a development authority cover."""

    def __init__(self, *, allow_wildcard_h2: bool = False, max_contexts: int = MAX_CONTEXTS) -> None:
        """``allow_wildcard_h2``: the operator knows that names of one certificate then share connections,
        as when all tunnels are one tenant's."""
        self._allow_wildcard_h2 = allow_wildcard_h2
        self._max_contexts = max_contexts
        self._pairs: list[_Pair] = []
        self._issued: dict[str, _Issued] = {}
        """By what they are called. There may be a thousand, so they are found by name:"""
        self._by_name: dict[str, _Issued] = {}
        self._alone: dict[str, _Issued] = {}
        """Those for one name and no other."""
        self._authority: DevelopmentAuthority | None = None
        self._domain = ""
        self._contexts: OrderedDict[tuple[str, bool], ssl.SSLContext] = OrderedDict()
        self._renewed: list[_Pair] = []
        self._seen: dict[Path, tuple[object, ...]] = {}
        """Stamps of files that were looked at, good or not."""

    def add_files(self, cert: Path, key: Path, domain: str = "") -> frozenset[str]:
        """Use a certificate chain and its key; the names it covers, which have to be those below ``domain``
        unless it is empty. ``ConfigError`` says what is wrong."""
        pair = _read(cert, key, domain)
        self._pairs.append(pair)
        self._seen[cert] = pair.stamp
        return pair.names

    def read_other(self, before: Path, cert: Path, key: Path, domain: str) -> Callable[[], None]:
        """Read other files that are to take the place of the certificate ``before``, in any thread; what is
        returned puts them in use, on the loop's. Raises ConfigError as :meth:`add_files`."""
        fresh = _read(cert, key, domain)

        def use() -> None:
            self._seen[cert] = fresh.stamp
            self._pairs = [fresh if pair.cert == before else pair for pair in self._pairs]
            for h2 in (False, True):
                self._contexts.pop((str(before), h2), None)
                self._contexts.pop((str(cert), h2), None)

        return use

    def allow_wildcard_h2(self, allow: bool) -> None:
        """As at the start, from now on."""
        self._allow_wildcard_h2 = allow

    def refresh(self) -> None:
        """Read files that were replaced, in any thread; :meth:`settle` has to follow on the loop's. Raises
        ConfigError, once for each replacement that cannot be used: what there was stays in use."""
        for pair in self._pairs:
            stamp = _stamp(pair.cert, pair.key)
            if stamp == self._seen[pair.cert]:
                continue
            self._seen[pair.cert] = stamp
            fresh = _read(pair.cert, pair.key)
            if lost := pair.names - fresh.names:
                raise ConfigError(f"The new {pair.cert} does not cover {min(lost)}, as the old one did.")
            self._renewed.append(fresh)

    def settle(self) -> frozenset[str]:
        """Meet visitors with what :meth:`refresh` has read; the names of what is new. Those who are in keep their
        connection."""
        renewed, self._renewed = self._renewed, []
        for fresh in renewed:
            self._pairs = [fresh if pair.cert == fresh.cert else pair for pair in self._pairs]
            for h2 in (False, True):
                self._contexts.pop((str(fresh.cert), h2), None)
        return frozenset(name for fresh in renewed for name in fresh.names)

    def add_authority(self, authority: DevelopmentAuthority, domain: str) -> frozenset[str]:
        """Mint for ``domain`` and the names one label below it, on demand."""
        self._authority = authority
        self._domain = domain
        return frozenset((domain, f"*.{domain}"))

    def validities(self) -> list[Validity]:
        """When those that visitors are met with are good; of a development authority, when it is itself."""
        found = [pair.validity for pair in self._pairs] + [issued.validity for issued in self._issued.values()]
        if self._authority is not None:
            names = frozenset((self._domain, f"*.{self._domain}"))
            found.append(validity_of(self._authority.certificate.read_bytes(), names))
        return found

    def hold(self, called: str, pem: bytes, names: Iterable[str]) -> None:
        """Meet visitors of these names with a key and its chain, in place of what was held before by what it is
        called. Those who are in keep their connection."""
        self.drop(called)
        known = frozenset(names)
        issued = self._issued[called] = _Issued(known, f"issued {called}", pem, validity_of(pem, known))
        for name in known:
            self._by_name[name] = issued
        if len(known) == 1:
            self._alone[called] = issued

    def drop(self, called: str) -> None:
        """Hold it no longer, if it was held."""
        issued = self._issued.pop(called, None)
        if issued is None:
            return
        self._alone.pop(called, None)
        for name in issued.names:
            if self._by_name.get(name) is issued:
                del self._by_name[name]
        for h2 in (False, True):
            self._contexts.pop((issued.place, h2), None)

    def minted_for(self, name: str, *, h2: bool) -> ssl.SSLContext | None:
        """The context with a certificate of the development authority for a name outside its domain; None where
        there is no authority. Only to be asked for a name that a lease holds: making one takes a millisecond."""
        if self._authority is None:
            return None
        return self._minted(name, (name,), h2=h2)

    @property
    def has_files(self) -> bool:
        """Whether the operator has given some."""
        return bool(self._pairs)

    @property
    def is_development(self) -> bool:
        """Whether a development authority vouches for whatever is asked for."""
        return self._authority is not None

    def covers(self, name: str, *, h2: bool) -> bool:
        """Whether visitors of ``name`` can be met now."""
        return self.h2_allowed(name) if h2 else self._mints(name) or self._pair_for(name) is not None

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
            pem = pair.pem
            return self._cached(pair.place, h2, lambda: _load(pem, h2=h2))
        if self._authority is None or not self._mints(name):
            return None
        names = (name,) if h2 else (f"*.{self._domain}", self._domain)
        return self._minted(names[0], names, h2=h2)

    def _minted(self, place: str, names: tuple[str, ...], *, h2: bool) -> ssl.SSLContext:
        authority = self._authority
        assert authority is not None
        return self._cached(place, h2, lambda: _load(b"".join(reversed(authority.issue(names))), h2=h2))

    def _pair_for(self, name: str) -> _Pair | _Issued | None:
        exact = (pair for pair in self._pairs if name in pair.names)
        if (found := next(exact, None) or self._by_name.get(name)) is not None:
            return found
        covering = (pair for pair in self._pairs if pair.covers(name))
        return next(covering, None) or self._by_name.get(_wildcard_of(name))

    def _own_pair(self, name: str) -> _Pair | _Issued | None:
        return next((pair for pair in self._pairs if pair.names == {name}), None) or self._alone.get(name)

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


def new_context(*, h2: bool) -> ssl.SSLContext:
    """A context without a certificate. Everything that a build of Python may have chosen otherwise (Debian's has
    OpenSSL's own versions and ciphers) is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # No tickets: one made under a certificate that several names share would be good for all of them.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"] if h2 else ["http/1.1"])
    return context


def load_pem(pem: bytes) -> ssl.SSLContext:
    """A context for a private key and its chain, for connections that are no tunnel's visitors."""
    return _load(pem, h2=False)


def _read(cert: Path, key: Path, domain: str = "") -> _Pair:
    """A certificate and its key, tried out; of all names below ``domain``, if it is given."""
    stamp = _stamp(cert, key)
    chain = _readable(cert, "certificate")
    names = _names_in(chain, cert)
    if domain and f"*.{domain}" not in names:
        raise ConfigError(
            f"--cert {cert} does not cover *.{domain}, the names of the tunnels (it covers "
            f"{', '.join(sorted(names))[:200]}); give a wildcard certificate or another --domain."
        )
    pem = _readable(key, "private key") + b"\n" + chain
    try:
        _load(pem, h2=False, passphrase=lambda: _refuse_passphrase(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"The private key {key} does not belong to the certificate {cert}.") from error
        raise ConfigError(f"Not a PEM private key for {cert}: {key}.") from error
    return _Pair(names, cert, key, pem, stamp, validity_of(chain, names))


def _stamp(cert: Path, key: Path) -> tuple[object, ...]:
    """What changes when either file is replaced or written; the same while one is not there."""
    found: list[object] = []
    for path in (cert, key):
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found += (status.st_ino, status.st_mtime_ns, status.st_size)
    return tuple(found)


def _load(pem: bytes, *, h2: bool, passphrase: Callable[[], NoReturn] | None = None) -> ssl.SSLContext:
    """A context for a private key and its chain."""
    context = new_context(h2=h2)
    # The ssl module loads from files only. This one is its owner's alone and gone after the call.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(pem)
        file.flush()
        # Without a password callback OpenSSL would stop and ask on the terminal.
        context.load_cert_chain(file.name, password=passphrase)
    return context


def _names_in(pem: bytes, cert: Path) -> frozenset[str]:
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


def validity_of(pem: bytes, names: Iterable[str] = ()) -> Validity:
    """When the first certificate in there is good, which is a host's own."""
    begin = pem.index(b"-----BEGIN CERTIFICATE-----")
    leaf = x509.load_pem_x509_certificate(pem[begin:])
    since, until = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return Validity(frozenset(names), since.timestamp(), until.timestamp())


def _readable(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read the {what} {path}: {error.strerror}.") from error


def _refuse_passphrase(key: Path) -> NoReturn:
    raise ConfigError(f"The private key {key} is protected by a passphrase. Give one that is not.")
