"""Another configuration for an edge that serves: each option that says so really changes, the others do not."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from edge_server.config.edge_config import OPTIONS, EdgeConfig
from edge_server.observability import logs
from edge_server.startup import start_edge
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from edge_server.server import RunningEdge


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.getLogger("asyncio").setLevel(logging.NOTSET)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    authority = trustme.CA()
    for name, domain in (("one", "*.tunnel.localhost"), ("two", "*.tunnel.localhost"), ("other", "*.example")):
        leaf = authority.issue_cert(domain)
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    return tmp_path


@pytest.fixture
async def server(files: Path) -> AsyncIterator[RunningEdge]:
    config = EdgeConfig(
        state_dir=files / "state",
        quic=("127.0.0.1", 0),
        https=("127.0.0.1", 0),
        cert=files / "one.pem",
        key=files / "one.key",
        engine=os.environ.get("QUICTUNNEL_ENGINE") or "auto",
    )
    server = await start_edge(config)
    yield server
    await server.stop()


def context(server: RunningEdge) -> object:
    return server.services.certificates.context_for("a.tunnel.localhost", h2=False)


def holds(server: RunningEdge) -> tuple[float, float]:
    return server.services.sessions.hold, server.services.pending.hold


def may_h2(server: RunningEdge) -> bool:
    return server.services.certificates.h2_allowed("a.tunnel.localhost")


# Of each live option: another value, and what is to be seen of it.
EFFECTS: dict[str, tuple[Any, Callable[[RunningEdge], object]]] = {
    "allow_wildcard_h2": (True, may_h2),
    "error_pages": ("off", lambda server: server.services.error_pages.is_on),
    "grace": (3.0, lambda server: server.config.grace),
    "hold": (4.0, holds),
    "log_format": ("json", lambda _: isinstance(logging.getLogger().handlers[0].formatter, logs.JsonFormatter)),
    "log_level": ("error", lambda _: logging.getLogger().level),
    "qlog": ("traces", lambda server: type(server.introspection.endpoint._engine)),  # below the test's directory
}
TOGETHER = {"cert", "key"}
"""Tested as a pair."""


def test_every_option_that_may_change_is_tested_here():
    assert {row.field for row in OPTIONS if row.live} == set(EFFECTS) | TOGETHER


@pytest.mark.parametrize("field", EFFECTS)
async def test_reload_applies_live_options(server, field, files):
    value, look = EFFECTS[field]
    if field == "qlog":
        value = files / value
    before = look(server)
    outcome = await server.reconfigure(dataclasses.replace(server.config, **{field: value}))
    assert (outcome.changed, outcome.waiting) == ((field.replace("_", "-"),), ())
    assert look(server) != before
    assert getattr(server.config, field) == value


async def test_a_certificate_changes(server, files):
    before = context(server)
    other = dataclasses.replace(server.config, cert=files / "two.pem", key=files / "two.key")
    assert (await server.reconfigure(other)).changed == ("cert", "key")
    assert context(server) is not before
    assert (await server.reconfigure(other)).changed == ()


async def test_other_options_wait_for_a_restart(server):
    before = server.config
    wanted = dataclasses.replace(before, domain="a.example", tcp_ports=range(5, 6), grace=1.0)
    outcome = await server.reconfigure(wanted)
    assert (outcome.changed, outcome.waiting) == (("grace",), ("domain", "tcp-ports"))
    assert server.config == dataclasses.replace(before, grace=1.0)
    assert (await server.reconfigure(wanted)).waiting == ("domain", "tcp-ports")  # said again each time


async def test_files_instead_of_the_development_authority_wait(server):
    outcome = await server.reconfigure(dataclasses.replace(server.config, cert=None, key=None))
    assert (outcome.changed, outcome.waiting) == ((), ("cert", "key"))


async def test_of_a_certificate_that_cannot_be_used_nothing_changes(server, files):
    before, met = server.config, context(server)
    wanted = dataclasses.replace(before, cert=files / "other.pem", key=files / "other.key", grace=1.0)
    with pytest.raises(ConfigError, match=r"does not cover \*\.tunnel\.localhost"):
        await server.reconfigure(wanted)
    assert server.config == before
    assert context(server) is met
