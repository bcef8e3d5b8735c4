"""Chromium without a screen: a real browser, on a profile of its own, that finds only the host it is told of."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Browser

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
    return [PROGRAM, *_OPTIONS, f"--user-data-dir={profile}", _resolving(f"MAP {host} {address}"), *more]


@contextlib.contextmanager
def driven(home: Path, *rules: str) -> Iterator[Browser]:
    """Browser driven by playwright, for the length of the body; skips where there is none. It reaches 127.0.0.1
    and what the ``rules`` lead there (``MAP NAME ADDRESS``). ``home``: an empty directory."""
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed")
    options = [*_OPTIONS, _resolving(*rules, after=["EXCLUDE 127.0.0.1", "EXCLUDE localhost"])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options, env=environment(home))
        yield browser
        browser.close()


def _resolving(*rules: str, after: Sequence[str] = ()) -> str:
    # Nothing leaves the machine, whatever the browser would like to ask its maker.
    return "--host-resolver-rules=" + ", ".join([*rules, "MAP * ~NOTFOUND", *after])


def environment(profile: Path) -> dict[str, str]:
    """Nothing of it is left in anybody's home."""
    return os.environ | {"HOME": str(profile)}


def trusting(certificate: bytes) -> str:
    """The option to take a certificate of this key, and no other, for a good one. ``certificate``: DER."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"
