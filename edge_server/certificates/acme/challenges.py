"""What validators of an ACME server are answered with while names are being proved.

Orders put their answers here from their threads; the edge's doors (TLS and HTTP) look them up on the loop's.
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

PROTOCOL: Final = "acme-tls/1"
"""The ALPN of a validator by tls-alpn-01 (RFC 8737 section 6.2)."""
MAX_ANSWERS: Final = 64
"""Of each kind at once: as many as the orders under way can have, and more than enough."""
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


class ChallengeStore:
    """See the module. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tls: dict[str, ssl.SSLContext] = {}
        self._http: dict[str, str] = {}

    @property
    def tls(self) -> Mapping[str, ssl.SSLContext]:
        """By the name that is being proved: what its validator is met with."""
        return self._tls

    @property
    def http(self) -> Mapping[str, str]:
        """By token: the key authorization."""
        return self._http

    def prove_by_tls(self, name: str, key_authorization: str) -> None:
        context = challenge_context(name, key_authorization)
        with self._lock:
            _make_room(self._tls)
            self._tls[name] = context

    def prove_by_http(self, token: str, key_authorization: str) -> None:
        with self._lock:
            _make_room(self._http)
            self._http[token] = key_authorization

    def forget(self, name_or_token: str) -> None:
        with self._lock:
            self._tls.pop(name_or_token, None)
            self._http.pop(name_or_token, None)


def _make_room(answers: dict[str, ssl.SSLContext] | dict[str, str]) -> None:
    while len(answers) >= MAX_ANSWERS:
        del answers[next(iter(answers))]


def challenge_context(name: str, key_authorization: str) -> ssl.SSLContext:
    """What RFC 8737 section 3 wants a validator to see: a certificate for the name alone that signs itself and
    carries the hash of the key authorization."""
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
    context.set_alpn_protocols([PROTOCOL])
    return context
