"""Translation of the engine's settings into aioquic's configuration."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING, Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import Alert, AlertDescription, CipherSuite
from cryptography.hazmat.primitives.serialization import Encoding

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioquic.tls import Certificate, Context
    from cryptography import x509

    from quictunnel.transport.engine import EngineSettings

# AES with the shorter key first: it is the cheapest with AES in hardware, and the machines of this engine have
# that.
CIPHERS = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]


FINGERPRINT_BYTES: Final = 32
"""Bytes of a SHA-256 fingerprint."""
MAX_CHAIN: Final = 8
"""Certificates of a chain that are compared with a pin. An edge sends two."""


class UnknownAuthorityAlert(Alert):
    """The chain does not have the pinned authority (RFC 8446 section 6.2)."""

    description = AlertDescription.unknown_ca


def pinned_authority(chain: Sequence[x509.Certificate], pin: bytes) -> bytes:
    """Return the certificate of a chain, without its leaf, that has the SHA-256 fingerprint ``pin``, in PEM.

    The fingerprint alone proves nothing, because certificates are public: the leaf has to be verified with the
    result as the only authority. Raises UnknownAuthorityAlert if there is none.
    """
    for each in chain[:MAX_CHAIN]:
        if hashlib.sha256(each.public_bytes(Encoding.DER)).digest() == pin:
            return each.public_bytes(Encoding.PEM)
    raise UnknownAuthorityAlert("the certificate authority is not the expected one")


def trust_pinned(context: Context, pin: bytes) -> None:
    """Let a client's TLS trust the certificate with this fingerprint in the server's chain, and no other."""
    take_certificates = context._set_peer_certificate

    def take_and_trust(certificate: Certificate) -> None:
        take_certificates(certificate)
        context._cadata = pinned_authority(context._peer_certificate_chain, pin)

    # aioquic calls it through the object, when the server's certificates have arrived and before it verifies them.
    context._set_peer_certificate = take_and_trust  # type: ignore[method-assign]  # of this object


def configure(settings: EngineSettings, server_name: str | None = None) -> QuicConfiguration:
    """Return the configuration of an engine's connections, or of one outgoing connection.

    Raises:
        ConfigError: a certificate file cannot be read.
    """
    configuration = QuicConfiguration(
        is_client=not settings.is_server,
        alpn_protocols=[settings.alpn],
        cipher_suites=CIPHERS,
        idle_timeout=settings.idle_timeout,
        max_data=1,  # the connection sets its own limits
        max_stream_data=1,
        server_name=server_name,
        # Version 2 differs only in constants, and would have to be negotiated.
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )
    if settings.is_server:
        _load_certificate(configuration, settings)
    else:
        configuration.verify_mode = ssl.CERT_REQUIRED
        _load_authority(configuration, settings)
    return configuration


def _load_certificate(configuration: QuicConfiguration, settings: EngineSettings) -> None:
    if settings.certificate is None or settings.private_key is None:
        raise ConfigError("The server side of QUIC needs a certificate and its private key; none was given.")
    try:
        configuration.load_cert_chain(settings.certificate, settings.private_key)
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(
            f"The certificate {settings.certificate} or its key {settings.private_key} cannot be read: "
            f"{error}. Both must be PEM files, the key without a passphrase."
        ) from error


def _load_authority(configuration: QuicConfiguration, settings: EngineSettings) -> None:
    if settings.pin:
        if len(settings.pin) != FINGERPRINT_BYTES:
            raise ConfigError(f"The fingerprint of an authority must have {FINGERPRINT_BYTES} bytes.")
        configuration.cadata = b""  # trusts nobody; the connection takes the pinned certificate from the chain
        return
    if settings.authority is None:
        # aioquic would use its own bundle instead of the system's store.
        paths = ssl.get_default_verify_paths()
        configuration.cafile, configuration.capath = paths.cafile, paths.capath
        return
    try:
        configuration.cadata = settings.authority.read_bytes()
        ssl.create_default_context(cadata=configuration.cadata.decode("ascii"))
    except (OSError, ValueError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificate authority {settings.authority} cannot be read: {error}. It must be a PEM file."
        ) from error
