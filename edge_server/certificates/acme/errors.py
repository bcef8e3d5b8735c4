"""What can go wrong between the edge and an ACME server, in words for the log and the page."""

from __future__ import annotations

from typing import Final

MAX_WORDS: Final = 300
"""Characters of what somebody else said, in a line of ours."""


class AcmeError(Exception):
    """Why a certificate was not to be had this time. Says no secret: neither keys nor what proves a name."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        """``retry_after``: seconds that the server wants nobody to try again for."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class OrderStoppedError(AcmeError):
    """The edge is stopping."""

    def __init__(self) -> None:
        super().__init__("The edge is stopping.")


def said(text: object) -> str:
    """What a stranger said, on one line, cut."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:MAX_WORDS]
