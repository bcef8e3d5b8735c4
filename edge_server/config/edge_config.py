"""The edge's options as a table: read from the command line, the environment and a TOML file, checked, frozen.

A new option is a new field of :class:`EdgeConfig`; ``docs/tables.py`` then renews what documents it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from edge_server.certificates.acme.settings import (
    ALGORITHMS,
    CHALLENGES,
    DNS_WAIT,
    AcmeOptions,
    read_server,
    settings_of,
)
from edge_server.config import sources
from edge_server.config.option_table import PREFIX, option, options_of
from edge_server.config.option_types import (
    ADDRESS,
    DIRECTORY,
    DOMAIN,
    FILE,
    HOST,
    HOSTS,
    MAX_SECONDS,
    OWN_ADDRESS,
    PORTS,
    SECONDS,
    STATE_DIR,
    SWITCH,
    TEXT,
    choice,
    parse_ports,
)
from edge_server.config.sources import MAX_CONFIG, OptionValue, ParsedOptions
from quictunnel.errors import ConfigError
from quictunnel.shared.paths import default_state_dir
from quictunnel.shared.version import VERSION
from quictunnel.transport.engine import CONGESTIONS
from quictunnel.transport.engines import CHOICES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from edge_server.config.option_types import OptionType

__all__ = ["MAX_CONFIG", "MAX_SECONDS", "OPTIONS", "EdgeConfig", "Reading", "parse", "parse_ports", "read"]

DEFAULT_DOMAIN: Final = "tunnel.localhost"
ENGINE: Final = "QUICTUNNEL_ENGINE"
CONGESTION: Final = "QUICTUNNEL_CONGESTION"
LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
HOLD: Final = 120

_WHERE: Final = "where it listens"
_CERTIFICATES: Final = "certificates for visitors"
_ACME: Final = "certificates by ACME"
_RESTARTS: Final = "restarts and outages"
_QUIC: Final = "QUIC"
_LOGS: Final = "logs"


def _called(metavar: str) -> OptionType[str]:
    """Text that ``--help`` calls something."""
    return dataclasses.replace(TEXT, metavar=metavar)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """The options of one edge. Addresses are numeric, or names that resolve to one of this machine's."""

    state_dir: Path = option(
        STATE_DIR,
        "where keys, the token and client.env are kept",
        required=True,
        shown="the platform's state directory for the user",
        group=_WHERE,
    )
    domain: str = option(DOMAIN, "tunnels are names below this one", default=DEFAULT_DOMAIN, group=_WHERE)
    quic: tuple[str, int] = option(
        ADDRESS, "UDP address for clients; port 0: any", default=("127.0.0.1", 4433), group=_WHERE
    )
    https: tuple[str, int] = option(
        ADDRESS, "TCP address for TLS visitors; port 0: any", default=("127.0.0.1", 8443), group=_WHERE
    )
    tcp_host: str = option(
        HOST,
        "address for plain TCP visitors",
        default="127.0.0.1",
        shown="the host of https",
        group=_WHERE,
    )
    tcp_ports: range = option(PORTS, "range of their ports", default=range(20000, 30000), group=_WHERE)
    public_host: str = option(
        HOST,
        "the host by which other machines reach it: clients are told it for plain TCP and for the QUIC port",
        default="",
        shown="where it listens, or domain",
        group=_WHERE,
    )
    admin: tuple[str, int] | None = option(
        OWN_ADDRESS,
        "show the operator's page and API there (`python -m edge_server admin url` prints a link to it)",
        shown="nowhere",
        group=_WHERE,
    )
    admin_names: tuple[str, ...] = option(
        HOSTS,
        "names besides localhost and addresses by which the page may be asked for: that of a proxy in front of "
        "it, or of a container",
        default=(),
        shown="none",
        group=_WHERE,
    )
    cert: Path | None = option(
        FILE,
        "PEM certificate chain for visitors; goes with key",
        shown="a development authority's",
        group=_CERTIFICATES,
        live=True,
    )
    key: Path | None = option(FILE, "its private key, PEM", group=_CERTIFICATES, live=True)
    allow_wildcard_h2: bool = option(
        SWITCH,
        "offer HTTP/2 although one wildcard certificate serves all tunnels; browsers may then send requests for "
        "one tunnel to another",
        default=False,
        group=_CERTIFICATES,
        live=True,
    )
    acme: str = option(
        _called("EMAIL"),
        "get certificates for visitors by ACME: an address for the authority's mail, whose terms you agree to",
        default="",
        shown="off",
        group=_ACME,
        alias="acme-email",
    )
    acme_directory: str = option(
        _called("URL"), "URL of the ACME server", default="", shown="Let's Encrypt", group=_ACME
    )
    acme_ca: Path | None = option(
        FILE, "PEM file of who vouches for that server", shown="the system's authorities", group=_ACME
    )
    acme_challenge: str = option(
        choice(*CHALLENGES),
        "how the edge's names are proved: dns-01 gives a wildcard, the others prove name by name; custom domains "
        "are proved by tls-alpn-01 on the https port, or by http-01 where acme-http is given",
        default="",
        shown="dns-01 where acme-dns or acme-dns-hook is given, else tls-alpn-01",
        group=_ACME,
    )
    acme_http: tuple[str, int] | None = option(
        OWN_ADDRESS,
        "TCP address for http-01, which the world reaches as port 80; visitors are sent on to https",
        shown="nowhere",
        group=_ACME,
    )
    acme_dns: str = option(
        TEXT,
        "the name server that takes updates of the zone (RFC 2136), HOST or HOST:PORT",
        default="",
        group=_ACME,
    )
    acme_dns_zone: str = option(
        HOST,
        "the zone that is updated: _acme-challenge of the domain is in it, or an alias (CNAME) into it",
        default="",
        shown="domain",
        group=_ACME,
    )
    acme_dns_key: str = option(_called("NAME"), "name of the TSIG key that may update it", default="", group=_ACME)
    acme_dns_algorithm: str = option(
        choice(*ALGORITHMS), "its algorithm", default="", shown=ALGORITHMS[0], group=_ACME
    )
    acme_dns_secret: Path | None = option(FILE, "a file with that key in base64", group=_ACME)
    acme_dns_hook: str = option(
        _called("COMMAND"), "a command instead, called as COMMAND set|clear NAME VALUE", default="", group=_ACME
    )
    acme_dns_wait: float | None = option(
        SECONDS, "from a change of the zone to its check", shown=f"{DNS_WAIT:g}", group=_ACME
    )
    acme_eab: str = option(
        _called("ID"),
        "ID of an account that you have at the authority (external account binding)",
        default="",
        group=_ACME,
    )
    acme_eab_key: Path | None = option(FILE, "a file with its MAC key in base64url", group=_ACME)
    resolver: str = option(
        _called("HOST[:PORT]"),
        "the DNS server that is asked whether custom domains point here, and of what _acme-challenge is an alias "
        "where acme-dns-zone is another zone, HOST or HOST:PORT",
        default="",
        shown="the system's",
        group=_CERTIFICATES,
    )
    skip_domain_check: bool = option(
        SWITCH, "let tokens have the domains they may, wherever those point", default=False, group=_CERTIFICATES
    )
    grace: float = option(
        SECONDS, "how long visitors in flight may go on at SIGTERM", default=30.0, group=_RESTARTS, live=True
    )
    hold: float = option(
        SECONDS,
        "how long a client that lost its connection may take to come back to its visitors; 0: they are reset at "
        "once",
        default=float(HOLD),
        group=_RESTARTS,
        live=True,
    )
    takeover: bool = option(
        SWITCH,
        "take the place of the edge that runs with the same state directory, without refusing anybody: it hands "
        "its sockets and names over, and ends when its visitors have finished; starts as usual where none runs",
        default=False,
        group=_RESTARTS,
    )
    engine: str = option(
        choice(*CHOICES),
        "the QUIC engine",
        default="auto",
        shown=f"${ENGINE} or auto",
        group=_QUIC,
        fallback=ENGINE,
    )
    congestion: str = option(
        choice(*CONGESTIONS),
        "congestion control towards clients; auto is what the engine does best",
        default="auto",
        shown=f"${CONGESTION} or auto",
        group=_QUIC,
        fallback=CONGESTION,
    )
    log_format: str = option(
        choice(*LOG_FORMATS), "lines for people, or an object a line", default="text", group=_LOGS, live=True
    )
    hide_token: bool = option(
        SWITCH,
        "say at the start where the operator's token is, not what it is: for outputs that are kept, as those of "
        "containers; towards systemd's journal it is never said",
        default=False,
        group=_LOGS,
    )
    log_level: str = option(choice(*LOG_LEVELS), "how much to say", default="info", group=_LOGS, live=True)
    qlog: Path | None = option(
        DIRECTORY,
        "write what each QUIC connection does to files in this directory; for looking into something, since it "
        "costs time and up to a gigabyte",
        shown="none",
        group=_LOGS,
        live=True,
    )

    @property
    def shown_tcp_host(self) -> str:
        """The public name of the plain TCP ports."""
        return self.public_name(self.tcp_host)

    @property
    def acme_options(self) -> AcmeOptions:
        """The options that ACME's settings are made of."""
        return AcmeOptions(
            domain=self.domain,
            acme=self.acme,
            acme_directory=self.acme_directory,
            acme_ca=self.acme_ca,
            acme_challenge=self.acme_challenge,
            acme_http=self.acme_http,
            acme_dns=self.acme_dns,
            acme_dns_zone=self.acme_dns_zone,
            acme_dns_key=self.acme_dns_key,
            acme_dns_algorithm=self.acme_dns_algorithm,
            acme_dns_secret=self.acme_dns_secret,
            acme_dns_hook=self.acme_dns_hook,
            acme_dns_wait=self.acme_dns_wait,
            acme_eab=self.acme_eab,
            acme_eab_key=self.acme_eab_key,
            resolver=self.resolver,
        )

    def public_name(self, host: str) -> str:
        """Return the name by which other machines reach a socket that is bound to ``host``."""
        if self.public_host:
            return self.public_host
        return self.domain if host in ("0.0.0.0", "::") else host


