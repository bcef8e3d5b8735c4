"""The edge's options: one field each, read from the command line, the environment and a TOML file.

A new option is a new field of :class:`EdgeConfig`; ``docs/tables.py`` then updates its documentation.
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
from edge_server.config.command_line import parse_arguments
from edge_server.config.option_table import option, options_of
from edge_server.config.option_types import (
    ADDRESS,
    DIRECTORY,
    DOMAIN,
    FILE,
    HOST,
    HOSTS,
    OWN_ADDRESS,
    PORTS,
    SECONDS,
    STATE_DIR,
    SWITCH,
    TEXT,
    OptionValue,
    choice,
    named_text,
)
from edge_server.config.sources import CONFIG, MAX_PROBLEMS, ParsedOptions, from_environment, from_file
from quictunnel.errors import ConfigError
from quictunnel.shared.paths import default_state_dir
from quictunnel.transport.engine import CONGESTIONS
from quictunnel.transport.engines import CHOICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


DEFAULT_DOMAIN: Final = "tunnel.localhost"
ENGINE: Final = "QUICTUNNEL_ENGINE"
CONGESTION: Final = "QUICTUNNEL_CONGESTION"
LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
HOLD: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """The options of one edge. Addresses are numeric, or names that resolve to one of this machine's."""

    state_dir: Path = option(
        STATE_DIR,
        "directory for keys, client.env (edge, token and CA for clients on this machine) and the operator's token "
        "(made at the first start, file `token`; permits everything)",
        required=True,
        default_text="the user's state directory, on Linux ~/.local/state/quictunnel",
        group="addresses",
    )
    domain: str = option(DOMAIN, "domain of the tunnels, which are names directly below it", DEFAULT_DOMAIN)
    quic: tuple[str, int] = option(ADDRESS, "UDP address for clients; port 0: any", ("127.0.0.1", 4433))
    https: tuple[str, int] = option(ADDRESS, "TCP address for TLS visitors; port 0: any", ("127.0.0.1", 8443))
    tcp_host: str = option(HOST, "address for plain TCP visitors", "127.0.0.1", default_text="the host of --https")
    tcp_ports: range = option(PORTS, "range of ports for plain TCP visitors", range(20000, 30000))
    public_host: str = option(
        HOST,
        "host under which other machines reach this edge: the host of TCP ports and in credentials",
        "",
        default_text="the host that is listened on; --domain if that is 0.0.0.0 or ::",
    )
    admin: tuple[str, int] | None = option(
        OWN_ADDRESS,
        "address of the operator's page and API, host 127.0.0.1 if only a port is given "
        "(`quictunnel-edge admin url` prints a link to it)",
        default_text="off",
    )
    admin_names: tuple[str, ...] = option(
        HOSTS,
        "host names that requests for the operator's page may have in addition to localhost and IP addresses, "
        "such as that of a reverse proxy or a container",
        (),
        default_text="none",
    )
    cert: Path | None = option(
        FILE,
        "PEM certificate chain for visitors; requires --key",
        default_text="from the development CA",
        group="certificates for visitors",
        live=True,
    )
    key: Path | None = option(FILE, "private key of --cert, PEM", live=True)
    allow_wildcard_h2: bool = option(
        SWITCH,
        "offer HTTP/2 although one wildcard certificate serves all tunnels; browsers may then send requests for "
        "one tunnel to another",
        False,
        live=True,
    )
    error_pages: str = option(
        choice("on", "off"),
        "on: visitors of a name without a tunnel, or of a tunnel that is offline or full, get an error page; "
        "off: they get a TLS alert or a reset",
        "on",
        live=True,
    )
    resolver: str = option(
        named_text("HOST[:PORT]"),
        "DNS server for checking that custom domains point here and, if --acme-dns-zone is another zone, for the "
        "CNAME of _acme-challenge; HOST or HOST:PORT",
        "",
        default_text="the system's",
    )
    skip_domain_check: bool = option(SWITCH, "accept domains without checking that their DNS points here", False)
    acme: str = option(
        named_text("EMAIL"),
        "get certificates for visitors by ACME: your mail address for the certificate authority; you accept its "
        "terms of service",
        "",
        default_text="off",
        group="certificates by ACME",
        alias="acme-email",
    )
    acme_directory: str = option(named_text("URL"), "URL of the ACME server", "", default_text="Let's Encrypt")
    acme_ca: Path | None = option(
        FILE,
        "PEM file of the CA that signed the ACME server's own certificate",
        default_text="the system's authorities",
    )
    acme_challenge: str = option(
        choice(*CHALLENGES),
        "challenge for the edge's names: dns-01 gives one wildcard certificate, the others one certificate for "
        "each name; custom domains use tls-alpn-01 on the port of --https, or http-01 if --acme-http is given",
        "",
        default_text="dns-01 if --acme-dns or --acme-dns-hook is given, else tls-alpn-01",
    )
    acme_http: tuple[str, int] | None = option(
        OWN_ADDRESS,
        "TCP address for http-01 (host 127.0.0.1 if only a port is given), "
        "reachable from outside as port 80; visitors are redirected to https",
        default_text="off",
    )
    acme_dns: str = option(TEXT, "DNS server that accepts dynamic updates (RFC 2136), HOST or HOST:PORT", "")
    acme_dns_zone: str = option(
        HOST,
        "zone to update: it contains _acme-challenge of the domain, or the target of its CNAME",
        "",
        default_text="that of --domain",
    )
    acme_dns_key: str = option(named_text("NAME"), "name of the TSIG key for the updates", "")
    acme_dns_algorithm: str = option(
        choice(*ALGORITHMS), "algorithm of the TSIG key", "", default_text=ALGORITHMS[0]
    )
    acme_dns_secret: Path | None = option(FILE, "file with the TSIG key in base64")
    acme_dns_hook: str = option(
        named_text("COMMAND"),
        "command to run instead of DNS updates, called as COMMAND set|clear NAME VALUE",
        "",
    )
    acme_dns_wait: float | None = option(
        SECONDS, "time between a DNS update and the authority's check", default_text=f"{DNS_WAIT:g}"
    )
    acme_eab: str = option(
        named_text("ID"), "ID of your account with the certificate authority (external account binding)", ""
    )
    acme_eab_key: Path | None = option(FILE, "file with the MAC key of that account in base64url")
    grace: float = option(
        SECONDS,
        "time that active visitors have to finish after SIGTERM",
        30.0,
        group="restarts and outages",
        live=True,
    )
    hold: float = option(
        SECONDS,
        "time that a client which lost its connection has to resume its session; 0: visitors are reset at once",
        float(HOLD),
        live=True,
    )
    takeover: bool = option(
        SWITCH,
        "take over from the running edge with the same state directory without refusing visitors: it hands its "
        "sockets and names over and ends after its last visitor; if none runs, start as usual",
        False,
    )
    engine: str = option(
        choice(*CHOICES),
        "the QUIC engine",
        "auto",
        default_text=f"${ENGINE} or auto",
        group="QUIC",
        fallback=ENGINE,
    )
    congestion: str = option(
        choice(*CONGESTIONS),
        "congestion control towards clients; auto is the best one of the engine",
        "auto",
        default_text=f"${CONGESTION} or auto",
        fallback=CONGESTION,
    )
    log_format: str = option(
        choice(*LOG_FORMATS),
        "text: human-readable lines; json: one JSON object a line",
        "text",
        group="logs",
        live=True,
    )
    hide_token: bool = option(
        SWITCH,
        "print the path of the operator's token (made at the first start, file `token`; permits everything) at "
        "the start instead of the token; for output that is stored, such as a container's log (the token is never "
        "printed to systemd's journal)",
        False,
    )
    log_level: str = option(choice(*LOG_LEVELS), "lowest severity that is logged", "info", live=True)
    qlog: Path | None = option(
        DIRECTORY,
        "write a qlog trace of each QUIC connection into this directory; for debugging: it slows the edge down "
        "and takes up to 1 GB",
        default_text="none",
        live=True,
    )

    @property
    def announced_tcp_host(self) -> str:
        """Return the public name of the plain TCP ports."""
        return self.public_name(self.tcp_host)

    @property
    def acme_options(self) -> AcmeOptions:
        """Return the options of ACME."""
        names = (field.name for field in dataclasses.fields(AcmeOptions))
        return AcmeOptions(**{name: getattr(self, name) for name in names})

    def public_name(self, host: str) -> str:
        """Return the name by which other machines reach a socket that is bound to ``host``."""
        if self.public_host:
            return self.public_host
        return self.domain if host in ("0.0.0.0", "::") else host


