"""Which edge a client uses, and with what token: looked up once, checked, frozen.

The order, and what merges with what. An edge, its token and its authority belong together: a token is never
sent to an edge that it was not written down for.

1. The environment, with what the command line says over it. When it names an edge, everything comes from it,
   and no file is read: a missing token is an error, a missing authority means the system's store.
2. The user's config file. ``QUICTUNNEL_TOKEN`` and ``QUICTUNNEL_CA`` in the environment override single values
   of it, because keeping the edge in a file and the secret in the environment is how containers are run.
3. ``client.env`` of an edge that runs on this machine. It is complete in itself: a stray ``QUICTUNNEL_TOKEN``
   or ``QUICTUNNEL_CA`` without an edge to go with is an error, not half of it.

An empty variable counts as one that is not set. The engine, its
congestion control and its traces are the environment's alone (``QUICTUNNEL_ENGINE``, ``QUICTUNNEL_CONGESTION``,
``QUICTUNNEL_QLOG``).
Reading and checking the files is ``configfile``; whether the edge is still there is found out by connecting.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from quictunnel.config.files import Partial, read_authority, read_client_env, read_config_file, read_token_file
from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address, shown
from quictunnel.shared.paths import default_client_env, default_config_file, default_state_dir, expanded

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
"""Characters. Ours are under 100; whatever an operator makes up fits, and a whole file read by mistake does
not. Far below the 16 KiB that an edge takes in before it has seen a token."""

NOTHING_CONFIGURED: Final = (
    f"No edge is configured. Set {EDGE}, {TOKEN} and {CA}, or start an edge on this machine with the command "
    "`python -m edge_server`; clients of the same user then find it by themselves."
)


class Secret:
    """Text that does not show itself. Only :meth:`reveal` gives it away, so each use can be searched for."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
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
        # A pickle would carry it in the clear into caches, queues and core dumps.
        raise TypeError("a Secret cannot be pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How to reach an edge. One that exists is well-formed: the constructor raises ConfigError otherwise."""

    edge: str
    """``host:port`` of the edge's QUIC socket (UDP)."""
    token: Secret
    ca: Path | None = None
    """PEM file with the authorities that the edge's certificate may come from; None: the system's store."""
    engine: str = "auto"
    congestion: str = "auto"
    """What this side paces its sending by; ``auto`` is what the engine does best."""
    qlog: Path | None = None
    """Directory for files that say what each QUIC connection does (transport.qlog)."""
    source: str = field(default="", compare=False)
    """Where it was found, for a sentence; empty when it was not looked up."""

    def __post_init__(self) -> None:
        parse_address(self.edge, what=EDGE)
        _check_token(self.token.reveal())
        if self.engine not in ENGINES:
            raise ConfigError(f"{ENGINE} should be one of {', '.join(ENGINES)}, not {shown(self.engine)}.")
        if self.congestion not in CONGESTIONS:
            allowed = ", ".join(CONGESTIONS)
            raise ConfigError(f"{CONGESTION} should be one of {allowed}, not {shown(self.congestion)}.")

    @property
    def address(self) -> tuple[str, int]:
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
    """Look the configuration up as the module says, or raise ConfigError.

    ``edge``, ``ca`` and ``token_file`` are what the command line says; ``config_file`` and ``client_env`` are
    where to look instead of the platform's places.
    """
    environ = os.environ if environ is None else environ
    stated = _stated(environ, edge, ca, token_file)
    found = stated if stated.edge else _from_files(environ, stated, config_file, client_env)
    if not found.edge:
        raise ConfigError(NOTHING_CONFIGURED)
    if not found.token:
        origin = found.origin[0].upper() + found.origin[1:]
        raise ConfigError(
            f"{origin} names the edge {shown(found.edge)} but no token: set {TOKEN} to the token that this edge "
            "gave you (an edge in development writes it into client.env in its state directory)."
        )
    parse_address(found.edge, what=f"the edge in {found.origin}")
    if found.ca:
        read_authority(found.ca, found.origin)
    return ClientConfig(
        edge=found.edge,
        token=Secret(found.token),
        ca=found.ca,
        engine=environ.get(ENGINE) or "auto",
        congestion=environ.get(CONGESTION) or "auto",
        qlog=qlog_of(environ),
        source=found.origin,
    )


def qlog_of(environ: Mapping[str, str]) -> Path | None:
    """Where traces are wanted, if they are."""
    directory = environ.get(QLOG)
    return expanded(directory, QLOG) if directory else None


def _stated(environ: Mapping[str, str], edge: str | None, ca: Path | None, token_file: Path | None) -> Partial:
    """What this invocation itself says: the command line over the environment, value by value."""
    ca_text = environ.get(CA)
    return Partial(
        origin="the command line" if edge else "the environment",
        edge=edge or environ.get(EDGE) or None,
        token=read_token_file(token_file) if token_file else environ.get(TOKEN) or None,
        ca=ca or (expanded(ca_text, CA) if ca_text else None),
    )


def _from_files(
    environ: Mapping[str, str], stated: Partial, config_file: Path | None, client_env: Path | None
) -> Partial:
    if config_file is None or client_env is None:
        try:
            default_client_env(environ)
        except ConfigError as error:
            raise ConfigError(f"{NOTHING_CONFIGURED} No settings file was looked for: {error}") from None
    mine = read_config_file(config_file or default_config_file(environ))
    if mine is not None and mine.edge:
        return Partial(
            origin=mine.origin, edge=mine.edge, token=stated.token or mine.token, ca=stated.ca or mine.ca
        )
    if stated.token or stated.ca:
        alone = TOKEN if stated.token else CA
        raise ConfigError(
            f"{alone} is set but no edge to go with it: set {EDGE} to the edge's host:port as well, or unset "
            f"{alone} to use an edge on this machine (the command `python -m edge_server` starts one)."
        )
    return read_client_env(client_env or default_client_env(environ)) or Partial(origin="nothing")


def _check_token(token: str) -> None:
    """Printable ASCII without blanks, so that a stray newline or quote is found here and not as a refusal."""
    if not token:
        raise ConfigError(f"The token is empty: set {TOKEN} to the token that the edge gave you.")
    if len(token) > MAX_TOKEN:
        raise ConfigError(f"The token is longer than {MAX_TOKEN} characters: this is not a token of an edge.")
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError(
            f"The token contains a blank or a character that is not printable ASCII: copy it into {TOKEN} again."
        )
