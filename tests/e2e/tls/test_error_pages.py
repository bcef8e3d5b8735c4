"""Error pages of a whole edge: unknown names, tunnels that are offline or full, the bound on pages."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import quictunnel
from tests.harness import browser
from tests.harness.echo_origin import EchoOrigin, echoes
from tests.harness.edge_process import EdgeProcess, embedded_edge, start_edge
from tests.harness.programs import free_port
from tests.harness.token_commands import client_of, new_token
from tests.harness.visitors import curl, read_all, tls_connect, was_reset
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_server.embedded import EmbeddedEdge

BROWSER = ["--header", "Accept: text/html,application/xhtml+xml,*/*;q=0.8"]
UNKNOWN = "abcdefghijklmno2.tunnel.localhost"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def embedded() -> Iterator[EmbeddedEdge]:
    with embedded_edge() as edge:
        yield edge


def port_of(edge: EdgeProcess) -> int:
    """Return the port for TLS visitors, as a client learns it."""
    with edge.client() as client, quictunnel.forward(9, client=client) as tunnel:
        return tunnel.port


def visit(
    port: int, name: str, ca: Any, *, source: str = "127.0.0.1", alpn: tuple[str, ...] = ()
) -> ssl.SSLSocket:
    """Open a verified TLS connection for a name from an address of loopback."""
    context = ssl.create_default_context(cafile=str(ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    raw = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
    return context.wrap_socket(raw, server_hostname=name)


def test_a_wrong_name_gets_a_page_or_a_line(edge: EdgeProcess):
    url = f"https://{UNKNOWN}:{port_of(edge)}/<script>alert(1)</script>"
    line = curl(edge, "--include", url).stdout.decode()
    assert line.startswith("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain")
    assert line.endswith("\r\n\r\n404 Not Found: there is no open tunnel at this address.\n")
    page = curl(edge, "--include", *BROWSER, url).stdout.decode()
    assert page.startswith("HTTP/1.1 404 Not Found\r\nContent-Type: text/html")
    assert "Cache-Control: no-store" in page
    assert "Content-Security-Policy: default-src 'none'" in page
    assert "<h1>No tunnel here</h1>" in page
    assert "script" not in page
    assert UNKNOWN.partition(".")[0] not in page
    head = curl(edge, "--head", url).stdout.decode()
    assert head.startswith("HTTP/1.1 404 Not Found\r\n")
    posted = curl(edge, "--include", "--data-binary", "x" * 10_000, url).stdout
    assert posted.startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_names_without_a_tunnel_look_alike(edge: EdgeProcess, client: quictunnel.Client):
    """Given back, claimed and not in use, forbidden to this visitor, never known, the domain itself."""
    with quictunnel.forward(1, client=client) as tunnel:
        port, gone = tunnel.port, tunnel.host
    with quictunnel.forward(1, name="pages-once", client=client) as tunnel:
        claimed = tunnel.host
    with quictunnel.forward(1, client=client, allow=["192.0.2.0/24"]) as forbidden:
        answers = set()
        for number, name in enumerate((gone, claimed, UNKNOWN, forbidden.host, "tunnel.localhost")):
            with visit(port, name, edge.ca, source=f"127.0.1.{number}") as visitor:
                visitor.sendall(GET)
                certificate = visitor.getpeercert(binary_form=True)
                answers.add((read_all(visitor), certificate, visitor.version(), visitor.cipher()))
    assert len(answers) == 1


def test_a_browser_that_offers_h2_gets_http_1(edge: EdgeProcess):
    with visit(port_of(edge), UNKNOWN, edge.ca, alpn=("h2", "http/1.1")) as visitor:
        assert visitor.selected_alpn_protocol() == "http/1.1"
        visitor.sendall(GET)
        assert read_all(visitor).startswith(b"HTTP/1.1 404")


def test_other_protocols_are_reset(edge: EdgeProcess):
    with visit(port_of(edge), UNKNOWN, edge.ca) as visitor:
        visitor.sendall(b"\x00\x01 this is no request")
        assert was_reset(visitor)


def test_other_domains_get_an_alert(edge: EdgeProcess):
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        visit(port_of(edge), "a.example.com", edge.ca)


def test_pages_can_be_turned_off(tmp_path: Path):
    edge = start_edge(tmp_path / "state", "--error-pages", "off")
    try:
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            visit(port_of(edge), UNKNOWN, edge.ca)
    finally:
        assert edge.stop() == 0


@pytest.mark.early
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["terminated", "passthrough"])
def test_a_tunnel_that_is_offline(edge: EdgeProcess, kind: str, tmp_path: Path):
    """After the ten seconds that visitors wait for its client."""
    program = (
        "import sys, quictunnel\n"
        'with quictunnel.forward(9, **({"tls": sys.argv[1]} if sys.argv[1] else {})) as tunnel:\n'
        "    print(tunnel.host, tunnel.port, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    options = "passthrough" if kind == "passthrough" else ""
    process = subprocess.Popen(
        [sys.executable, "-c", program, options],
        env=os.environ | edge.environ | {"HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    host, port = process.stdout.readline().split()
    process.kill()
    process.communicate()
    url = f"https://{host}:{port}/"
    if kind == "passthrough":
        with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as raw:
            context = ssl.create_default_context()
            with pytest.raises(OSError):  # noqa: PT011 - whichever OpenSSL makes of a reset
                context.wrap_socket(raw, server_hostname=host)
        return
    # The edge notices after half a minute that the link is lost; then visitors wait for the client.
    deadline = time.monotonic() + 100
    answer = b""
    while not answer and time.monotonic() < deadline:
        answer = answered(edge, url)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 10\r\n" in answer
    assert b"<h1>This tunnel is offline</h1>" in answer


def answered(edge: EdgeProcess, url: str) -> bytes:
    """Return the answer to a browser's request; empty if there is none in time."""
    return curl(edge, "--include", "--max-time", "15", *BROWSER, url).stdout