OPTIONS: Final = options_of(EdgeConfig)
_DEFAULT_WHEN_EMPTY: Final = frozenset(("state_dir", "tcp_host", "engine", "congestion"))
"""Options for which an empty text means the default."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading the options: the configuration, or the problems."""

    config: EdgeConfig | None
    problems: tuple[str, ...] = ()
    only_check: bool = False
    """``--check-config``."""


def read(argv: Sequence[str], environ: Mapping[str, str] = MappingProxyType({})) -> Reading:
    """Return the configuration, or all problems.

    The command line has precedence over the environment, and the environment over the file.

    Args:
        argv: arguments of the command line.
        environ: environment variables.

    Raises:
        SystemExit: after ``--help`` and ``--version``.
    """
    try:
        arguments = parse_arguments(OPTIONS, argv)
    except ConfigError as error:
        return Reading(None, (str(error),))
    only_check = arguments.pop("check_config", False)
    path = arguments.pop("config", None) or environ.get(CONFIG)
    parsed = ParsedOptions()
    if path:
        from_file(OPTIONS, Path(path), parsed)
    from_environment(OPTIONS, environ, parsed)
    for name, value in arguments.items():
        parsed.values[name] = OptionValue(value, "--" + name.replace("_", "-"))
    config = _config_of(parsed, environ)
    return Reading(config, tuple(parsed.problems[:MAX_PROBLEMS]), only_check)


