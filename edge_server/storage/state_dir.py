"""The state directory: what an edge keeps between runs, and ``client.env`` while it serves.

Secrets are created with mode 0600 in a directory of mode 0700, and never replaced.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.files import create_once, make_directory, replace_file
from quictunnel.shared.paths import CLIENT_ENV
from quictunnel.wire.messages import MAX_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIN_TOKEN: Final = 16
"""Characters of a token that an operator chose. A shorter one is a truncated file, or guessable."""
KEY_BYTES: Final = 32
PUBLIC_ADDRESS: Final = "public-address"
"""Name of the file with the address of the QUIC socket for clients on other machines."""

DOMAIN: Final = "domain"
"""Name of the file with the domain of the tunnels."""
OPERATOR_FILE: Final = "token"
"""Name of the file with the operator's token."""


class StateDir:
    """The state directory of one edge. Its methods raise ConfigError when it cannot be used; the message says what
    to do."""

    def __init__(self, path: Path) -> None:
        """Create the directory if it is missing, and check that it is writable."""
        self.path = path
        try:
            make_directory(path)
            # It leaves an existing directory as it was, and a umask may have removed permissions: write a
            # file to find out.
            probe = path / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"The state directory {path} cannot be written ({error.strerror}); choose another (--state-dir)."
            ) from None

    def token(self, make: Callable[[], str]) -> str:
        """Return the token of this edge's own clients, created on first use. An operator may have put one
        there."""
        return self.secret_token(OPERATOR_FILE, make)

    def existing_token(self) -> str:
        """Return the token of this edge's own clients; empty before the first start."""
        return self.secret_token(OPERATOR_FILE, str) if (self.path / OPERATOR_FILE).exists() else ""

    def secret_token(self, name: str, make: Callable[[], str]) -> str:
        """Return the token in the file ``name``, created on first use."""
        content = self._secret(name, lambda: make().encode()).removeprefix(codecs.BOM_UTF8).strip()
        # An empty file, left behind by a full disk, must not become a token that everybody knows.
        if not MIN_TOKEN <= len(content) <= MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in content):
            raise ConfigError(
                f"{self.path / name} is no token of {MIN_TOKEN} to {MAX_TOKEN} printable ASCII characters; "
                "remove it and a new one will be made."
            )
        return content.decode()

    def keep_public_address(self, address: str) -> None:
        """Write ``host:port`` that clients on other machines use, for credentials; empty if it is unknown.

        The file outlives the edge, because tokens may be created while it is off.
        """
        try:
            replace_file(self.path / PUBLIC_ADDRESS, f"{address}\n".encode(), durable=False)
        except OSError as error:
            raise ConfigError(f"{self.path / PUBLIC_ADDRESS} cannot be written ({error.strerror}).") from None

    def public_address(self) -> str:
        """Return ``host:port`` that clients on other machines use, as of the last start of the edge; empty if it
        is unknown."""
        return self._content(PUBLIC_ADDRESS)

    def keep_domain(self, domain: str) -> None:
        """Write the edge's domain, for the operator's commands. The file outlives the edge."""
        try:
            replace_file(self.path / DOMAIN, f"{domain}\n".encode(), durable=False)
        except OSError as error:
            raise ConfigError(f"{self.path / DOMAIN} cannot be written ({error.strerror}).") from None

    def domain(self) -> str:
        """Return the domain of the edge, as of its last start; empty if none has run here."""
        return self._content(DOMAIN)

    def key(self, name: str) -> bytes:
        """Return the secret key ``name`` of this edge, created on first use."""
        key = self._secret(f"{name}.key", lambda: secrets.token_bytes(KEY_BYTES))
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{self.path / name}.key is damaged; remove it and a new one will be made.")
        return key

    def _content(self, name: str) -> str:
        """Return the line in a file; empty if there is no such file."""
        try:
            return (self.path / name).read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigError(f"{self.path / name} cannot be read ({error.strerror}).") from None

    def _secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.path / name
        try:
            if not path.exists():
                create_once(path, make())
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read or made ({error.strerror}).") from None

    def publish(self, *, edge: str, token: str, ca: Path) -> ClientEnv:
        """Write ``client.env``, the settings of a client on this machine."""
        text = f"QUICTUNNEL_EDGE={edge}\nQUICTUNNEL_TOKEN={token}\nQUICTUNNEL_CA={ca}\n"
        try:
            return ClientEnv(self.path / CLIENT_ENV, text.encode())
        except OSError as error:
            raise ConfigError(f"{self.path / CLIENT_ENV} cannot be written ({error.strerror}).") from None


class ClientEnv:
    """A file such as ``client.env`` that exists while this edge serves."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Write the file atomically, replacing one of another edge. Raises OSError."""
        self.path = path
        self._written = replace_file(path, content, durable=False)

    def withdraw(self) -> None:
        """Remove the file, unless another edge has replaced it.

        A successor may replace it at any moment, also between two steps of this function, and its file must stay.
        So the file is moved aside first, then looked at, and put back if it is another edge's.
        """
        aside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        # A missing or read-only directory must not prevent the edge from stopping.
        with contextlib.suppress(OSError):
            if not self._is_own(self.path):
                return
            self.path.rename(aside)
            try:
                if not self._is_own(aside):
                    self.path.hardlink_to(aside)  # unless a still later edge has written its own
            finally:
                aside.unlink()

    def _is_own(self, path: Path) -> bool:
        found = path.stat()
        # The number of a removed file may be used again, so its time counts as well.
        return os.path.samestat(found, self._written) and found.st_mtime_ns == self._written.st_mtime_ns
