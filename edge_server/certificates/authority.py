"""The development authority: a private CA for edges on one's own machines, and the leaf certificates it signs.

It is created once, stored in a directory and reloaded; a client that trusts its ``ca.pem`` trusts every later
leaf. The holder of ``ca.key`` can impersonate any site to these clients, so it never leaves that directory and
only its owner can read it. Not for the public Internet: there an operator uses a certificate of a public
authority.

The callers decide which leaf to issue.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from typing import TYPE_CHECKING, Final

import trustme
from cryptography import x509

from quictunnel.errors import ConfigError, InvalidError
from quictunnel.shared.files import PUBLIC, create_once, make_directory, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LEAF_DAYS: Final = 397
"""Days. Browsers distrust leaves of public authorities above 398 days; Apple's distrust private ones above 825."""

MAX_NAMES: Final = 100
"""Names in one leaf: more is a mistake, and the certificate would no longer fit the first flight."""

_ORGANIZATION: Final = "quictunnel development authority"
_HOST: Final = re.compile(
    r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


class DevelopmentAuthority:
    """A CA with an ECDSA P-256 key. Clients have to trust the file ``certificate``."""

    def __init__(self, authority: trustme.CA, certificate: Path) -> None:
        """Wrap an existing authority; :meth:`load_or_create` finds it."""
        self._authority = authority
        self.certificate = certificate

    @property
    def pem(self) -> bytes:
        """Return the content of ``certificate``."""
        return self._authority.cert_pem.bytes()

    @classmethod
    def load_or_create(cls, directory: Path) -> DevelopmentAuthority:
        """Return the authority of ``directory``, created if there is none. Concurrent processes all get the same
        one. Raises ConfigError."""
        key_file = directory / "ca.key"
        try:
            if not key_file.exists():
                make_directory(directory)
                # Key and certificate are in one file, so processes that start together agree on both.
                create_once(key_file, _new_authority())
            pem = key_file.read_bytes()
            authority = _parse(pem, key_file)
            certificate = directory / "ca.pem"
            public = authority.cert_pem.bytes()
            if not certificate.exists() or certificate.read_bytes() != public:
                replace_file(certificate, public, mode=PUBLIC)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError(f"Cannot keep a development authority in {directory}: {reason}.") from error
        return cls(authority, certificate)

    def issue(self, names: Iterable[str], *, as_long_as_the_authority: bool = False) -> tuple[bytes, bytes]:
        """Issue a new leaf certificate.

        Args:
            names: hosts, ``*.`` wildcards and IP addresses, 1 to 100 of them.
            as_long_as_the_authority: valid for the authority's whole lifetime, whatever the clock says;
                otherwise for :data:`LEAF_DAYS` from now on, as browsers require.

        Returns:
            The chain and the key in PEM.

        Raises:
            InvalidError: a name is invalid, or their number is.
        """
        checked = [_check_name(name) for name in names]
        if not 0 < len(checked) <= MAX_NAMES:
            raise InvalidError(f"A certificate takes 1 to {MAX_NAMES} names, not {len(checked)}.")
        # Start a day earlier, for clients whose clocks are behind.
        begin = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        end = begin + dt.timedelta(days=LEAF_DAYS)
        if as_long_as_the_authority:
            own = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes())
            begin, end = own.not_valid_before_utc, own.not_valid_after_utc
        leaf = self._authority.issue_cert(
            *checked,
            organization_name=_ORGANIZATION,
            not_before=begin,
            not_after=end,
            key_type=trustme.KeyType.ECDSA,
        )
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return chain, leaf.private_key_pem.bytes()


def _new_authority() -> bytes:
    # No intermediate authorities below it: it signs leaves only.
    authority = trustme.CA(path_length=0, organization_name=_ORGANIZATION, key_type=trustme.KeyType.ECDSA)
    return authority.private_key_pem.bytes() + authority.cert_pem.bytes()


def _parse(pem: bytes, path: Path) -> trustme.CA:
    cut = pem.find(b"-----BEGIN CERTIFICATE-----")
    try:
        if cut < 0:
            raise ValueError("no certificate")
        return trustme.CA.from_pem(pem[cut:], pem[:cut])
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} does not contain a development authority. Remove it to create a new one; clients must then"
            " trust the new ca.pem."
        ) from error


def _check_name(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass  # not an address, so a host name
    lowered = name.lower()
    if not _HOST.fullmatch(lowered):
        raise InvalidError(f"Not a host name or IP address: {name[:80]!r}.")
    return lowered
