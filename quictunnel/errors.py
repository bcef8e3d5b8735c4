"""Errors that this package raises.

::

    Error
    ├── InvalidError           an argument is invalid; the same call will fail again
    ├── ConfigError            a required setting is missing or malformed
    ├── AuthError              the edge refused the token
    ├── EdgeUnavailableError   the edge did not answer in time, or was shut down; a later call may succeed
    ├── OriginUnavailableError nobody listened on the local port within the time given with ``wait=``
    └── ProtocolError          the peer violated the protocol; the connection to it was closed

Each message says what happened and what to do next. No message contains a token or credential of an edge:
:func:`redact` removes them, because a user may give one where another value was expected.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

MIN_SECRET: Final = 22
"""Characters from which a word counts as a secret, after ``qt1`` in the same word or in the one before. Longer
than the words of a sentence and the names of variables. A token's secret has 43, a credential has 100 or more, and
its first ones are the edge's address."""
MAX_LABELS: Final = 64
"""Characters between ``qt1`` and the long word that makes it a secret. Bounded, so that the search takes linear
time."""

_SECRET: Final = re.compile(
    r"(?P<begin>qt1(?:\.[a-z2-7]{16}(?=\.))?)"  # the key identifies a token, and logs have it
    r"(?:"
    rf"(?:(?<=\.[a-z2-7]{{16}})\.[\w-]+|[\w.-]{{0,{MAX_LABELS}}}?[\w-]{{{MIN_SECRET},}}[\w.-]*)"
    rf"(?:(?:\s|\\[nrt])+[\w.-]{{{MIN_SECRET},}})*"
    rf"|[\w.-]{{0,{MAX_LABELS}}}(?:(?:\s|\\[nrt])+[\w.-]{{{MIN_SECRET},}})+"
    r")",
    re.ASCII | re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return a text with the tokens and credentials in it cut to what is no secret: ``qt1.KEY...`` or ``qt1...``.

    A secret that a line break took apart is removed whole. A token that an operator chose has no form by which it
    could be recognised.
    """
    return _SECRET.sub(r"\g<begin>...", text)


class Error(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str = "", *, advice: str = "") -> None:
        """``message`` says what happened, ``advice`` what to do next; the text of the error has both, redacted."""
        message, advice = redact(message), redact(advice)
        super().__init__(f"{message} {advice}" if advice else message)
        self.message = message
        """Text that says what happened, without the advice."""
        self.advice = advice
        """Advice for the user, if it is a sentence of its own; empty if the message has it."""

    temporary: ClassVar[bool] = False
    """True if the same call may succeed later without a change of arguments or configuration."""


class InvalidError(Error):
    """An invalid argument or combination of arguments."""


class ClientClosedError(InvalidError, RuntimeError):
    """Use of a ``Client`` that was closed."""

    def __init__(self, message: str = "This Client is closed; make a new one.") -> None:
        super().__init__(message)


class ConfigError(Error):
    """Missing or malformed configuration."""


class AuthError(Error):
    """The edge refused the token."""


class EdgeUnavailableError(Error):
    """The edge could not be reached, or refused for a temporary reason."""

    temporary: ClassVar[bool] = True
    """Networks and edges recover."""


class OriginUnavailableError(Error):
    """Error of a local port on which no service listened in time."""

    temporary: ClassVar[bool] = True
    """The local service may listen a moment later."""


class ProtocolError(Error):
    """The peer violated the protocol. The only error that ``wire`` raises for received bytes."""
