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
from quictunnel.shared.paths import CLIENT_ENV
from quictunnel.wire.messages import MAX_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIN_TOKEN: Final = 16
"""Characters of a token that an operator chose; anything shorter is a file that was cut off, or guessable."""
KEY_BYTES: Final = 32


class StateDir:
    """One edge's directory. Raises ConfigError when it cannot be used, with the one thing to do about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkdir leaves an existing directory as it was, and a umask may have widened nothing but narrowed
            # everything: what matters is that it can be written.
            probe = path / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"The state directory {path} cannot be written ({error.strerror}); choose another (--state-dir)."
            ) from None

    def token(self, make: Callable[[], str]) -> str:
        """Return the token of this edge's own clients, as :meth:`secret_token` does from the file ``token``."""
        return self.secret_token("token", make)

    def secret_token(self, name: str, make: Callable[[], str]) -> str:
        """Return the token in the file ``name``, which an operator may have written.

        Without that file ``make`` is called, and its token is kept there. Raises ConfigError.
        """
        content = self._secret(name, lambda: make().encode()).removeprefix(codecs.BOM_UTF8).strip()
        # An empty file, left behind by a full disk, must not become a token that everybody knows.
        if not MIN_TOKEN <= len(content) <= MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in content):
            raise ConfigError(
                f"{self.path / name} is no token of {MIN_TOKEN} to {MAX_TOKEN} printable ASCII characters; "
                "remove it and a new one will be made."
            )
        return content.decode()

    def key(self, name: str) -> bytes:
        """A secret key of this edge, made when first asked for."""
        key = self._secret(f"{name}.key", lambda: secrets.token_bytes(KEY_BYTES))
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{self.path / name}.key is damaged; remove it and a new one will be made.")
        return key

    def _secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.path / name
        try:
            # Written aside and linked into place: of two edges starting at once, both see the same whole file.
            if not path.exists():
                aside = self.path / f".{name}-{os.getpid()}-{secrets.token_hex(4)}"
                write_private(aside, make())
                with contextlib.suppress(FileExistsError):
                    os.link(aside, path)
                aside.unlink()
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read or made ({error.strerror}).") from None

    def publish(self, *, edge: str, token: str, ca: Path) -> ClientEnv:
        """Write ``client.env``: what a client on this machine needs."""
        text = f"QUICTUNNEL_EDGE={edge}\nQUICTUNNEL_TOKEN={token}\nQUICTUNNEL_CA={ca}\n"
        try:
            return ClientEnv(self.path / CLIENT_ENV, text.encode())
        except OSError as error:
            raise ConfigError(f"{self.path / CLIENT_ENV} cannot be written ({error.strerror}).") from None


class ClientEnv:
    """``client.env``, there as long as this edge serves."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._content = content
        aside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        write_private(aside, content)
        aside.replace(path)

    def withdraw(self) -> None:
        """Remove it, unless another edge has put its own in its place."""
        # An edge that stops goes on stopping, whatever has become of its directory.
        with contextlib.suppress(OSError):
            if self.path.read_bytes() == self._content:
                self.path.unlink()


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
