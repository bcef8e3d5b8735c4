"""The operator's databases in memory: all edges of an episode read the same ones, as a successor does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edge_server.auth.permissions import Permissions
from edge_server.auth.token import digest_of, key_of
from edge_server.auth.token_store import TokenEntry
from edge_server.tunnels.ownership_store import BANNED_OWNER, Claim

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN: Final = "a-token-of-the-model"
"""The token of most programs, which stays good."""
SECOND_TOKEN: Final = f"qt1.{'a' * 16}.{'s' * 43}"
"""A token that may be revoked."""


class TokenStore:
    """Tokens beside the operator's token (``edge_server.auth.token_store.TokenStore``)."""

    def __init__(self) -> None:
        self.is_revoked = False

    def changes(self) -> int:
        return int(self.is_revoked)

    def entries(self) -> list[TokenEntry]:
        key = key_of(SECOND_TOKEN)
        assert key is not None
        return [TokenEntry(key, digest_of(SECOND_TOKEN), "", 0, 1 if self.is_revoked else None, Permissions())]

    def close(self) -> None: ...


class ClaimStore:
    """Names and ports that were asked for (``edge_server.tunnels.ownership_store.OwnershipStore``); without a
    history."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._changes = 0

    def ban(self, name: str) -> None:
        """Withdraw a name for good."""
        self._claims[name] = Claim(name, BANNED_OWNER, 0)
        self._changes += 1

    def changes(self) -> int:
        return self._changes

    def claims(self) -> list[Claim]:
        return list(self._claims.values())

    def write(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            before = self._claims.get(claim.subject)
            if before is None or not before.is_banned:
                self._claims[claim.subject] = claim

    def remove_these(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._claims.pop(claim.subject, None)

    def add_to_history(self, entries: Any) -> None: ...

    def close(self) -> None: ...
