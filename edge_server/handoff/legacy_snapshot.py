"""The snapshot file of older versions (``last-held``), which had no table of held names.

It is read at the first start of a version with the table, and then removed. This module can be removed one release
after 0.1.0.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_server.handoff.snapshot_entry import SnapshotEntry, is_valid
from edge_server.handoff.snapshot_store import HeldNames
from edge_server.tunnels.tickets import NONCE
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "last-held"
HEAD: Final = b"quictunnel last-held 1\n"
"""First bytes of the file; the sealed content follows."""
MAX_NAMES: Final = 10_000
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the file; the older versions had the same limit."""


class LegacyContent(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The sealed content of the file."""

    is_last: bool
    entries: Annotated[list[SnapshotEntry], msgspec.Meta(max_length=MAX_NAMES)]


class LegacySnapshot:
    """The file of one state directory."""

    def __init__(self, directory: Path, key: bytes, domain: str) -> None:
        """``key``: the key of the tickets."""
        self.path = directory / FILE
        self._cipher = AESGCM(key)
        self._context = HEAD + domain.encode()

    def read(self) -> HeldNames | None:
        """Return the names in the file; None if there is no file. Raises ConfigError."""
        try:
            with self.path.open("rb") as file:
                content, written_at = file.read(MAX_BYTES + 1), int(os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be used: {error.strerror}.") from None
        sealed = content[len(HEAD) :]
        try:
            if len(content) > MAX_BYTES or not content.startswith(HEAD):
                raise ValueError(content[: len(HEAD)])
            plain = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self._context)
            saved = msgspec.msgpack.decode(plain, type=LegacyContent)
            if not is_valid(saved.entries):
                raise ValueError(saved)
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            raise ConfigError(
                f"{self.path} cannot be used: it is damaged, or of another --domain or ticket.key."
            ) from None
        return HeldNames.of(saved.entries, written_at, is_last=saved.is_last)

    def remove(self) -> None:
        """Remove the file, once the table has its names."""
        for name in (FILE, f".{FILE}"):  # the second one is the temporary file of the writer
            with contextlib.suppress(OSError):
                self.path.with_name(name).unlink()
