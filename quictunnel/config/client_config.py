"""Configuration of a client: edge, token and certificate authority, looked up once and validated.

An edge, its token and its authority belong together: a token is never sent to another edge than the one it was
configured for. The sources, in this order:

1. The command line and the environment; the command line wins. If they name an edge, no file is read: a missing
token is an error, a missing authority means the system's store. 2. The user's config file. ``QUICTUNNEL_TOKEN``
and ``QUICTUNNEL_CA`` in the environment override its values, because containers usually have the edge in a file
and the secret in the environment. 3. ``client.env`` of an edge on this machine. It is complete: a
``QUICTUNNEL_TOKEN`` or ``QUICTUNNEL_CA`` without an edge is an error and is not merged with it.

An empty variable counts as not set. Engine, congestion control and traces come from the environment only
(``QUICTUNNEL_ENGINE``, ``QUICTUNNEL_CONGESTION``, ``QUICTUNNEL_QLOG``). Module ``files`` reads and checks the
files.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from quictunnel.config.files import Partial, read_authority, read_client_env, read_config_file, read_token_file
from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address, short_repr
from quictunnel.shared.paths import default_client_env, default_config_file, default_state_dir, expand_home

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ENGINES", "MAX_TOKEN", "ClientConfig", "Secret", "default_state_dir", "load", "parse_address"]

EDGE: Final = "QUICTUNNEL_EDGE"
TOKEN: Final = "QUICTUNNEL_TOKEN"  # noqa: S105  # the name of a variable, not a secret
CA: Final = "QUICTUNNEL_CA"
ENGINE: Final = "QUICTUNNEL_ENGINE"
ENGINES: Final = ("auto", "native", "aioquic")
CONGESTION: Final = "QUICTUNNEL_CONGESTION"
QLOG: Final = "QUICTUNNEL_QLOG"
CONGESTIONS: Final = ("auto", "bbr", "cubic")
MAX_TOKEN: Final = 512
"""Characters of a token. The edge's tokens have fewer than 100; a file read by mistake is larger. Far below the 16
KiB that an edge accepts from a client before it has checked the token."""

NOTHING_CONFIGURED: Final = (
    f"No edge is configured. Set {EDGE}, {TOKEN} and {CA}, or start an edge on this machine with the command "
    "`quictunnel-edge`; clients of the same user then find it by themselves."
)


class Secret:
    """Secret text that ``str()`` and ``repr()`` hide. Only :meth:`reveal` returns it, so every use is easy to
    find."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret text."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        # A pickle would store it in clear text in caches, queues and core dumps.
        raise TypeError("a Secret cannot be pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Validated settings of the connection to an edge. The constructor raises ConfigError for an invalid value."""

    edge: str
    """``host:port`` of the edge's QUIC socket (UDP)."""
    token: Secret
    """The secret that authorises the client."""
    ca: Path | None = None
    """PEM file with the certificate authorities to trust; None: the system's store."""
    engine: str = "auto"
    """The QUIC engine: one of ENGINES."""
    congestion: str = "auto"
    """The congestion control algorithm: one of CONGESTIONS. ``auto`` is the engine's default."""
    qlog: Path | None = None
    """Directory for qlog traces of the QUIC connections (transport.qlog); None: no traces."""
    source: str = field(default="", compare=False)
    """Name of the source for error messages; empty if the configuration was not looked up."""

    def __post_init__(self) -> None:
        parse_address(self.edge, what=EDGE)
        _check_token(self.token.reveal())
        if self.engine not in ENGINES:
            raise ConfigError(f"{ENGINE} should be one of {', '.join(ENGINES)}, not {short_repr(self.engine)}.")
        if self.congestion not in CONGESTIONS:
            allowed = ", ".join(CONGESTIONS)
            raise ConfigError(f"{CONGESTION} should be one of {allowed}, not {short_repr(self.congestion)}.")

    @property
    def address(self) -> tuple[str, int]:
        """Host and UDP port of the edge."""
        return parse_address(self.edge, what=EDGE)


def load(
    environ: Mapping[str, str] | None = None,
    *,
    edge: str | None = None,
    ca: Path | None = None,
    token_file: Path | None = None,
    config_file: Path | None = None,
    client_env: Path | None = None,
) -> ClientConfig:
    """Look the configuration up in the order described above.

    Args:
        environ: environment variables; None: those of this process.
        edge: ``host:port`` from the command line.
        ca: file of the certificate authority, from the command line.
        token_file: file with the token, from the command line.
        config_file: path of the config file instead of the platform's default.
        client_env: path of an edge's ``client.env`` instead of the platform's default.

    Raises:
        ConfigError: no edge is configured, or a value or file is invalid.
    """
    environ = os.environ if environ is None else environ
    stated = _from_environment(environ, edge, ca, token_file)
    found = stated if stated.edge else _from_files(stated, config_file, client_env)
    if not found.edge:
        raise ConfigError(NOTHING_CONFIGURED)
    if not found.token:
        raise _missing_token_error(found.source, found.edge)
    parse_address(found.edge, what=f"the edge in {found.source}")
    if found.ca:
        read_authority(found.ca, found.source)
    return ClientConfig(
        edge=found.edge,
        token=Secret(found.token),
        ca=found.ca,
        engine=environ.get(ENGINE) or "auto",
        congestion=environ.get(CONGESTION) or "auto",
        qlog=qlog_of(environ),
        source=found.source,
    )


def _missing_token_error(source: str, edge: str) -> ConfigError:
    return ConfigError(
        f"{source[0].upper()}{source[1:]} names the edge {short_repr(edge)} but no token: set {TOKEN} to the "
        "token that this edge gave you (an edge in development writes it into client.env in its state directory)."
    )


def qlog_of(environ: Mapping[str, str]) -> Path | None:
    """Return the directory for qlog traces from the environment, or None."""
    directory = environ.get(QLOG)
    return expand_home(directory, QLOG) if directory else None


def _from_environment(
    environ: Mapping[str, str], edge: str | None, ca: Path | None, token_file: Path | None
) -> Partial:
    """Return the values of command line and environment; the command line wins for each value."""
    ca_text = environ.get(CA)
    return Partial(
        source="the command line" if edge else "the environment",
        edge=edge or environ.get(EDGE) or None,
        token=read_token_file(token_file) if token_file else environ.get(TOKEN) or None,
        ca=ca or (expand_home(ca_text, CA) if ca_text else None),
    )


def _from_files(stated: Partial, config_file: Path | None, client_env: Path | None) -> Partial:
    if config_file is None or client_env is None:
        try:
            default_client_env()
        except ConfigError as error:
            raise ConfigError(f"{NOTHING_CONFIGURED} No settings file was looked for: {error}") from None
    mine = read_config_file(config_file or default_config_file())
    if mine is not None and mine.edge:
        return Partial(
            source=mine.source, edge=mine.edge, token=stated.token or mine.token, ca=stated.ca or mine.ca
        )
    if stated.token or stated.ca:
        alone = TOKEN if stated.token else CA
        raise ConfigError(
            f"{alone} is set but no edge to go with it: set {EDGE} to the edge's host:port as well, or unset "
            f"{alone} to use an edge on this machine (the command `quictunnel-edge` starts one)."
        )
    return read_client_env(client_env or default_client_env()) or Partial(source="nothing")


def _check_token(token: str) -> None:
    """Raise ConfigError unless a token is printable ASCII without spaces.

    A stray newline or quote is reported here and not as a refused token.
    """
    if not token:
        raise ConfigError(f"The token is empty: set {TOKEN} to the token that the edge gave you.")
    if len(token) > MAX_TOKEN:
        raise ConfigError(f"The token is longer than {MAX_TOKEN} characters: this is not a token of an edge.")
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError(
            f"The token contains a space or a character that is not printable ASCII: copy it into {TOKEN} again."
        )
