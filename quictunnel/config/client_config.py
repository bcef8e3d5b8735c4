"""Configuration of a client: edge, token and certificate authority, looked up once and validated.

An edge, its token and its authority belong together: a token is never sent to another edge than the one it was
configured for. A credential (module ``credential``) has all three. The sources, in this order:

1. The command line. A profile named there is complete, and nothing else is read. 2. The environment:
``QUICTUNNEL_CREDENTIAL``, or the three variables. If they name an edge, no file is read: a missing token is an
error, a missing authority means the system's store. Both at once for different edges are an error. 3. A profile
that ``quictunnel login`` has stored: that of ``QUICTUNNEL_PROFILE``, else ``default`` if there is one. 4. The
user's config file. ``QUICTUNNEL_TOKEN`` and ``QUICTUNNEL_CA`` in the environment override its values, because
containers usually have the edge in a file and the secret in the environment. 5. ``client.env`` of an edge on this
machine. A profile and ``client.env`` are complete: a ``QUICTUNNEL_TOKEN`` or ``QUICTUNNEL_CA`` without an edge is
an error and is not merged with them.

An empty variable counts as not set. Engine, congestion control and traces come from the environment only
(``QUICTUNNEL_ENGINE``, ``QUICTUNNEL_CONGESTION``, ``QUICTUNNEL_QLOG``). Module ``files`` reads and checks the
files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quictunnel.config.credential import MAX_TOKEN, PIN_BYTES, Credential, check_token, decode, is_credential
from quictunnel.config.files import Partial, read_authority, read_client_env, read_config_file, read_token_file
from quictunnel.config.profiles import DEFAULT, Profiles
from quictunnel.config.secret import Secret
from quictunnel.config.variables import (
    CA,
    CONGESTION,
    CONGESTIONS,
    CREDENTIAL,
    EDGE,
    ENGINE,
    ENGINES,
    PROFILE,
    QLOG,
    TOKEN,
)
from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address, short_repr
from quictunnel.shared.paths import default_client_env, default_config_file, default_state_dir, expand_home

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ENGINES", "MAX_TOKEN", "ClientConfig", "Secret", "default_state_dir", "load", "parse_address"]

NOTHING_CONFIGURED: Final = (
    "No edge is configured. Run `quictunnel login` with the credential that an edge gave you (or set "
    f"{CREDENTIAL}, or {EDGE}, {TOKEN} and {CA}), or start an edge on this machine with the command "
    "`quictunnel-edge`; clients of the same user then find it by themselves."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Validated settings of the connection to an edge. The constructor raises ConfigError for an invalid value."""

    edge: str
    """``host:port`` of the edge's QUIC socket (UDP)."""
    token: Secret
    """The secret that authorises the client."""
    ca: Path | None = None
    """PEM file with the certificate authorities to trust; None: the system's store, unless there is a pin."""
    pin: bytes = b""
    """SHA-256 of the DER of the one certificate authority to trust; the edge sends its certificate."""
    more_edges: tuple[str, ...] = ()
    """Further addresses ``host:port`` of the edge, which are dialled as well."""
    engine: str = "auto"
    """The QUIC engine: one of ENGINES."""
    congestion: str = "auto"
    """The congestion control algorithm: one of CONGESTIONS. ``auto`` is the engine's default."""
    qlog: Path | None = None
    """Directory for qlog traces of the QUIC connections (transport.qlog); None: no traces."""
    source: str = field(default="", compare=False)
    """Name of the source for error messages; empty if the configuration was not looked up."""

    def __post_init__(self) -> None:
        for edge in (self.edge, *self.more_edges):
            parse_address(edge, what=EDGE)
        check_token(self.token.reveal(), what="The token")
        if self.pin and (self.ca is not None or len(self.pin) != PIN_BYTES):
            raise ConfigError(f"The pin of an authority has {PIN_BYTES} bytes, and excludes a file with one.")
        if self.engine not in ENGINES:
            raise ConfigError(f"{ENGINE} should be one of {', '.join(ENGINES)}, not {short_repr(self.engine)}.")
        if self.congestion not in CONGESTIONS:
            allowed = ", ".join(CONGESTIONS)
            raise ConfigError(f"{CONGESTION} should be one of {allowed}, not {short_repr(self.congestion)}.")

    @property
    def authority(self) -> str:
        """Description of the certificate authorities that the client trusts, for messages."""
        if self.pin:
            return f"the authority with fingerprint {self.pin[:8].hex()}..."
        return "the system's authorities" if self.ca is None else str(self.ca)

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
    profile: str | None = None,
    config_file: Path | None = None,
    client_env: Path | None = None,
    profiles: Path | None = None,
) -> ClientConfig:
    """Look the configuration up in the order described above.

    Args:
        environ: environment variables; None: those of this process.
        edge: ``host:port`` from the command line.
        ca: file of the certificate authority, from the command line.
        token_file: file with the token, from the command line.
        profile: name of a stored profile, from the command line.
        config_file: path of the config file instead of the platform's default.
        client_env: path of an edge's ``client.env`` instead of the platform's default.
        profiles: folder of the profiles instead of the platform's default.

    Raises:
        ConfigError: no edge is configured, or a value or file is invalid.
    """
    environ = os.environ if environ is None else environ
    if profile:
        if edge or ca or token_file:
            raise ConfigError("A profile has edge, authority and token: give either --profile or the others.")
        found = _from_profile(profile, Profiles(profiles)) or Partial(source="nothing")
    else:
        found = _from_environment(environ, edge, ca, token_file)
        name = environ.get(PROFILE)
        if not found.edge:
            found = _from_files(found, name, config_file, client_env, profiles)
        elif name and not edge:
            raise ConfigError(f"{PROFILE} and an edge in the environment ({found.edge}) are both set: unset one.")
    return _checked(found, environ)


