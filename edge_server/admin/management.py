"""Operations of the API that use the databases of the state directory. Changes are in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from edge_server.admin.actions import RefusedError, write_audit
from edge_server.admin.lists import ListQuery
from edge_server.admin.name_management import NameManagement
from edge_server.admin.requests import RequestError, list_query
from edge_server.admin.state_databases import StateDatabases
from edge_server.admin.token_management import TokenManagement
from edge_server.admin.tunnel_detail import MAX_ENTRIES, TunnelDetail, mentions
from edge_server.auth.permission_texts import PermissionTextError
from edge_server.tunnels.claim_names import ClaimNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.admin.lists import Page
    from edge_server.admin.models import ReadModels
    from edge_server.admin.name_management import ChangedName, Events, Name, NameRequest
    from edge_server.admin.recent_errors import RecentErrors
    from edge_server.admin.token_management import CreatedToken, NewToken, Token, TokenChange
    from edge_server.admin.tunnel_detail import TunnelHistory
    from edge_server.admin.visit_history import VisitHistory
    from edge_server.tunnels.name_directory import NameDirectory
P = ParamSpec("P")
T = TypeVar("T")


class Management:
    """The operations. Each raises ConfigError when a database cannot be used.

    Args of those that change something: ``who``, the address of the operator for the log.
    """

    def __init__(
        self, directory: Path, names: NameDirectory, owner_name: Callable[[str], str], domain: str
    ) -> None:
        """Open nothing yet.

        Args:
            directory: the state directory.
            names: the names of tunnels.
            owner_name: returns the name of an owner.
            domain: the domain of the edge.
        """
        self._databases = StateDatabases(directory)
        self._tokens = TokenManagement(self._databases.tokens, directory)
        self._names = NameManagement(self._databases.names, owner_name, domain)
        self._directory = names

    def close(self) -> None:
        """Close the databases when what was requested is done."""
        self._databases.close()

    async def wait_closed(self) -> None:
        """Close the databases and wait until they are closed."""
        await self._databases.wait_closed()

    async def tokens(self, only: str, **query: Any) -> Page[Token]:
        """Return a page of the tokens."""
        return await self._databases.run(self._tokens.page, list_query(query), only)

    async def create_token(self, body: NewToken, who: str) -> CreatedToken:
        """Create a token. The log has its key and never the token."""
        created = await self._change(self._tokens.create, body)
        key = created.entry.key
        write_audit(who, f"creates token {key} ({created.entry.note or 'no note'})", "create token", key)
        return created

    async def change_token(self, target: str, body: TokenChange, who: str) -> Token | None:
        """Change a token. Raises RefusedError if it is revoked."""
        changed = await self._change(self._tokens.change, target, body)
        if changed is None:
            if await self._databases.run(self._tokens.shown, target) is not None:
                raise RefusedError("The token is revoked; create another one.")
            return None
        write_audit(who, f"changes token {target} ({changed.note or 'no note'})", "change token", target)
        return changed

    async def revoke_token(self, target: str, who: str) -> Token | None:
        """Revoke a token."""
        revoked = await self._databases.run(self._tokens.revoke, target)
        if revoked is not None:
            write_audit(who, f"revokes token {target} ({revoked.note or 'no note'})", "revoke token", target)
        return revoked

    async def names(self, only: str, **query: Any) -> Page[Name]:
        """Return a page of the owners of names, and of bans."""
        return await self._databases.run(self._names.page, list_query(query), only, self._directory.in_use)

    async def name_history(self, limit: int, name: str, owner: str) -> Events:
        """Return the history of names."""
        return await self._databases.run(self._names.history, limit, name, owner)

    async def release_name(self, body: NameRequest, who: str) -> ChangedName | None:
        """Release a name or lift a ban."""
        released = await self._change(self._names.release, body.name)
        if released is not None:
            write_audit(who, f"releases {released.name}", "release name", released.name)
        return released

    async def ban_name(self, body: NameRequest, who: str) -> ChangedName:
        """Ban a name, port or network."""
        banned = await self._change(self._names.ban, body.name)
        write_audit(who, f"bans {banned.name}", "ban name", banned.name)
        return banned

    async def tunnel(
        self,
        target: str,
        models: ReadModels,
        samples: TunnelHistory,
        visits: VisitHistory,
        errors: RecentErrors,
    ) -> TunnelDetail | None:
        """Return what is known of a tunnel, or None if nothing is."""
        events = (await self.name_history(MAX_ENTRIES, target, "")).items if target else []
        query = ListQuery(limit=MAX_ENTRIES)
        tunnel, ended = models.tunnel(target), visits.page(query, tunnel=target)
        if tunnel is None and not events and not ended.total:
            return None
        found = (record for record in errors.recent().items if mentions(record, target))
        return TunnelDetail(
            name=target,
            tunnel=tunnel,
            every=samples.interval,
            samples=samples.samples(target),
            visitors=models.visitors(query, only=target),
            visits=ended,
            events=events,
            errors=list(found)[:MAX_ENTRIES],
        )

    async def _change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change in the thread of the databases. Raises RequestError if a text of the request is wrong."""
        try:
            return await self._databases.run(function, *args, **kwargs)
        except (PermissionTextError, ClaimNameError) as error:
            raise RequestError("wrong-body", str(error)) from None
