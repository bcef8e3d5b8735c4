"""The figures: well named, documented, complete, and constant in number whatever visitors send."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import re
import secrets
import shutil
import socket
import ssl
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_server.admin.models import ReadModels
from edge_server.certificates.acme.certificate_manager import RenewalPolicy
from edge_server.certificates.acme.errors import AcmeError
from edge_server.certificates.acme.service import AcmeService
from edge_server.certificates.acme.settings import AcmeSettings
from edge_server.certificates.context_store import ContextStore
from edge_server.certificates.policy import CertificatePolicy
from edge_server.observability.metrics import METRICS, PREFIX, PROCESS_METRICS, read_metrics
from edge_server.observability.prometheus import Exposition
from edge_server.storage.steady_clock import Clock
from edge_server.tunnels.visitor_log import Histogram
from quictunnel.shared.version import VERSION
from tests.edge_server.certificates.acme.fake_certificates import issue

if TYPE_CHECKING:
    from prometheus_client import Metric

    from edge_server.observability.introspection import Introspection
    from edge_server.server import RunningEdge

DOCUMENT = Path(__file__).parents[3] / "docs" / "METRICS.md"
NAMES = 2_000
ALERT = bytes((21, 3, 3, 0, 2, 2, 112))  # unrecognized_name (RFC 6066 section 3)


@pytest.fixture
def engine() -> str:
    """Whichever there is, where nothing depends on it."""
    return "auto"


def families(introspection: Introspection) -> dict[str, Metric]:
    text = Exposition(introspection).text().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def series(introspection: Introspection) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in families(introspection).values()
        for sample in family.samples
    }


async def test_every_figure_is_read_with_every_value_of_its_labels(introspection):
    found = dict(read_metrics(introspection))
    assert set(found) == {name for name, figure in METRICS.items() if figure.kind != "histogram"}
    for name, samples in found.items():
        values = METRICS[name].labels.values()
        if all(values):
            assert set(samples) == set(itertools.product(*values)), name
        else:
            assert len(samples) == 1, name
    assert found["build_info"].popitem()[0][0] == VERSION


async def test_names_follow_the_rules(introspection):
    """https://prometheus.io/docs/practices/naming/"""
    for name, figure in METRICS.items():
        assert re.fullmatch("[a-z][a-z_]*[a-z]", name), name
        assert name.endswith("_total") == (figure.kind == "counter"), name
        assert not re.search("_(ms|us|minutes|kib|mb|bits|percent)(_|$)", name), f"{name}: not a base unit"
        assert figure.description.endswith("."), name
        assert figure.labels.keys() & {"name", "owner", "host", "address", "sni", "visitor", "tunnel"} == set()
    for family in families(introspection).values():
        assert family.documentation, family.name


async def test_prometheus_own_tool_finds_nothing_to_complain_about(introspection):
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    run = asyncio.subprocess.create_subprocess_exec
    program = await run(tool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    said = await asyncio.wait_for(program.communicate(Exposition(introspection).text()), 20)
    assert (program.returncode, *said) == (0, b"", b"")


async def test_exposed_metrics_match_the_documentation(introspection):
    scraped = {
        family.name + ("_total" if family.type == "counter" else "") for family in families(introspection).values()
    }
    rows = r"^\| `(\w+)` \| (?:counter|gauge|histogram) \|"
    documented = set(re.findall(rows, DOCUMENT.read_text(), re.MULTILINE))
    of_the_process = set(PROCESS_METRICS) if sys.platform == "linux" else set()
    assert documented == {PREFIX + name for name in METRICS} | set(PROCESS_METRICS)
    assert scraped == documented - set(PROCESS_METRICS) | of_the_process


async def test_alarms_and_examples_of_the_document_use_figures_that_exist():
    used = set(re.findall(r"\b(?:quictunnel|process)_[a-z_]+", DOCUMENT.read_text()))
    known = {PREFIX + name for name in METRICS} | set(PROCESS_METRICS)
    assert used <= known


async def test_released_certificates_raise_no_expiry_alarm(introspection: Introspection, tmp_path: Path):
    """Certificates of released names are not renewed and would raise a false alarm."""
    certificates, wanted, now = ContextStore(), {"a.example.org", "b.example.org"}, time.time()
    settings = AcmeSettings(email="you@example.com", directory="https://acme.example.net/dir")
    wants = RenewalPolicy(own=(), is_needed=wanted.__contains__)
    service = AcmeService(settings, tmp_path, certificates, wants, clock=Clock(), https_port=443)
    manager = service.manager
    for name, days in (("a.example.org", 10), ("b.example.org", 60)):
        manager.request(name, "somebody", alone=False)
        manager._on_ordered(manager._scheduler.certificates[name], issue(name, now=now, days=days))
    manager._on_ordered(manager._scheduler.certificates["a.example.org"], AcmeError("no"))
    introspection = dataclasses.replace(introspection, certificates=CertificatePolicy(certificates, service))
    assert dict(read_metrics(introspection))["acme_orders_total"] == {("obtained",): 2, ("failed",): 1}
    for days in (10, 60):
        ends = dict(read_metrics(introspection))["certificate_expiry_timestamp_seconds"]["visitors",]
        assert ends == pytest.approx(now + days * 86_400, abs=2)
        assert ReadModels(introspection).edge().certificate_expires_at == ends
        wanted.discard("a.example.org")


def hello(name: str) -> bytes:
    """Return a ClientHello for that name."""
    outgoing = ssl.MemoryBIO()
    tls = CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


CONTEXT = ssl.create_default_context()


async def test_two_thousand_random_names_add_nothing(edge: RunningEdge, introspection: Introspection):
    """Random names come over connections of their own, within the edge's domain and outside."""
    exposition = Exposition(introspection)
    before, size = series(introspection), len(exposition.text())
    edge.services.error_pages.is_on = False  # those of the domain would get a handshake
    loop = asyncio.get_running_loop()
    numbers = itertools.count()

    async def send_random_names() -> None:
        for number in numbers:
            if number >= NAMES:
                return
            domain = edge.config.domain if number % 2 else f"{secrets.token_hex(4)}.example"
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", edge.https_port))
                await loop.sock_sendall(sock, hello(f"{secrets.token_hex(8)}.{domain}"))
                with contextlib.suppress(ConnectionResetError):  # when there were too many
                    assert await loop.sock_recv(sock, 64) == ALERT

    await asyncio.gather(*(send_random_names() for _ in range(64)))
    after = exposition.text()
    assert series(introspection) == before
    assert len(after) - size < 500, "no more than longer numbers"
    assert sum(introspection.tls_listener.outcomes.values()) >= NAMES - 64
    assert introspection.visitor_log.admitted_total.total() == 0


def test_durations_are_counted_by_class():
    classes = Histogram()
    for seconds in (0.0005, 0.001, 0.002, 5.0, 1e6):
        classes.count(seconds)
    assert classes.counts[:2] == [2, 1]
    assert classes.counts[-1] == 1
    assert sum(classes.counts) == 5
