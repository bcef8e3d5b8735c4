"""Errors between the edge and an ACME server, as text for the log and the operator's page."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 300
"""Characters of a peer's text within a message of ours."""


class AcmeError(Exception):
    """The reason for the failure of an order. Contains no secrets: neither keys nor key authorizations."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        """``retry_after``: seconds to wait before the next try, as the server requests."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class OrderStoppedError(AcmeError):
    """The order was aborted because the edge stops."""

    def __init__(self) -> None:
        """Set the fixed message."""
        super().__init__("The edge is stopping.")


def printable(text: object) -> str:
    """Return a peer's text on one line, printable and truncated to :data:`MAX_TEXT`."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:MAX_TEXT]
