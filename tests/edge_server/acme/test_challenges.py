"""A certificate from a real ACME server by each kind of challenge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.edge_server.acme.conftest import Authority, stand_for

if TYPE_CHECKING:
    from pathlib import Path


async def test_by_tls_alpn(authority: Authority, tmp_path: Path):
    async with stand_for(tmp_path, authority.pebble, tls_port=authority.tls_port) as stand:
        stand.want("app.example.com")
        standing = await stand.until_held("app.example.com")
        assert standing.names == ("app.example.com",)
        assert await stand.serial("app.example.com", authority.roots)
        assert not stand.office.answers.tls
