"""The operator's page in a real browser: what it shows is what there is, and nobody else gets at it."""

from __future__ import annotations

import contextlib
import http.server
import logging
import re
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

import quictunnel
from edge_server.admin import history
from quictunnel.connection import edge_connection
from tests.harness.admin_page import (
    CONTRASTS,
    HOSTILE,
    PATIENCE,
    AdminPageRig,
    cells,
    focused_element,
    tab_to,
)
from tests.harness.browser import driven
from tests.harness.sockets import is_reset, receive_exactly
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # A name that is not ours leads here, as one that was rebound would.
    with driven(tmp_path_factory.mktemp("chromium"), "MAP evil.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def rig(browser: Browser, engines) -> Iterator[AdminPageRig]:
    """Edge and page of its own, for tests that end something."""
    with AdminPageRig(browser) as rig:
        yield rig


@pytest.fixture(scope="module")
def module_page(browser: Browser, engines) -> Iterator[AdminPageRig]:
    with AdminPageRig(browser) as rig:
        yield rig


@pytest.fixture
def shared_page(module_page: AdminPageRig) -> Iterator[AdminPageRig]:
    module_page.complaints.clear()
    yield module_page
    for page in module_page.context.pages:
        page.close()
    module_page.close_ends()
    eventually(lambda: module_page.edge.server.visitors == 0, "visitors were left")


def test_page_shows_the_load(browser: Browser, engines, monkeypatch: pytest.MonkeyPatch):
    """Seven visitors, so many bytes each way, in every part of it; and the browser has nothing to complain of."""
    monkeypatch.setattr(history, "SAMPLE_INTERVAL", 0.5)
    with AdminPageRig(browser) as rig:
        name = rig.tunnel.host.partition(".")[0]
        pairs = [rig.pair("tcp") for _ in range(3)] + [rig.pair("tls") for _ in range(4)]
        for visitor, origin in pairs:
            visitor.send(bytes(100_000))
            receive_exactly(origin, 100_000)
            origin.send(bytes(299_999))
            receive_exactly(visitor, 299_999)
        page = rig.open_page()
        for tile, shown in (("visitors", "7"), ("came", "7"), ("tunnels", "1"), ("sessions", "1")):
            expect(page.locator(f"#tile-{tile}")).to_have_text(shown)
        expect(page.locator("#visitors-count")).to_have_text("7")
        visitors = cells(page, "visitors")
        assert len(visitors) == 7
        own = "the operator's token"
        assert {tuple(row[1:3] + row[4:7]) for row in visitors} == {(name, own, "in", "100 kB", "300 kB")}
        assert [row[3] for row in visitors] == ["TLS 1.3"] * 4 + ["tcp"] * 3
        assert {row[0] for row in visitors} == {f"127.0.0.1:{v.sock.getsockname()[1]}" for v, _ in pairs}
        (tunnel,) = cells(page, "tunnels")
        owner = tunnel[2]
        assert tunnel[:2] + tunnel[3:7] == [name, str(rig.tunnel.unencrypted_port), "1", "7", "700 kB", "2.1 MB"]
        assert page.get_by_role("link", name=f"Open {rig.tunnel.url}").get_attribute("href") == rig.tunnel.url
        assert (
            page.locator("#tunnels").get_by_role("link", name=name, exact=True).get_attribute("href")
            == f"#/tunnels/{name}"
        )
        (session,) = cells(page, "sessions")
        whose, _, software, engine, state, rtt, loss, flight, window, streams, held, *_ = session
        assert (whose, state, streams, held) == (owner, "linked", "7", "1")
        assert software.startswith("quictunnel/")
        assert engine in ("native", "aioquic")
        assert re.fullmatch(r"[\d.]+ ms", rtt)
        assert re.fullmatch(r"[\d.]+ %", loss)
        assert re.fullmatch(r"[\d.]+ k?B", flight)
        assert re.fullmatch(r"[\d.]+ [kM]?B", window)
        assert cells(page, "addresses") == [["127.0.0.1", "2.8 MB", "7"]]
        assert cells(page, "busiest") == [[name, "2.8 MB", "7"]]
        ((names, source, good_for, *_),) = cells(page, "certificates")
        assert (names, source, good_for) == (
            "*.tunnel.localhost, tunnel.localhost",
            "files or development",
            "years",
        )
        chart = page.get_by_role("img", name="Visitors, last hour")
        expect(chart).to_have_attribute("aria-label", "Visitors, last hour: 7; at most 7")
        expect(chart.locator(".line")).to_have_attribute("d", re.compile("^M.*L"))
        visitor, origin = pairs[0]
        for tile, giver, taker in (("rateIn", visitor, origin), ("rateOut", origin, visitor)):
            giver.send(bytes(50_000))
            receive_exactly(taker, 50_000)
            expect(page.locator(f"#tile-{tile}")).to_have_text(re.compile(r"^[\d.]+ kB/s$"))
        rig.close_ends()
        expect(page.locator("#tile-visitors")).to_have_text("0", timeout=PATIENCE)
        expect(page.locator("#visitors")).to_contain_text("No visitor is connected.")
        assert rig.complaints == []


def test_hostile_text_is_escaped(shared_page: AdminPageRig, monkeypatch: pytest.MonkeyPatch):
    """HTML in what a client calls itself and in a line of the log."""
    monkeypatch.setattr(edge_connection, "SOFTWARE", HOSTILE)
    logging.getLogger("edge_server.test").warning("%s", HOSTILE)
    page = shared_page.open_page()
    with (
        quictunnel.Client.from_config(shared_page.edge.client_config) as client,
        quictunnel.forward(shared_page.origin_port, client=client),
    ):
        expect(page.locator("#sessions")).to_contain_text(HOSTILE)
    expect(page.locator("#errors")).to_contain_text(HOSTILE)
    assert page.locator("main img, main script").count() == 0
    assert "owned" not in page.title()
    assert shared_page.complaints == []
    # Nor could a script of the page's own make HTML of it by mistake.
    careless = "(text) => { try { document.body.innerHTML = text; } catch (e) { return e.name; } }"
    assert page.evaluate(careless, HOSTILE) == "TypeError"


def test_page_without_the_token_is_only_a_form(shared_page: AdminPageRig):
    asked = []
    page = shared_page.page()
    page.on("request", lambda request: asked.append(request.url.removeprefix(shared_page.url)))
    page.goto(shared_page.url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert not any(path.startswith("api/") for path in asked)
    assert page.locator("#view").is_hidden()
    page.get_by_label("Token", exact=True).fill("not the token")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("token is missing or wrong")
    assert page.locator("#view").is_hidden()
    page.get_by_label("Token", exact=True).fill(shared_page.token)
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("live")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert [text for text in shared_page.complaints if "401" not in text] == []


def test_the_token_of_a_link_stays_with_this_tab_and_page(shared_page: AdminPageRig):
    page = shared_page.open_page()
    assert page.url == shared_page.url
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    other = shared_page.page()
    other.goto(shared_page.url)
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    assert shared_page.context.cookies() == []


class _HostilePage(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>evil</title>")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def evil_site() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _HostilePage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


FETCH = """async ([url, options]) => {
  try { const r = await fetch(url, options); return [r.type, r.status, await r.text()]; }
  catch (error) { return error.name; }
}"""
FRAME = """(url) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.onload = () => done(frame.contentDocument === null);
  frame.src = url;
  document.body.append(frame);
})"""


def test_another_page_can_neither_read_nor_do_anything(shared_page: AdminPageRig):
    """Of another port of the same host, with everything that a page may send, even with the token."""
    visitor, _ = shared_page.pair("tcp")
    (one,) = shared_page.operator.get("/visitors")["items"]
    kill = f"{shared_page.url}api/v1/visitors/{one['id']}/end"
    headers = {"Authorization": f"Bearer {shared_page.token}"}
    with evil_site() as port:
        for host in ("127.0.0.1", "localhost"):
            page = shared_page.page()
            page.goto(f"http://{host}:{port}/")
            for url in (
                shared_page.url,
                f"{shared_page.url}api/v1/edge",
                f"{shared_page.url}api/v1/events",
                f"{shared_page.url}healthz",
            ):
                assert page.evaluate(FETCH, [url, {}]) == "TypeError"
                assert page.evaluate(FETCH, [url, {"headers": headers}]) == "TypeError"
            assert page.evaluate(FETCH, [kill, {"method": "POST", "headers": headers}]) == "TypeError"
            blind = page.evaluate(FETCH, [kill, {"method": "POST", "mode": "no-cors"}])
            assert blind in (["opaque", 0, ""], "TypeError")
            assert page.evaluate(FRAME, shared_page.url) is True  # what shows there is the browser's own refusal
            assert "Sign in" not in "".join(frame.content() for frame in page.frames)
            page.close()
    visitor.send(b"still here")
    assert shared_page.operator.get("/visitors")["total"] == 1


def test_a_name_that_was_rebound_leads_to_nothing(shared_page: AdminPageRig):
    """A page of evil.example, which now resolves to this address, is of the origin that it asks."""
    page = shared_page.page()
    port = httpx.URL(shared_page.url).port
    answer = page.goto(f"http://evil.example:{port}/")
    assert answer is not None
    assert answer.status == 421
    headers = {"Authorization": f"Bearer {shared_page.token}"}
    for path in ("/", "/api/v1/edge", "/healthz"):
        kind, status, text = page.evaluate(FETCH, [path, {"headers": headers}])
        assert (kind, status) == ("basic", 421)
        assert "tunnel.localhost" not in text


def test_a_visitor_is_ended_with_the_keyboard_alone(rig: AdminPageRig):
    page = rig.open_page()
    stays, _ = rig.pair("tcp")
    goes, _ = rig.pair("tcp")
    stays_at, goes_at = (end.sock.getsockname()[1] for end in (stays, goes))
    expect(page.locator("#visitors-count")).to_have_text("2")
    label = f"End visitor 127.0.0.1 port {goes_at}"
    tab_to(page, label)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    rig.pair("tcp")  # a newcomer changes the table, and not where the keyboard is
    expect(page.locator("#visitors-count")).to_have_text("3")
    assert focused_element(page) == label
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="End this visitor?")
    expect(dialog).to_be_visible()
    assert focused_element(page) == "Cancel"
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert focused_element(page) == label
    assert rig.operator.get("/visitors")["total"] == 3
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused_element(page) == "End the visitor"
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text(f"Visitor 127.0.0.1 port {goes_at} is ended.")
    assert is_reset(goes)
    expect(page.locator("#visitors-count")).to_have_text("2")
    assert focused_element(page).startswith("Visitors now"), "and goes on from the table"
    assert page.get_by_role("button", name=f"End visitor 127.0.0.1 port {stays_at}").is_visible()
    stays.send(b"still here")
    assert rig.complaints == []


def test_a_session_is_traced_with_the_keyboard_alone(rig: AdminPageRig):
    page = rig.open_page()
    ((owner, address, *_),) = cells(page, "sessions")
    label = f"Trace session of {owner} at {address}"
    tab_to(page, label)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Trace this session?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Tab")
    assert focused_element(page) == "Trace the session"
    in_the_way = rig.edge.server.config.state_dir / "qlog"
    in_the_way.write_text("")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("cannot be made")
    in_the_way.unlink()
    page.get_by_role("button", name="Trace the session").focus()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    (file,) = in_the_way.iterdir()
    expect(page.locator("#said")).to_have_text(f"The session of {owner} is traced to {file}.")
    expect(page.locator("#traces")).to_have_text(f"{owner} at {address} is traced to {file}")
    width = page.locator("#sessions").evaluate("(table) => table.scrollWidth - table.parentElement.clientWidth")
    assert width <= 0, "the buttons are beside the screen"
    label = f"Stop tracing session of {owner} at {address}"
    expect(page.get_by_role("button", name=label)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused_element(page) == "Stop tracing"
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text(f"The session of {owner} is no longer traced. The file is {file}.")
    expect(page.locator("#traces")).to_be_hidden()
    expect(page.get_by_role("button", name=f"Trace session of {owner} at {address}")).to_be_focused()
    assert [text for text in rig.complaints if "409" not in text] == []


def test_a_tunnel_and_a_session_are_ended_and_the_edge_is_drained(rig: AdminPageRig):
    page = rig.open_page()
    name = rig.tunnel.host.partition(".")[0]
    page.get_by_role("button", name=f"Close tunnel {name}").click()
    page.get_by_role("button", name="Close the tunnel").click()
    expect(page.locator("#tunnels")).to_contain_text("No tunnel is open.")
    page.get_by_role("button", name=re.compile("^End session of")).click()
    page.get_by_role("button", name="End the session").click()
    expect(page.locator("#sessions")).to_contain_text("No client is connected.")
    assert not rig.edge.server.drain_requested.is_set()
    page.get_by_role("button", name="Drain the edge").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain the edge").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    eventually(rig.edge.server.drain_requested.is_set, "the edge does not drain")
    assert rig.complaints == []


def test_page_reports_a_lost_edge_and_reconnects(rig: AdminPageRig):
    page = rig.open_page()
    feed = rig.edge.server.admin._app._events
    loop = rig.edge._background.loop
    page.context.set_offline(True)
    loop.call_soon_threadsafe(feed._closed.set)
    expect(page.locator("#state")).to_contain_text("unreachable")
    loop.call_soon_threadsafe(feed._closed.clear)
    page.context.set_offline(False)
    expect(page.locator("#state")).to_have_text("live", timeout=PATIENCE)


def test_page_fits_screens_and_has_contrast(shared_page: AdminPageRig):
    """On a phone and on a screen, by day and by night: nothing beside the page, and text against its ground."""
    shared_page.pair("tls")
    logging.getLogger("edge_server.test").error("something to show")
    page = shared_page.open_page()
    expect(page.locator("#visitors-count")).to_have_text("1")
    for width, scheme in ((360, "light"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 50
        assert min(contrasts.values()) >= 4.5, {what: of for what, of in contrasts.items() if of < 4.5}
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
