"""Chromium without a screen: a real browser, on a profile of its own, that finds only the host it is told of."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM: Final = "chromium"

_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # which root has to do without
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def command(profile: Path, host: str, address: str, *more: str) -> list[str]:
    """Its command line. ``profile``: an empty directory; ``address``: where the host is, with a port or without;
    ``more``: options, and what to show."""
    return [
        PROGRAM,
        *_OPTIONS,
        f"--user-data-dir={profile}",
        # Nothing leaves the machine, whatever the browser would like to ask its maker.
        f"--host-resolver-rules=MAP {host} {address}, MAP * ~NOTFOUND",
        *more,
    ]


def environment(profile: Path) -> dict[str, str]:
    """Nothing of it is left in anybody's home."""
    return os.environ | {"HOME": str(profile)}


def trusting(certificate: bytes) -> str:
    """The option to take a certificate of this key, and no other, for a good one. ``certificate``: DER."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"