def parse(argv: Sequence[str], environ: Mapping[str, str] = MappingProxyType({})) -> EdgeConfig:
    """Return the configuration like :func:`read`. Raises ConfigError with the first problem."""
    reading = read(argv, environ)
    if reading.config is None:
        raise ConfigError(reading.problems[0])
    return reading.config


def _config_of(parsed: ParsedOptions, environ: Mapping[str, str]) -> EdgeConfig | None:
    """Return the configuration, or None with the reasons in ``parsed.problems``."""
    values = _values(parsed, environ)
    pair = {name: value for name in ("cert", "key") if (value := parsed.values.get(name)) and value.value}
    if len(pair) == 1:
        (what,) = (value.what for value in pair.values())
        dashes = "--" if what.startswith("--") else ""  # the spelling of the source: command line or file
        parsed.problems.append(
            f"{what}: {dashes}cert and {dashes}key go together; give both, or neither for a development "
            "certificate."
        )
    try:
        if "state_dir" not in parsed.values:
            values["state_dir"] = default_state_dir().absolute()
    except ConfigError as error:
        parsed.problems.append(f"{error} Or set the directory for the edge's keys with --state-dir.")
    if parsed.problems:
        return None
    if "https" in values:
        values.setdefault("tcp_host", values["https"][0])
    config = EdgeConfig(**values)
    try:
        settings_of(config.acme_options)
        if config.resolver:
            read_server(config.resolver, "--resolver")
    except ConfigError as error:
        parsed.problems.append(str(error))
        return None
    return config


def _values(parsed: ParsedOptions, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values by field, in the types of the options; add the problems to ``parsed``."""
    values: dict[str, Any] = {}
    for row in OPTIONS:
        option_value = parsed.values.get(row.field)
        if option_value is not None and option_value.value == "" and row.field in _DEFAULT_WHEN_EMPTY:
            del parsed.values[row.field]
            option_value = None
        if option_value is None and (text := environ.get(row.fallback)):
            option_value = OptionValue(text, row.fallback)
        try:
            if option_value is not None:
                values[row.field] = row.kind.value_of(option_value)
        except ConfigError as error:
            parsed.problems.append(str(error))
    return values


def differences(before: EdgeConfig, after: EdgeConfig) -> list[str]:
    """Return the names of the fields that differ."""
    return [row.field for row in OPTIONS if getattr(before, row.field) != getattr(after, row.field)]
