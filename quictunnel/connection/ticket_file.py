"""File with the ticket of one tunnel. A program that presents the ticket gets the same public name and port again.

A ticket is sealed by the edge and opaque to the client. It is as secret as a password for the name, so only the
file's owner may read it.
"""

from __future__ import annotations

import base64
import codecs
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr
from quictunnel.shared.files import replace_file
from quictunnel.shared.paths import expand_home
from quictunnel.wire.messages import MAX_TICKET

if TYPE_CHECKING:
    import os

FIRST_LINE: Final = "quictunnel ticket 1"
MAX_FILE: Final = 2 * MAX_TICKET
"""Bytes: a ticket in base64 and the first line."""


class TicketFile:
    """Ticket file, which need not exist yet. Raises ConfigError for a ``~`` without a home directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = expand_home(path, "The ticket file")

    def read(self) -> bytes:
        """Return the ticket, empty if there is no file. Raises ConfigError if the content is not a ticket."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ConfigError(
                f"The ticket file {short_repr(str(self.path))} cannot be read: {error.strerror}."
            ) from None
        first, _, rest = content.removeprefix(codecs.BOM_UTF8).decode("ascii", "replace").partition("\n")
        try:
            ticket = base64.b64decode(rest.strip(), validate=True)
        except ValueError:  # binascii.Error is one
            ticket = b""
        if first != FIRST_LINE or not ticket or len(ticket) > MAX_TICKET:
            raise ConfigError(
                f"{short_repr(str(self.path))} is not a ticket file: name one that quictunnel wrote, or one that "
                "does not exist yet."
            )
        return ticket

    def write(self, ticket: bytes) -> None:
        """Replace the file by a newer ticket, atomically. Raises OSError."""
        text = f"{FIRST_LINE}\n{base64.b64encode(ticket).decode()}\n"
        replace_file(self.path, text.encode())