def _checked(found: Partial, environ: Mapping[str, str]) -> ClientConfig:
    """Return the configuration of the values that were found. Raises ConfigError if they are invalid."""
    if not found.edge:
        raise ConfigError(
            NOTHING_CONFIGURED,
            advice="`quictunnel demo` starts an edge, an app and a tunnel in one process, to try it.",
        )
    if not found.token:
        raise _missing_token_error(found.source, found.edge)
    parse_address(found.edge, what=f"the edge in {found.source}")
    if found.ca:
        read_authority(found.ca, found.source)
    return _config_from(found, environ)


def _config_from(found: Partial, environ: Mapping[str, str]) -> ClientConfig:
    """Return a configuration. Engine, congestion control and traces are those of the environment."""
    assert found.edge is not None, "checked"
    assert found.token is not None, "checked"
    return ClientConfig(
        edge=found.edge,
        token=Secret(found.token),
        ca=found.ca,
        pin=found.pin,
        more_edges=found.more_edges,
        engine=environ.get(ENGINE) or "auto",
        congestion=environ.get(CONGESTION) or "auto",
        qlog=qlog_of(environ),
        source=found.source,
    )


def client_config_of(
    *,
    edge: str | None = None,
    token: str | None = None,
    ca: Path | None = None,
    profile: str | None = None,
    credential: str | None = None,
) -> ClientConfig:
    """Return the configuration that a program states: edge and token, or a profile, or a credential.

    Raises:
        ConfigError: a value is invalid or missing, there is more than one way, or no such profile.
    """
    ways = sum(each is not None for each in (edge, profile, credential))
    if ways != 1 or (edge is None and (token or ca)):
        raise ConfigError("A client needs either edge and token, or a profile, or a credential.")
    if profile is not None:
        return load(profile=profile)
    stated = Partial(source="" if credential is None else "the credential", edge=edge, token=token, ca=ca)
    given = credential or token or ""
    if credential is not None or is_credential(given):
        stated = _with_credential(stated, decode(given, what="credential" if credential is not None else "token"))
    if stated.token is None:
        raise ConfigError(f"A client of the edge {short_repr(edge or '')} needs a token.")
    return _config_from(stated, os.environ)


