"""The account at an ACME server: its key and its URL, both stored in the state directory."""

from __future__ import annotations

import base64
import json
import logging
import threading
from typing import TYPE_CHECKING, Final

from acme import client, errors, messages
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from josepy.jwk import JWKEC

from edge_server.certificates.acme.errors import AcmeError, printable
from edge_server.certificates.acme.settings import read_secret
from quictunnel.shared.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from josepy.jwk import JWK

    from edge_server.certificates.acme.settings import AcmeSettings

logger = logging.getLogger(__name__)

MAX_FILE: Final = 16 * 1024
"""Bytes of either file; ours have a few hundred."""


class Account:
    """An account in one directory. Raises AcmeError when a file is damaged; the message says what to do."""

    def __init__(self, directory: Path, settings: AcmeSettings) -> None:
        """``directory`` is where the files are; ``settings`` has the server and the e-mail address."""
        self._settings = settings
        self._key_file = directory / "account.key"
        self._uri_file = directory / "account.json"
        self._lock = threading.Lock()
        """Serialises orders that start together, so that one of them creates the key and the account."""

    @property
    def key(self) -> JWKEC:
        """Account key, created on first use: P-256, for ES256 (RFC 7518 section 3.4)."""
        try:
            with self._lock:
                if not self._key_file.exists():
                    fresh = ec.generate_private_key(ec.SECP256R1())
                    pem = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                    replace_file(self._key_file, pem)
            key = load_pem_private_key(_read(self._key_file), None)
        except OSError as error:
            raise AcmeError(f"{self._key_file} cannot be used: {error.strerror or error}.") from None
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AcmeError(f"{self._key_file} holds no valid account key; remove it to create a new account.")
        return JWKEC(key=key)

    def sign_in(self, acme: client.ClientV2) -> None:
        """Select this account for further requests; register one if there is none."""
        key = self.key
        with self._lock:
            uri = self._read_uri()
            if uri is None:
                uri = self._register(acme, key)
                self._write_uri(uri)
        acme.net.account = messages.RegistrationResource(uri=uri, body=messages.Registration())

    def forget(self) -> None:
        """Remove the URL, because the server does not know it; the key stays."""
        self._uri_file.unlink(missing_ok=True)

    @property
    def replacement_hint(self) -> str:
        """Advice for the case that the server no longer accepts the account."""
        return f"For another account remove {self._key_file} and {self._uri_file.name}."

    def _register(self, acme: client.ClientV2, key: JWK) -> str:
        binding = None
        if self._settings.binding is not None:
            secret = read_secret(self._settings.binding.secret, "--acme-eab-key", url_safe=True)
            binding = messages.ExternalAccountBinding.from_data(
                account_public_key=key.public_key(),
                kid=self._settings.binding.key_id,
                hmac_key=base64.urlsafe_b64encode(secret).decode().rstrip("="),
                directory=acme.directory,
            )
        elif acme.external_account_required():
            raise AcmeError(f"{self._settings.directory} requires an existing account: set --acme-eab.")
        registration = messages.NewRegistration.from_data(
            email=self._settings.email, terms_of_service_agreed=True, external_account_binding=binding
        )
        try:
            uri = str(acme.new_account(registration).uri or "")
        except errors.ConflictError as known:
            uri = str(known.location)
        if not uri:
            raise AcmeError("The ACME server created an account but sent no URL for it.")
        logger.info("registered an ACME account at %s: %s", self._settings.directory, printable(uri))
        return uri

    def _read_uri(self) -> str | None:
        try:
            uri = json.loads(_read(self._uri_file))["uri"]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AcmeError(f"{self._uri_file} cannot be read: {error.strerror or error}.") from None
        except (ValueError, KeyError, TypeError):
            return None  # the server knows the key, and sends the URL again
        return uri if isinstance(uri, str) else None

    def _write_uri(self, uri: str) -> None:
        try:
            replace_file(self._uri_file, json.dumps({"uri": uri}).encode())
        except OSError as error:
            raise AcmeError(f"{self._uri_file} cannot be written: {error.strerror or error}.") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)
