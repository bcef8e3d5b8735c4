"""TLS contexts by host name and protocol.

The rule of this module: **with h2, a name gets a certificate for itself alone.** A browser with an h2 connection
sends requests for all other names of its certificate over the same connection (RFC 9113 section 9.1.1). Under one
wildcard certificate that would deliver one tenant's requests to another. Connections of http/1.1 are never shared
like that, so one wildcard serves all names there.

Does not depend on sockets, leases and visitors.
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

    from edge_server.certificates.authority import DevelopmentAuthority

MAX_CONTEXTS: Final = 512
"""Contexts in the cache, about 20 KiB each. A context that was evicted is created again in a millisecond, and its
connections keep the one they have."""

MAX_SESSIONS: Final = 128
"""TLS 1.2 sessions (1 KiB each) that a context may cache before a new context replaces it. OpenSSL caches up to
20,480 per context, and Python has no setting for it."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Cipher suites of TLS 1.2: forward secrecy and AEAD (RFC 9325 section 4.2); TLS 1.3 has no others."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Validity period of a certificate, in seconds since the epoch."""

    names: frozenset[str]
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class _FileCertificate:
    """A certificate of the operator, with its key."""

    names: frozenset[str]
    cert: Path
    key: Path
    pem: bytes
    """Key and chain as they were read. Contexts are built from it, because files that are half replaced do not
    match."""
    stamp: tuple[object, ...]
    """State of the files when they were read."""
    validity: Validity

    def covers(self, name: str) -> bool:
        """Return True if a name of the certificate matches, wildcards included."""
        return name in self.names or _wildcard_of(name) in self.names

    @property
    def cache_key(self) -> str:
        """Cache key of its contexts."""
        return str(self.cert)


@dataclass(frozen=True, slots=True)
class _IssuedCertificate:
    """A certificate that is not a file of the operator."""

    names: frozenset[str]
    cache_key: str
    pem: bytes
    validity: Validity


class ContextStore:
    """TLS contexts for the names covered by the operator's files, by ACME or by a development authority."""

    def __init__(self, *, allow_wildcard_h2: bool = False, max_contexts: int = MAX_CONTEXTS) -> None:
        """Start without certificates. ``allow_wildcard_h2``: the operator accepts that the names of one
        certificate share connections, for example because all tunnels belong to one tenant."""
        self._allow_wildcard_h2 = allow_wildcard_h2
        self._max_contexts = max_contexts
        self._files: list[_FileCertificate] = []
        self._issued: dict[str, _IssuedCertificate] = {}
        """Issued certificates by their identifier."""
        self._by_name: dict[str, _IssuedCertificate] = {}
        """Issued certificates by host name: an index, because there may be a thousand."""
        self._exact: dict[str, _IssuedCertificate] = {}
        """Certificates for exactly one name."""
        self._authority: DevelopmentAuthority | None = None
        self._domain = ""
        self._contexts: OrderedDict[tuple[str, bool], ssl.SSLContext] = OrderedDict()
        self._refreshed: list[_FileCertificate] = []
        self._stamps: dict[Path, tuple[object, ...]] = {}
        """Stamps of files that were read, valid or not."""

    def add_files(self, cert: Path, key: Path, domain: str = "") -> frozenset[str]:
        """Use a certificate chain and its key.

        Args:
            cert: PEM file of the chain.
            key: PEM file of the key.
            domain: the certificate has to cover the names below it; empty: any.

        Returns:
            The covered names.

        Raises:
            ConfigError: the files cannot be used.
        """
        found = _read_files(cert, key, domain)
        self._files.append(found)
        self._stamps[cert] = found.stamp
        return found.names

    def load_replacement(self, before: Path, cert: Path, key: Path, domain: str) -> Callable[[], None]:
        """Read files that are to replace the certificate ``before``, in any thread. Return a function that puts
        them in use; call it on the event loop's thread. Raises ConfigError as :meth:`add_files`."""
        fresh = _read_files(cert, key, domain)

        def use() -> None:
            self._stamps[cert] = fresh.stamp
            self._files = [fresh if file.cert == before else file for file in self._files]
            for h2 in (False, True):
                self._contexts.pop((str(before), h2), None)
                self._contexts.pop((str(cert), h2), None)

        return use

    def allow_wildcard_h2(self, allow: bool) -> None:
        """Change the setting of the constructor."""
        self._allow_wildcard_h2 = allow

    def refresh(self) -> None:
        """Read files that were replaced, in any thread; call :meth:`apply_refresh` on the loop's thread next.

        Raises:
            ConfigError: a replacement cannot be used, raised once for each; the previous certificate stays
                in use.
        """
        for file in self._files:
            stamp = _stamp(file.cert, file.key)
            if stamp == self._stamps[file.cert]:
                continue
            self._stamps[file.cert] = stamp
            fresh = _read_files(file.cert, file.key)
            if lost := file.names - fresh.names:
                raise ConfigError(f"The new {file.cert} does not cover {min(lost)}, which the old one covered.")
            self._refreshed.append(fresh)

    def apply_refresh(self) -> frozenset[str]:
        """Put the files that :meth:`refresh` read in use. Return the names of the new certificates. Existing
        connections are not affected."""
        renewed, self._refreshed = self._refreshed, []
        for fresh in renewed:
            self._files = [fresh if file.cert == fresh.cert else file for file in self._files]
            for h2 in (False, True):
                self._contexts.pop((str(fresh.cert), h2), None)
        return frozenset(name for fresh in renewed for name in fresh.names)

    def add_ca(self, authority: DevelopmentAuthority, domain: str) -> frozenset[str]:
        """Issue certificates for ``domain`` and the names one label below it on demand. Return the covered
        names."""
        self._authority = authority
        self._domain = domain
        return frozenset((domain, f"*.{domain}"))

    def validities(self) -> list[Validity]:
        """Return the validity periods of all certificates in use; for a development authority, that of the
        authority."""
        found = [file.validity for file in self._files] + [issued.validity for issued in self._issued.values()]
        if self._authority is not None:
            names = frozenset((self._domain, f"*.{self._domain}"))
            found.append(validity_of(self._authority.certificate.read_bytes(), names))
        return found

    def set_issued(self, identifier: str, pem: bytes, names: Iterable[str]) -> None:
        """Use an issued certificate in place of the previous one with the same identifier. Existing connections
        are not affected.

        Args:
            identifier: key of the certificate in this store.
            pem: key and chain.
            names: covered host names.
        """
        self.remove_issued(identifier)
        known = frozenset(names)
        issued = self._issued[identifier] = _IssuedCertificate(
            known, f"issued {identifier}", pem, validity_of(pem, known)
        )
        for name in known:
            self._by_name[name] = issued
        if len(known) == 1:
            self._exact[identifier] = issued

    def remove_issued(self, identifier: str) -> None:
        """Stop using an issued certificate, if there is one."""
        issued = self._issued.pop(identifier, None)
        if issued is None:
            return
        self._exact.pop(identifier, None)
        for name in issued.names:
            if self._by_name.get(name) is issued:
                del self._by_name[name]
        for h2 in (False, True):
            self._contexts.pop((issued.cache_key, h2), None)

    def custom_context(self, name: str, *, h2: bool) -> ssl.SSLContext | None:
        """Return a context with a certificate of the development authority for a name outside its domain; None
        without an authority. Call it only for names that a lease holds: each new one takes a millisecond."""
        if self._authority is None:
            return None
        return self._issue_context(name, (name,), h2=h2)

    @property
    def has_files(self) -> bool:
        """True if the operator has configured certificate files."""
        return bool(self._files)

    @property
    def is_development(self) -> bool:
        """True if a development authority issues certificates on demand."""
        return self._authority is not None

    def covers(self, name: str, *, h2: bool) -> bool:
        """Return True if a context for ``name`` is available."""
        return self.h2_allowed(name) if h2 else self._can_issue(name) or self._find(name) is not None

    def h2_allowed(self, name: str) -> bool:
        """Return True if ``name`` may use h2: with a certificate of its own, or where the operator allowed a
        shared one."""
        if self._can_issue(name) or self._exact_certificate(name) is not None:
            return True
        return self._allow_wildcard_h2 and self._find(name) is not None

    def context_for(self, name: str, *, h2: bool) -> ssl.SSLContext | None:
        """Return the context for a lower-case ``name``; None if no certificate covers it, or none that h2 may use.

        Call it for each visitor: a context whose session cache is full is then replaced.
        """
        if h2 and not self.h2_allowed(name):
            return None
        found = self._exact_certificate(name) or self._find(name)
        if h2 and found is not None and self._can_issue(name) and found.names != {name}:
            found = None  # prefer one issued for this name alone
        if found is not None:
            pem = found.pem
            return self._cached(found.cache_key, h2, lambda: _context_from(pem, h2=h2))
        if self._authority is None or not self._can_issue(name):
            return None
        names = (name,) if h2 else (f"*.{self._domain}", self._domain)
        return self._issue_context(names[0], names, h2=h2)

    def shared_context(self, name: str, domain: str) -> ssl.SSLContext | None:
        """Return the context, without h2, of the certificate for all names below the edge's ``domain``; None if
        there is none, or ``name`` is not covered. Certificates for ``name`` alone are not considered."""
        if domain not in (name, name.partition(".")[2]):
            return None
        wildcard = f"*.{domain}"
        files = (file for file in self._files if wildcard in file.names)
        found = next(files, None) or self._by_name.get(wildcard)
        if found is not None:
            pem = found.pem
            is_covered = name != domain or domain in found.names
            return (
                self._cached(found.cache_key, False, lambda: _context_from(pem, h2=False)) if is_covered else None
            )
        return self._issue_context(wildcard, (wildcard, domain), h2=False) if self._can_issue(name) else None

    def _issue_context(self, cache_key: str, names: tuple[str, ...], *, h2: bool) -> ssl.SSLContext:
        authority = self._authority
        assert authority is not None
        return self._cached(
            cache_key, h2, lambda: _context_from(b"".join(reversed(authority.issue(names))), h2=h2)
        )

    def _find(self, name: str) -> _FileCertificate | _IssuedCertificate | None:
        exact = (file for file in self._files if name in file.names)
        if (found := next(exact, None) or self._by_name.get(name)) is not None:
            return found
        covering = (file for file in self._files if file.covers(name))
        return next(covering, None) or self._by_name.get(_wildcard_of(name))

    def _exact_certificate(self, name: str) -> _FileCertificate | _IssuedCertificate | None:
        return next((file for file in self._files if file.names == {name}), None) or self._exact.get(name)

    def _can_issue(self, name: str) -> bool:
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
    """Return a server context without a certificate. Every setting that builds of Python choose differently
    (Debian's has OpenSSL's own versions and ciphers) is set explicitly."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # No tickets: a ticket from a certificate of several names would be valid for all of them.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"] if h2 else ["http/1.1"])
    return context


def load_pem(pem: bytes) -> ssl.SSLContext:
    """Return a context for a private key and its chain, for connections that are not visitors of a tunnel."""
    return _context_from(pem, h2=False)


def _read_files(cert: Path, key: Path, domain: str = "") -> _FileCertificate:
    """Read a certificate and its key, and check them; with ``domain``, also that they cover all names below it."""
    stamp = _stamp(cert, key)
    chain = _read_file(cert, "certificate")
    names = _names_in(chain, cert)
    if domain and f"*.{domain}" not in names:
        raise ConfigError(
            f"--cert {cert} does not cover *.{domain}, the names of the tunnels (it covers "
            f"{', '.join(sorted(names))[:200]}); use a wildcard certificate or another --domain."
        )
    pem = _read_file(key, "private key") + b"\n" + chain
    try:
        _context_from(pem, h2=False, passphrase=lambda: _refuse_passphrase(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"The private key {key} does not belong to the certificate {cert}.") from error
        raise ConfigError(f"Not a PEM private key for {cert}: {key}.") from error
    return _FileCertificate(names, cert, key, pem, stamp, validity_of(chain, names))


def _stamp(cert: Path, key: Path) -> tuple[object, ...]:
    """Return a value that changes when either file is replaced or written, and is constant while one is
    missing."""
    found: list[object] = []
    for path in (cert, key):
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found += (status.st_ino, status.st_mtime_ns, status.st_size)
    return tuple(found)


def _context_from(pem: bytes, *, h2: bool, passphrase: Callable[[], NoReturn] | None = None) -> ssl.SSLContext:
    """Return a context for a private key and its chain."""
    context = new_context(h2=h2)
    # The ssl module loads from files only. This one has mode 0600 and is removed after the call.
    # shared.files is for files that stay.
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
    """Return the validity of the first certificate in ``pem``, which is the leaf."""
    begin = pem.index(b"-----BEGIN CERTIFICATE-----")
    leaf = x509.load_pem_x509_certificate(pem[begin:])
    since, until = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return Validity(frozenset(names), since.timestamp(), until.timestamp())


def _read_file(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read the {what} {path}: {error.strerror}.") from error


def _refuse_passphrase(key: Path) -> NoReturn:
    raise ConfigError(f"The private key {key} is protected by a passphrase. Use an unencrypted key.")