def _missing_token_error(source: str, edge: str) -> ConfigError:
    return ConfigError(
        f"{source[0].upper()}{source[1:]} names the edge {short_repr(edge)} but no token: give --token-file "
        f"FILE or set {TOKEN}, with the token that this edge gave you (that of an edge on this machine is "
        "the file `token` in its state directory)."
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
    token = read_token_file(token_file) if token_file else environ.get(TOKEN) or None
    stated = Partial(
        source="the command line" if edge else "the environment",
        edge=edge or environ.get(EDGE) or None,
        token=token,
        ca=ca or (expand_home(ca_text, CA) if ca_text else None),
    )
    if token and is_credential(token):
        what = f"The credential in {token_file}" if token_file else TOKEN
        stated = _with_credential(stated, decode(token, what=what))
    text = environ.get(CREDENTIAL)
    if not text:
        return stated
    credential = decode(text, what=CREDENTIAL)
    if edge and edge not in credential.addresses:
        return stated  # the command line names another edge, and the token is not for that one
    if not edge:
        _check_agreement(stated, credential)
    return _with_credential(
        Partial(
            source="the command line" if edge else CREDENTIAL,
            edge=edge,
            token=stated.token if token_file else None,
            ca=ca,
        ),
        credential,
    )


def _with_credential(stated: Partial, credential: Credential) -> Partial:
    """Return the values that are stated, and those of the credential for the others."""
    first, *more = credential.addresses
    token = stated.token
    return Partial(
        source=stated.source,
        edge=stated.edge or first,
        token=credential.token.reveal() if token is None or is_credential(token) else token,
        ca=stated.ca,
        pin=b"" if stated.ca else credential.pin,
        more_edges=() if stated.edge else tuple(more),
    )


def _check_agreement(stated: Partial, credential: Credential) -> None:
    """Raise ConfigError if the three variables are set for another edge or token than the credential."""
    for name, value, is_same in (
        (EDGE, stated.edge, stated.edge in credential.addresses),
        (TOKEN, stated.token, stated.token == credential.token.reveal()),
    ):
        if value and not is_same:
            raise ConfigError(
                f"{CREDENTIAL} and {name} are both set and differ: unset {CREDENTIAL}, or unset {EDGE}, {TOKEN} "
                f"and {CA}."
            )


def _from_profile(name: str, profiles: Profiles) -> Partial | None:
    """Return the values of a profile. Only the default one may be missing."""
    credential = profiles.read(name)
    if credential is None and name == DEFAULT:
        return None
    if credential is None:
        known = ", ".join(profiles.names())
        raise ConfigError(
            f"There is no profile {short_repr(name)}: `quictunnel login --profile {name}` stores one "
            f"({f'there are: {known}' if known else 'there is none yet'})."
        )
    return _with_credential(Partial(source=f"the profile {name}"), credential)


def _from_files(
    stated: Partial, name: str | None, config_file: Path | None, client_env: Path | None, profiles: Path | None
) -> Partial:
    if config_file is None or client_env is None or profiles is None:
        try:
            default_client_env()
        except ConfigError as error:
            raise ConfigError(f"{NOTHING_CONFIGURED} No settings file was looked for: {error}") from None
    profile = _from_profile(name or DEFAULT, Profiles(profiles))
    if profile is not None:
        _check_complete(stated, profile.source)
        return profile
    mine = read_config_file(config_file or default_config_file())
    if mine is not None and mine.edge:
        return Partial(
            source=mine.source, edge=mine.edge, token=stated.token or mine.token, ca=stated.ca or mine.ca
        )
    _check_complete(stated, "an edge on this machine (the command `quictunnel-edge` starts one)")
    return read_client_env(client_env or default_client_env()) or Partial(source="nothing")


def _check_complete(stated: Partial, source: str) -> None:
    """Raise ConfigError if a value is stated that would have to be merged into a complete source."""
    if stated.token or stated.ca:
        alone = f"{TOKEN} or --token-file" if stated.token else f"{CA} or --ca"
        raise ConfigError(
            f"{alone} is set but no edge to go with it: set {EDGE} or --edge to the edge's host:port as well, or "
            f"unset it to use {source}."
        )
