"""Everything this package raises on purpose.

::

    Error
    ├── InvalidError           the caller asked for something that cannot be; asking again will not help
    ├── ConfigError            something that had to be configured is missing or malformed
    ├── AuthError              the edge refused the token
    ├── EdgeUnavailableError   the edge did not answer in time, or went away; trying again may help
    ├── OriginUnavailableError nobody listened on the local port in the time that was given with ``wait=``
    └── ProtocolError          the peer broke the protocol; the connection to it was closed

Each message says what happened and what to do next. No message contains a secret.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Base of all errors of this package."""

    temporary: ClassVar[bool] = False
    """True if the same call may succeed later without anybody changing anything."""


class InvalidError(Error):
    """An argument or a combination of arguments that cannot be served."""


class ConfigError(Error):
    """Missing or malformed configuration."""


class AuthError(Error):
    """The edge refused the token."""


class EdgeUnavailableError(Error):
    """The edge could not be reached, or refused for a reason that passes."""

    temporary: ClassVar[bool] = True
    """Networks and edges come back."""


class OriginUnavailableError(Error):
    """Error of a local port on which no service listened in time."""

    temporary: ClassVar[bool] = True
    """The local service may listen a moment later."""


class ProtocolError(Error):
    """The peer sent something the protocol does not allow. The only error that ``wire`` raises for bytes
    that came from a peer."""
