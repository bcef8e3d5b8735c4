"""Settings of ACME: the options that begin with ``--acme``, validated."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address, short_repr

if TYPE_CHECKING:
    from pathlib import Path

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
"""Directory URL of Let's Encrypt."""
TLS_ALPN, HTTP, DNS = CHALLENGES = ("tls-alpn-01", "http-01", "dns-01")
ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
"""TSIG algorithms (RFC 8945 section 6); SHA-1 and MD5 are omitted on purpose."""
DNS_PORT: Final = 53
DNS_WAIT: Final = 5.0
"""Seconds from a change of the zone to the validation: NOTIFY reaches secondaries in less."""
MAX_EMAIL: Final = 254
"""Characters: RFC 5321 section 4.5.3.1.3, less the brackets."""
MAX_SECRET: Final = 4096
"""Bytes of a file with a key; real ones have a hundred."""
MAX_KEY_ID: Final = 255
"""Characters of an external account's key ID."""

_NEEDS: Final = ("acme", "dns", "josepy")


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsUpdates:
    """The server for dynamic updates (RFC 2136) and its key (TSIG, RFC 8945)."""

    server: tuple[str, int]
    zone: str
    key: str
    algorithm: str
    secret: Path
    """File with the key, read when it is needed because its content is secret."""
    resolver: tuple[str, int] | None = None
    """Resolver for names outside the zone; None: the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBinding:
    """An existing account of the operator at the CA (RFC 8555 section 7.3.4)."""

    key_id: str
    secret: Path
    """File with the MAC key in base64url."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeTimings:
    """Intervals and timeouts in seconds. Not options: these suit public CAs, and tests have others."""

    first_retry: float = 120.0
    """Upper bound of the first wait after a failure. Let's Encrypt lets a name fail five times an hour."""
    min_retry: float = 10.0
    max_retry: float = 6 * 3600.0
    order: float = 180.0
    """Timeout of one order as a whole, validations included."""
    network: float = 20.0
    """Timeout of one request to the ACME server as a whole."""
    poll: float = 1.0
    """Interval between polls of a validation."""
    renewal_info: float = 6 * 3600.0
    """Interval between requests for the suggested renewal time (RFC 9773 section 4.3.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeSettings:
    """All settings of ACME."""

    email: str
    directory: str = LETS_ENCRYPT
    ca: Path | None = None
    """CA that signs the directory's certificate, where the system's do not."""
    challenge: str = TLS_ALPN
    """Challenge for the edge's own names. Custom domains never use dns-01: their zones belong to others."""
    http: tuple[str, int] | None = None
    updates: DnsUpdates | None = None
    hook: tuple[str, ...] = ()
    dns_wait: float = DNS_WAIT
    binding: AccountBinding | None = None
    timings: AcmeTimings = AcmeTimings()

    @property
    def client_challenge(self) -> str:
        """Challenge for names that are validated one by one."""
        if self.challenge != DNS:
            return self.challenge
        return HTTP if self.http is not None else TLS_ALPN


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeOptions:
    """The operator's options for ACME, named and typed as those of the edge, but not checked together yet."""

    domain: str
    acme: str
    acme_directory: str
    acme_ca: Path | None
    acme_challenge: str
    acme_http: tuple[str, int] | None
    acme_dns: str
    acme_dns_zone: str
    acme_dns_key: str
    acme_dns_algorithm: str
    acme_dns_secret: Path | None
    acme_dns_hook: str
    acme_dns_wait: float | None
    acme_eab: str
    acme_eab_key: Path | None
    resolver: str


DEPENDENT_OPTIONS: Final = (
    "acme_directory", "acme_ca", "acme_challenge", "acme_http", "acme_dns", "acme_dns_zone", "acme_dns_key",
    "acme_dns_algorithm", "acme_dns_secret", "acme_dns_hook", "acme_dns_wait", "acme_eab", "acme_eab_key",
)  # fmt: skip
"""Options that require ``acme``."""
PRIVATE_SUFFIXES: Final = frozenset(("localhost", "test", "invalid", "local", "internal", "example"))
"""Top-level names for which no public CA issues certificates (RFC 6761, RFC 6762)."""


def settings_of(options: AcmeOptions) -> AcmeSettings | None:
    """Return the settings of a configuration; None without ACME. Raises ConfigError."""
    if not options.acme:
        if dependent := sorted(name for name in DEPENDENT_OPTIONS if getattr(options, name) not in (None, "")):
            raise ConfigError(f"{_flag(dependent[0])} needs --acme EMAIL, which turns ACME on.")
        return None
    _check_email(options.acme)
    _check_packages()
    directory = _url(options.acme_directory or LETS_ENCRYPT)
    if directory == LETS_ENCRYPT and options.domain.rpartition(".")[2] in PRIVATE_SUFFIXES:
        raise ConfigError(
            f"--acme needs a --domain of your own: no public authority issues certificates for {options.domain}."
        )
    updates, hook = _updates(options), _hook(options.acme_dns_hook)
    if updates is not None and hook:
        raise ConfigError("--acme-dns and --acme-dns-hook exclude each other: use one of them.")
    return AcmeSettings(
        email=options.acme,
        directory=directory,
        ca=_file(options.acme_ca, "acme_ca"),
        challenge=_challenge(options, can_update_dns=updates is not None or bool(hook)),
        http=options.acme_http,
        updates=updates,
        hook=hook,
        dns_wait=options.acme_dns_wait if options.acme_dns_wait is not None else DNS_WAIT,
        binding=_binding(options),
    )


