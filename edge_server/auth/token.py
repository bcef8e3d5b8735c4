"""The token format ``qt1.KEY.SECRET``. The key identifies the token and is public; the secret is never stored."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Final

KEY_BYTES: Final = 10
"""80 bits, 16 characters of base32: unique without coordination."""
SECRET_BYTES: Final = 32
"""256 bits: infeasible to guess at any rate of attempts."""

OPERATOR_KEY_LENGTH: Final = 12
"""Hexadecimal digits."""

_TOKEN: Final = re.compile(r"qt1\.([a-z2-7]{16})\.[A-Za-z0-9_-]{43}")


def new_token() -> tuple[str, str]:
    """Return a new key and the token that carries it."""
    key = base64.b32encode(secrets.token_bytes(KEY_BYTES)).decode().lower()
    return key, f"qt1.{key}.{secrets.token_urlsafe(SECRET_BYTES)}"


def new_file_token() -> str:
    """Return a new token that is kept in a file of the state directory and not in the database: the operator's,
    and that of the operator's page."""
    return new_token()[1]


def operator_key(token: str) -> str:
    """Return the key under which the operator's token owns names: part of its digest, because an operator may have
    chosen a token without a key. It has 12 characters, the keys of other tokens 16."""
    return digest_of(token).hex()[:OPERATOR_KEY_LENGTH]


def key_of(token: str) -> str | None:
    """Return the key of a token; None for a token in another format, such as one that an operator chose."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def digest_of(token: str) -> bytes:
    """Return the SHA-256 digest that is stored instead of the token. A token has 256 random bits, so a slow hash
    would add nothing."""
    return hashlib.sha256(token.encode()).digest()
