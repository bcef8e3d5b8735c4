"""The credential ``qt1...``: one string with all that a client needs to use an edge.

It is ``qt1`` and the base64url (without padding) of a MessagePack array and its CRC-32 in four bytes, big-endian.
The array has the addresses of the edge, the SHA-256 fingerprint of its certificate authority (empty if that is a
public one) and the token. The checksum detects a string that was cut off or changed when it was copied; it is no
protection against forgery, and needs to be none: whoever can change the string has the token. Whoever has the
string can open tunnels with the rights of the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from quictunnel.config.secret import Secret
from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address
from quictunnel.shared.lazy_imports import import_module

VERSION: Final = 1
MAX_LENGTH: Final = 2048
"""Characters of a credential. A typical one has 200."""
MAX_ADDRESSES: Final = 8
"""Addresses in a credential: as many as a client dials."""
MAX_TOKEN: Final = 512
"""Characters of a token. The edge's tokens have fewer than 100; a file read by mistake is larger. Far below the 16
KiB that an edge accepts from a client before it has checked the token."""
PIN_BYTES: Final = 32
"""Bytes of a SHA-256 fingerprint."""
CHECKSUM_BYTES: Final = 4

_PREFIX: Final = f"qt{VERSION}"
_VERSION: Final = re.compile(r"qt([0-9]{1,4})")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_Content = tuple[list[str], bytes, str]


@dataclass(frozen=True, slots=True)
class Credential:
    """Addresses, authority and token of an edge. The constructor raises ConfigError for an invalid value."""

    addresses: tuple[str, ...]
    """``host:port`` of the edge's QUIC sockets, 1 to MAX_ADDRESSES."""
    pin: bytes
    """SHA-256 of the DER of the edge's certificate authority; empty: the system's store counts."""
    token: Secret
    """The secret that authorises the client."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise ConfigError(f"A credential has 1 to {MAX_ADDRESSES} addresses, not {len(self.addresses)}.")
        for address in self.addresses:
            parse_address(address, what="The address in the credential")
        if len(self.pin) not in (0, PIN_BYTES):
            raise ConfigError(f"The fingerprint in the credential has {len(self.pin)} bytes, not {PIN_BYTES}.")
        check_token(self.token.reveal(), what="The token in the credential")

    def encode(self) -> str:
        """Return the credential as text. It is a secret. Raises ConfigError if it is too long."""
        content: _Content = (list(self.addresses), self.pin, self.token.reveal())
        body: bytes = import_module("msgspec.msgpack").encode(content)
        text = base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")
        if len(_PREFIX) + len(text) > MAX_LENGTH:
            raise ConfigError(f"The credential would have more than {MAX_LENGTH} characters: use fewer addresses.")
        return _PREFIX + text


def decode(text: str, *, what: str = "The credential") -> Credential:
    """Return the credential that a text contains. Blanks and line breaks in it, as of a terminal, do not count.

    Args:
        text: the text; no error shows any of it.
        what: name of the text in errors.

    Raises:
        ConfigError: the text is not a credential; the message says what is wrong and what to do.
    """
    if len(text) > 2 * MAX_LENGTH:
        raise ConfigError(f"{what} is longer than {MAX_LENGTH} characters: this is something else.")
    text = "".join(text.split())
    data = _bytes_of(text, what)
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    msgspec = import_module("msgspec")  # imported here, because most commands read no credential
    try:
        addresses, pin, token = import_module("msgspec.msgpack").decode(body, type=_Content)
    except (msgspec.DecodeError, ValueError) as error:
        if "truncated" in str(error):
            raise _cut_off(what) from None
        raise _changed(what) from None
    if checksum != _checksum(body):
        raise _changed(what)
    try:
        return Credential(tuple(addresses), pin, Secret(token))
    except ConfigError as error:
        raise ConfigError(f"{what} is not valid: {error}") from None


def is_credential(text: str) -> bool:
    """Return True if a text is meant as a credential of this version. A token begins with ``qt1.`` instead."""
    return text.startswith(_PREFIX) and not text.startswith(f"{_PREFIX}.")


def pin_of(pem: bytes) -> bytes:
    """Return the fingerprint of the first certificate in a PEM file. Raises ValueError if it has none."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    start = pem.index(begin) + len(begin)
    return hashlib.sha256(base64.b64decode(pem[start : pem.index(end, start)])).digest()


def check_token(token: str, *, what: str) -> None:
    """Raise ConfigError unless a token is printable ASCII without spaces.

    A stray newline or quote is reported here and not as a refused token.
    """
    if not token:
        raise ConfigError(f"{what} is empty: it should be the token that the edge gave you.")
    if len(token) > MAX_TOKEN:
        raise ConfigError(f"{what} is longer than {MAX_TOKEN} characters: this is not a token of an edge.")
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError(f"{what} contains a space or a character that is not printable ASCII: copy it again.")


def _bytes_of(text: str, what: str) -> bytes:
    """Return the bytes of a credential's text, which has the right version. Raises ConfigError."""
    if not text:
        raise ConfigError(f"{what} is empty: copy the whole string that begins with {_PREFIX}.")
    version = _VERSION.match(text)
    if version is None:
        raise ConfigError(f"{what} does not begin with {_PREFIX}: copy the whole string that the edge printed.")
    if text.startswith(f"{_PREFIX}."):
        raise ConfigError(
            f"{what} is a token, which has neither the address nor the certificate authority of its edge: set "
            "QUICTUNNEL_TOKEN to it, and QUICTUNNEL_EDGE and QUICTUNNEL_CA, or ask the edge's operator for a "
            "credential (`quictunnel-edge token create` prints one)."
        )
    if int(version[1]) != VERSION:
        raise ConfigError(
            f"{what} has version qt{int(version[1])}, and this quictunnel knows {_PREFIX}: upgrade quictunnel "
            "(`pip install --upgrade quictunnel`)."
        )
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"{what} is longer than {MAX_LENGTH} characters: this is something else.")
    coded = text[len(_PREFIX) :]
    if not _BASE64URL.fullmatch(coded):
        raise ConfigError(
            f"{what} contains a character that no credential has: copy the string again, without quotes or dots."
        )
    if len(coded) % 4 == 1:  # no number of bytes has this many characters
        raise _cut_off(what)
    try:
        data = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except binascii.Error:
        raise _changed(what) from None
    if len(data) <= CHECKSUM_BYTES:
        raise _cut_off(what)
    return data


def _checksum(body: bytes) -> bytes:
    return binascii.crc32(body).to_bytes(CHECKSUM_BYTES, "big")


def _cut_off(what: str) -> ConfigError:
    return ConfigError(f"{what} is cut off: copy the whole string, to its last character.")


def _changed(what: str) -> ConfigError:
    return ConfigError(f"{what} was changed on the way (its checksum is wrong): copy the whole string again.")