def _check_email(email: str) -> None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or len(email) > MAX_EMAIL or not email.isascii():
        raise ConfigError(f"--acme should be an e-mail address such as you@example.com, not {short_repr(email)}.")


def _check_packages() -> None:
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise ConfigError(
            f"--acme needs packages that are not installed ({', '.join(missing)}): pip install 'quictunnel[edge]'"
        )


def _challenge(options: AcmeOptions, *, can_update_dns: bool) -> str:
    challenge = options.acme_challenge or (DNS if can_update_dns else TLS_ALPN)
    if challenge == DNS and not can_update_dns:
        raise ConfigError("--acme-challenge dns-01 needs --acme-dns (with a key) or --acme-dns-hook.")
    if challenge == HTTP and options.acme_http is None:
        raise ConfigError("--acme-challenge http-01 needs --acme-http HOST:PORT, which visitors reach as port 80.")
    return challenge


def read_secret(path: Path, what: str, *, url_safe: bool = False) -> bytes:
    """Return a key from a file in base64. Raises ConfigError, whose message contains nothing of the content."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SECRET + 1).removeprefix(codecs.BOM_UTF8).strip()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror or error}.") from None
    alternative = b"-_" if url_safe else None
    try:
        key = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=alternative, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key or len(text) > MAX_SECRET:
        raise ConfigError(f"{what} {path} does not contain a key in base64{'url' * url_safe}.")
    return key


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_good = parts.scheme == "https" and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(f"--acme-directory should be an https:// URL, not {short_repr(value)}.")
    return value


def _file(path: Path | None, name: str) -> Path | None:
    if path is None:
        return None
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{_flag(name)} {path} cannot be read: {error.strerror or error}.") from None
    return path


def _updates(options: AcmeOptions) -> DnsUpdates | None:
    names = ("acme_dns", "acme_dns_key", "acme_dns_secret")
    if not any(getattr(options, name) for name in (*names, "acme_dns_zone", "acme_dns_algorithm")):
        return None
    for name in names:
        if not getattr(options, name):
            raise ConfigError(f"RFC 2136 needs {_flag(name)} as well: the server, the key's name and its file.")
    zone, key = (options.acme_dns_zone or options.domain).lower().rstrip("."), options.acme_dns_key.rstrip(".")
    for name, value in (("acme_dns_zone", zone), ("acme_dns_key", key)):
        # The names of keys are DNS names as well (RFC 8945 section 4.2), of any number of labels.
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value) or ".." in value:
            raise ConfigError(f"{_flag(name)} should be a DNS name, not {short_repr(value)}.")
    secret = _file(options.acme_dns_secret, "acme_dns_secret")
    assert secret is not None
    read_secret(secret, "--acme-dns-secret")
    algorithm = options.acme_dns_algorithm or ALGORITHMS[0]
    return DnsUpdates(
        server=read_server(options.acme_dns, "--acme-dns"),
        zone=zone,
        key=key,
        algorithm=algorithm,
        secret=secret,
        resolver=read_server(options.resolver, "--resolver") if options.resolver else None,
    )


def read_server(text: str, what: str) -> tuple[str, int]:
    """Parse the address of a name server, HOST or HOST:PORT. Raises ConfigError with the option ``what``."""
    has_port = re.fullmatch(r"\[[^]]*\]:[0-9]+|[^:]+:[0-9]+", text) is not None
    if not has_port and ":" in text and not text.startswith("["):
        text = f"[{text}]"
    return parse_address(text if has_port else f"{text}:{DNS_PORT}", what=what, any_port=False)


def _hook(value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ConfigError(f"--acme-dns-hook {short_repr(value)} is not a valid command: {error}.") from None


def _binding(options: AcmeOptions) -> AccountBinding | None:
    key_id, secret = options.acme_eab, _file(options.acme_eab_key, "acme_eab_key")
    if bool(key_id) != (secret is not None):
        raise ConfigError("--acme-eab and --acme-eab-key go together: the key's ID and the file that holds it.")
    if secret is None:
        return None
    if len(key_id) > MAX_KEY_ID:
        raise ConfigError(f"--acme-eab should be a key ID of at most {MAX_KEY_ID} characters.")
    read_secret(secret, "--acme-eab-key", url_safe=True)
    return AccountBinding(key_id=key_id, secret=secret)
