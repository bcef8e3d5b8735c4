"""File with the counts of past orders, so that a restart does not reset the periods of the quota."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Final

from edge_server.certificates.acme.quota import QuotaState, RequestedName, StartedOrder
from quictunnel.shared.files import make_directory, replace_file

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of the file. A week has at most 11,200 orders for new names, of about 200 bytes each."""


class QuotaFile:
    """The file. Read and written in any thread; :meth:`update` is for the event loop's."""

    def __init__(self, path: Path) -> None:
        """``path`` need not exist, nor its folder."""
        self._path = path
        self._content = b""
        """Next content of the file; below, the number of its changes, and of those that are written."""
        self._changes = self._saved = 0
        self._saving = threading.Lock()

    def read(self) -> QuotaState:
        """Return the stored counts; empty if the file is missing or damaged. Blocks."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
            if len(content) > MAX_FILE:
                raise ValueError("the file is too large")
            found = json.loads(content)
            return QuotaState(
                {str(name): RequestedName(float(at), str(owner), True) for name, at, owner in found["names"]},
                [StartedOrder(float(at), str(owner), bool(is_new)) for at, owner, is_new in found["orders"]],
            )
        except FileNotFoundError:
            return QuotaState({}, [])
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s cannot be read, so the count of orders starts at zero: %s", self._path, error)
            return QuotaState({}, [])

    def update(self, state: QuotaState) -> None:
        """Set what :meth:`save` writes next."""
        names = [(name, each.at, each.owner) for name, each in state.names.items()]
        self._content = json.dumps({"names": names, "orders": state.orders}).encode()
        self._changes += 1

    def save(self) -> None:
        """Write the latest counts, unless another thread did. Blocks. Raises OSError."""
        with self._saving:
            changes, content = self._changes, self._content
            if changes > self._saved:
                make_directory(self._path.parent)
                replace_file(self._path, content)
                self._saved = changes
