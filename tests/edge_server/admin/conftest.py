"""Visitor connections as a visitor log records them, without a transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_server.tunnels.visitor_log import VisitorConnection

if TYPE_CHECKING:
    from collections.abc import Callable


class FixedVisitor(VisitorConnection):
    """Visitor connection whose byte counts are set by the test."""

    __slots__ = ("moved",)

    @property
    def bytes_in(self) -> int:
        return self.moved[0]

    @property
    def bytes_out(self) -> int:
        return self.moved[1]


@pytest.fixture
def visit() -> Callable[..., FixedVisitor]:
    def make(
        host: str = "192.0.2.1", tunnel_name: str = "shop", bytes_in: int = 0, bytes_out: int = 0
    ) -> FixedVisitor:
        made = FixedVisitor(host, 50_000, "tcp", tunnel_name=tunnel_name, owner="owner")
        made.moved = bytes_in, bytes_out
        return made

    return make