def test_a_visitor_beyond_the_limit_of_a_token(edge: EdgeProcess, client: quictunnel.Client):
    token = new_token(edge, "--visitors", "1")
    with (
        EchoOrigin() as origin,
        client_of(edge, token) as limited,
        quictunnel.forward(origin.port, client=limited) as tunnel,
        tls_connect(edge, tunnel) as first,
    ):
        assert echoes(first)
        answer = curl(edge, "--include", tunnel.url).stdout.decode()
        assert answer.startswith("HTTP/1.1 503 Service Unavailable\r\n")
        assert "Retry-After: 30\r\n" in answer
        assert answer.endswith("this tunnel takes no more visitors at the moment.\n")
        assert echoes(first)


def test_a_pool_whose_local_services_are_down(edge: EdgeProcess, client: quictunnel.Client):
    """The client refuses such a visitor so that the edge can try another one; the edge answers in the end."""
    with quictunnel.forward(free_port(), pool=True, name="dead-pool", client=client) as tunnel:
        answer = curl(edge, "--include", *BROWSER, tunnel.url).stdout
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"<h1>The local service does not answer</h1>" in answer
        eventually(lambda: client.snapshot().visitors_now == 0, "the visitor stays")
        posted = curl(edge, "--include", "--data-binary", "x" * 10_000, tunnel.url).stdout
        assert posted.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


def test_a_flood_of_strangers_is_bounded_and_harms_nobody(embedded: EmbeddedEdge):
    """From one address and from many; beyond the bound they get the alert as before."""
    pages = embedded.server.services.error_pages
    ca, port = embedded.server.ca, embedded.server.https_port
    with (
        EchoOrigin() as origin,
        quictunnel.Client.from_config(embedded.client_config) as client,
        quictunnel.forward(origin.port, client=client) as tunnel,
        contextlib.ExitStack() as stack,
    ):
        live = stack.enter_context(visit(port, tunnel.host, ca))
        assert echoes(live)
        alone = outcomes(stack, port, ca, ["127.0.0.2"] * 40)
        assert alone.count("page") == 8
        assert alone.count("alert") == 32
        many = outcomes(stack, port, ca, [f"127.0.{a}.{b}" for a, b in itertools.product((3, 4), range(1, 81))])
        assert many.count("page") <= 64 - 8
        assert many.count("page") > 0
        assert many.count("alert") == 160 - many.count("page")
        assert pages.without_tunnel.used <= pages.without_tunnel.limit == 64
        began = time.monotonic()
        assert echoes(live)
        with visit(port, tunnel.host, ca) as new:
            assert echoes(new)
        assert time.monotonic() - began < 5
    eventually(lambda: pages.without_tunnel.used == 0, "places are not given back")
    eventually(lambda: not len(embedded.server.introspection.tls_listener.pending), "connections stay")


def outcomes(stack: contextlib.ExitStack, port: int, ca: Any, sources: list[str]) -> list[str]:
    """Connect from each address, complete the handshake if possible, and stay silent."""
    found = []
    for source in sources:
        try:
            stack.enter_context(visit(port, UNKNOWN, ca, source=source))
            found.append("page")
        except ssl.SSLError as error:
            found.append("alert" if "unrecognized" in str(error).lower() else str(error))
    return found


def test_a_browser_shows_the_page(edge: EdgeProcess, tmp_path: Path):
    port = port_of(edge)
    with visit(port, UNKNOWN, edge.ca) as visitor:
        trust = browser.trusting(visitor.getpeercert(binary_form=True))
    url = f"https://{UNKNOWN}:{port}/"
    command = browser.command(tmp_path, UNKNOWN, "127.0.0.1", trust, "--dump-dom", url)
    shown = subprocess.run(
        command, env=browser.environment(tmp_path), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "<h1>No tunnel here</h1>" in shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme_and_breaks_no_policy(edge: EdgeProcess, tmp_path: Path, scheme: Any):
    with (
        edge.client() as client,
        quictunnel.forward(free_port(), client=client) as tunnel,
        browser.driven(tmp_path, f"MAP {tunnel.host} 127.0.0.1") as driven,
    ):
        page = driven.new_page(
            ignore_https_errors=True, color_scheme=scheme, viewport={"width": 390, "height": 700}
        )
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        response = page.goto(tunnel.url)
        assert response is not None
        assert response.status == 502
        assert page.inner_text("h1") == "The local service does not answer"
        colour = page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
        assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(26, 32, 40)"}[scheme]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.wait_for_load_state("networkidle")
        page.close()
    assert [text for text in said if "502" not in text] == []
