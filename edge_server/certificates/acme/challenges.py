"""Responses to the challenges of an ACME server while names are being validated.

Orders add their responses from their threads; the listeners (TLS and HTTP) look them up on the event loop's
thread.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge_server.certificates.context_store import load_pem

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

ALPN_PROTOCOL: Final = "acme-tls/1"
"""ALPN of a tls-alpn-01 validation (RFC 8737 section 6.2)."""
MAX_CHALLENGES: Final = 64
"""Challenges of each kind at once; more than the concurrent orders can have."""
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""OID of the acmeIdentifier extension (RFC 8737 section 6.1)."""


class ChallengeStore:
    """The pending challenge responses. Safe in any thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._tls: dict[str, ssl.SSLContext] = {}
        self._http: dict[str, str] = {}

    @property
    def tls(self) -> Mapping[str, ssl.SSLContext]:
        """TLS contexts for validations by tls-alpn-01, by host name."""
        return self._tls

    @property
    def http(self) -> Mapping[str, str]:
        """Key authorizations for validations by http-01, by token."""
        return self._http

    def add_tls_alpn(self, name: str, key_authorization: str) -> None:
        """Add a response for tls-alpn-01."""
        context = challenge_context(name, key_authorization)
        with self._lock:
            _evict_oldest(self._tls)
            self._tls[name] = context

    def add_http(self, token: str, key_authorization: str) -> None:
        """Add a response for http-01."""
        with self._lock:
            _evict_oldest(self._http)
            self._http[token] = key_authorization

    def remove(self, name_or_token: str) -> None:
        """Remove the response for a name or a token."""
        with self._lock:
            self._tls.pop(name_or_token, None)
            self._http.pop(name_or_token, None)


def _evict_oldest(responses: dict[str, ssl.SSLContext] | dict[str, str]) -> None:
    while len(responses) >= MAX_CHALLENGES:
        del responses[next(iter(responses))]


def challenge_context(name: str, key_authorization: str) -> ssl.SSLContext:
    """Return the TLS context of RFC 8737 section 3: a self-signed certificate for the name alone, with the hash of
    the key authorization."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    digest = hashlib.sha256(key_authorization.encode()).digest()
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        # An OCTET STRING of 32 bytes in DER.
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = load_pem(pem + certificate.public_bytes(Encoding.PEM))
    context.set_alpn_protocols([ALPN_PROTOCOL])
    return context
