"""What a token looks like: ``qt1.KEY.SECRET``. The key names it and may be seen; the secret is never kept."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Final

KEY_BYTES: Final = 10
"""80 bits, 16 characters of base32: unique without asking."""
SECRET_BYTES: Final = 32
"""256 bits: nobody guesses it, however many tries an hour."""

_TOKEN: Final = re.compile(r"qt1\.([a-z2-7]{16})\.[A-Za-z0-9_-]{43}")


def new_token() -> tuple[str, str]:
    """A key, and the token that it names."""
    key = base64.b32encode(secrets.token_bytes(KEY_BYTES)).decode().lower()
    return key, f"qt1.{key}.{secrets.token_urlsafe(SECRET_BYTES)}"


def new_operator_token() -> str:
    """Return a new token for the edge's operator, who is not in the registry of tokens."""
    return new_token()[1]


def key_of(token: str) -> str | None:
    """The key that a token names; None for one that is not of this form, as those that an operator chose are."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def digest_of(token: str) -> bytes:
    """What is kept of a token. It has 256 random bits, so that a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).digest()
