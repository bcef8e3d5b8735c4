"""Options of whole runs: how much of what can go on for ever is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quictunnel")
    group.addoption(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="run every test that asks for a seed with N of them (default 1)",
    )