OPTIONS: Final = options_of(EdgeConfig)
_FORGOTTEN_WHEN_EMPTY: Final = frozenset(("state_dir", "tcp_host", "engine", "congestion"))
"""Options for which an empty text means the default."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading the options: the configuration, or the problems."""

    config: EdgeConfig | None
    problems: tuple[str, ...] = ()
    only_check: bool = False
    """``--check-config``."""


def _build_parser() -> argparse.ArgumentParser:
    def more(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("where these come from")
        group.add_argument("--config", metavar="FILE", help="TOML file with the same names; the command line wins "
            f"over variables such as {PREFIX}DOMAIN, and they over the file")  # fmt: skip
        group.add_argument("--check-config", action="store_true", help="read everything, certificates too, say "
            "what is wrong or would be run, and exit; no port is opened")  # fmt: skip
        group.add_argument("--version", action="version", version=f"quictunnel {VERSION}")

    return sources.build_parser(
        OPTIONS,
        more,
        prog="python -m edge_server",
        description=(
            "The public side of quictunnel. Without options it runs a development edge on loopback: it makes its "
            "own certificate authority and a token, and prints what a client needs."
        ),
        epilog=(
            "A public edge: python -m edge_server --domain tunnel.example.com --quic 0.0.0.0:4433 "
            "--https 0.0.0.0:443 --cert fullchain.pem --key privkey.pem, with *.tunnel.example.com pointing here. "
            "Tokens for others than yourself: python -m edge_server token --help. Names that belong to somebody: "
            "python -m edge_server name --help. "
            "SIGTERM drains: visitors in flight may finish; a second one ends at once. SIGHUP reads the "
            "configuration again. SIGUSR2 starts the same command again with --takeover, for a new version or "
            "what SIGHUP cannot change, without downtime."
        ),
    )


def read(argv: Sequence[str], environ: Mapping[str, str] = MappingProxyType({})) -> Reading:
    """The configuration that a command line, an environment and the file that they name ask for, with everything
    that is wrong about it. argparse exits by itself (2) on options that do not exist, and (0) after ``--help``."""
    arguments: dict[str, Any] = vars(_build_parser().parse_args(argv))
    only_check = arguments.pop("check_config", False)
    path = arguments.pop("config", None) or environ.get(sources.CONFIG)
    said = ParsedOptions()
    if path:
        sources.from_file(OPTIONS, Path(path), said)
    sources.from_environment(OPTIONS, environ, said)
    said.given |= sources.from_command_line(arguments)
    config = _made(said, environ)
    return Reading(config, tuple(said.problems), only_check)


def parse(argv: Sequence[str], environ: Mapping[str, str] = MappingProxyType({})) -> EdgeConfig:
    """The same. Raises ConfigError with the first thing that is wrong."""
    reading = read(argv, environ)
    if reading.config is None:
        raise ConfigError(reading.problems[0])
    return reading.config


def _made(said: ParsedOptions, environ: Mapping[str, str]) -> EdgeConfig | None:
    values: dict[str, Any] = {}
    for row in OPTIONS:
        given = said.given.get(row.field)
        if given is not None and given.value == "" and row.field in _FORGOTTEN_WHEN_EMPTY:
            given = None
        if given is None and (text := environ.get(row.fallback)):
            given = OptionValue(text, row.fallback)
        if given is None:
            continue
        try:
            values[row.field] = given.read(row)
        except ConfigError as error:
            said.object_to(str(error))
    for problem in _contradictions(said):
        said.object_to(problem)
    state_dir = values.get("state_dir") or _usual_state_dir(said)
    if said.problems:
        return None
    values.setdefault("state_dir", state_dir)
    if "https" in values:
        values.setdefault("tcp_host", values["https"][0])
    config = EdgeConfig(**values)
    try:
        settings_of(config.acme_options)
        if config.resolver:
            read_server(config.resolver, "--resolver")
    except ConfigError as error:
        said.object_to(str(error))
        return None
    return config


def _usual_state_dir(said: ParsedOptions) -> Path | None:
    try:
        return default_state_dir().absolute()
    except ConfigError as error:
        said.object_to(f"{error} Or say where the edge keeps its keys, with --state-dir.")
        return None


def _contradictions(said: ParsedOptions) -> list[str]:
    """Return the problems of several options together."""
    problems = []
    pair = [name for name in ("cert", "key") if name in said.given and said.given[name].value]
    if len(pair) == 1:
        what = said.given[pair[0]].what
        dashes = "--" if what.startswith("--") else ""  # as it was said: on the command line, or in a file
        problems.append(
            f"{what}: {dashes}cert and {dashes}key go together; give both, or neither for a development "
            "certificate."
        )
    return problems


def differences(before: EdgeConfig, after: EdgeConfig) -> list[str]:
    """The fields that are not the same."""
    return [
        field.name
        for field in dataclasses.fields(EdgeConfig)
        if getattr(before, field.name) != getattr(after, field.name)
    ]
