"""A headless Chromium with a profile of its own, which resolves only the given host."""

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
    "--no-sandbox",  # root cannot use the sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def command(profile: Path, host: str, address: str, *more: str) -> list[str]:
    """Return the command line.

    Args:
        profile: an empty directory.
        host: name that the browser can resolve.
        address: address of the host, with or without a port.
        more: options, and the page to show.
    """
    return [PROGRAM, *_OPTIONS, f"--user-data-dir={profile}", _resolving(f"MAP {host} {address}"), *more]


@contextlib.contextmanager
def driven(home: Path, *rules: str) -> Iterator[Browser]:
    """Run a browser under playwright during a ``with`` block. Skips the test if there is none.

    It reaches 127.0.0.1 and the hosts of ``rules`` (``MAP NAME ADDRESS``). ``home`` is an empty directory.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed")
    options = [*_OPTIONS, _resolving(*rules, after=["EXCLUDE 127.0.0.1", "EXCLUDE localhost"])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options, env=environment(home))
        yield browser
        browser.close()


def _resolving(*rules: str, after: Sequence[str] = ()) -> str:
    # The browser must not connect to other hosts.
    return "--host-resolver-rules=" + ", ".join([*rules, "MAP * ~NOTFOUND", *after])


def environment(profile: Path) -> dict[str, str]:
    """Return the environment, with ``profile`` as the home directory."""
    return os.environ | {"HOME": str(profile)}


def trusting(certificate: bytes) -> str:
    """Return the option to trust certificates with this key, and no other. ``certificate`` is in DER."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"
