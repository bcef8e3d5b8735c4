"""Issued certificates on disk: each with its key in one file of the state directory, with mode 0600."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_server.certificates.acme.errors import AcmeError
from quictunnel.shared.files import make_directory, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

MAX_STORED: Final = 1000
"""Certificates read at a start; as many as the edge manages."""
MAX_FILE: Final = 256 * 1024
"""Bytes of one file; a key and a chain have 10 KiB."""
_KEY_ENDS: Final = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """An issued certificate. Created by :meth:`from_pem`, which checks that its parts match."""

    names: tuple[str, ...]
    """Names in the order of the request; the first one is the identifier."""
    chain: bytes
    key: bytes
    not_before: float
    """Seconds since the epoch, like ``not_after``."""
    not_after: float

    @classmethod
    def from_pem(cls, chain: bytes, key: bytes, names: Sequence[str]) -> IssuedCertificate:
        """Check a chain and a key in PEM. Raises AcmeError if the chain is invalid, does not cover the names, or
        belongs to another key."""
        if len(chain) + len(key) > MAX_FILE:
            raise AcmeError(f"The certificate is larger than {MAX_FILE} bytes.")
        try:
            leaf = x509.load_pem_x509_certificate(chain)
            covered = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            is_its_key = load_pem_private_key(key, None).public_key() == leaf.public_key()
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise AcmeError(f"The certificate cannot be read: {error}.") from None
        found = {name.lower() for name in covered.get_values_for_type(x509.DNSName)}
        if missing := [name for name in names if name not in found]:
            raise AcmeError(f"The certificate does not cover {missing[0]}, for which it was ordered.")
        if not is_its_key:
            raise AcmeError("The certificate is for another key than the one in the order.")
        return cls(
            tuple(names), chain, key, leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        )

    @property
    def lifetime(self) -> float:
        """Lifetime in seconds."""
        return self.not_after - self.not_before


class CertificateFiles:
    """A directory of issued certificates, created with mode 0700 when it is needed. Blocks."""

    def __init__(self, directory: Path) -> None:
        """``directory`` need not exist."""
        self._directory = directory

    def save(self, issued: IssuedCertificate) -> None:
        """Write a certificate. Raises OSError."""
        make_directory(self._directory)
        replace_file(self._path(issued.names[0]), issued.key + issued.chain)

    def remove(self, name: str) -> None:
        """Delete the certificate of a name, if there is one. Raises OSError."""
        self._path(name).unlink(missing_ok=True)

    def load(self) -> Iterator[IssuedCertificate]:
        """Yield all readable certificates; log the others, and leave them where they are."""
        paths = sorted(self._directory.glob("*.pem")) if self._directory.is_dir() else []
        for path in paths[:MAX_STORED]:
            try:
                with path.open("rb") as file:
                    pem = file.read(MAX_FILE + 1)
                key, end, chain = pem.partition(_KEY_ENDS)
                names = _names_in(chain, called=path.stem.replace("_", "*"))
                yield IssuedCertificate.from_pem(chain, key + end, names)
            except (AcmeError, OSError) as error:
                logger.warning("%s does not contain a certificate with its key and is ignored: %s", path, error)

    def _path(self, name: str) -> Path:
        # Not all systems allow an asterisk in file names; host names never contain an underscore.
        return self._directory / f"{name.replace('*', '_')}.pem"


def folder_name(directory_url: str) -> str:
    """Return the folder name for an ACME server, unique for each directory URL."""
    host = re.sub(r"[^a-z0-9.-]", "", (urlsplit(directory_url).hostname or "").lower())[:100]
    return f"{host}-{hashlib.sha256(directory_url.encode()).hexdigest()[:12]}"


def _names_in(chain: bytes, called: str) -> tuple[str, ...]:
    try:
        leaf = x509.load_pem_x509_certificate(chain)
        covered = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise AcmeError(f"the chain cannot be parsed ({error})") from None
    found = sorted(name.lower() for name in covered.get_values_for_type(x509.DNSName))
    return (called, *(name for name in found if name != called))
