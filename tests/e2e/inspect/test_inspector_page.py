"""The inspector's page in Chromium: what a developer sees and does, and who is not let in."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

from playwright.sync_api import expect
from websockets.sync.client import connect

import quictunnel
from quictunnel.inspect import limits
from tests.harness.inspected_tunnel import (
    HOSTILE,
    InspectedTunnel,
    Origin,
    Quiet,
    serving,
)
from tests.harness.inspector_page import PageErrors, cells, open_page, row
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def send_known_requests(inspected: InspectedTunnel) -> list[tuple[str, str, int, int, int]]:
    """Send a known set of requests; return method, path, status, bytes sent and bytes received of each."""
    inspected.curl(inspected.url("/json?a=b"))
    inspected.curl(inspected.url("/post"), "--json", '{"tea": 2}')
    packed = len(inspected.curl(inspected.url("/gzip"), "--header", "Accept-Encoding: gzip"))
    inspected.curl("--head", inspected.url("/json"))
    inspected.curl("--request", "DELETE", inspected.url("/nothing"))
    inspected.curl("--data", "x" * 5000, "--header", "Expect: 100-continue", inspected.url("/continue"))
    inspected.curl("--data", "in chunks", "--header", "Transfer-Encoding: chunked", inspected.url("/chunks"))
    inspected.curl(*(inspected.url(f"/many/{number}") for number in range(20)))  # over one connection
    with connect(
        inspected.tunnel.url.replace("https", "wss") + "/ws",
        sock=socket.create_connection(("127.0.0.1", inspected.tunnel.port)),
        ssl=ssl.create_default_context(cafile=str(inspected.edge.ca)),
        server_hostname=inspected.tunnel.host,
    ) as websocket:
        for text in ("hello", "grüß dich"):
            websocket.send(text)
            assert websocket.recv() == text.upper()
    return [
        ("GET", "/json?a=b", 200, 0, 27),
        ("POST", "/post", 201, 10, 7),
        ("GET", "/gzip", 200, 0, packed),
        ("HEAD", "/json", 200, 0, 0),
        ("DELETE", "/nothing", 204, 0, 0),
        ("POST", "/continue", 201, 5000, 9),
        ("POST", "/chunks", 201, 9, 6),
        *(("GET", f"/many/{number}", 200, 0, 5) for number in range(20)),
        ("GET", "/ws", 101, 0, 0),
    ]


def test_a_known_set_of_requests(inspected: InspectedTunnel, page: Page) -> None:
    """Requests of each kind appear with all that is known of them, in the API and on the page, while they pass."""
    open_page(page, inspected)
    assert inspected.token not in page.url, "what opens the page does not stay in the address bar"
    expected = send_known_requests(inspected)
    found = inspected.settled(28)
    assert [
        (each["method"], each["target"], each["status"], each["sent"], each["received"]) for each in found
    ] == expected
    assert all(each["duration"] > 0 for each in found)
    assert len({inspected.ask(f"api/exchanges/{number}")[1]["connection"] for number in range(8, 28)}) == 1
    assert inspected.ask("api/exchanges/6")[1]["interim"] == [100]
    assert inspected.ask("api/exchanges/4")[1]["response"]["headers"][-2:] == [
        ["content-length", "27"],
        ["content-type", "application/json"],
    ]
    expect(page.locator("#count")).to_have_text("28")
    expect(row(page, 28).locator("td").nth(3)).to_have_text("101")
    for number, (method, target, status, _, _) in enumerate(expected, 1):
        assert cells(page, number)[1:4] == [method, target, str(status)]
    row(page, 2).click()
    expect(page.locator("#title")).to_have_text("#2 POST /post")
    expect(page.locator("#parts .json").first).to_contain_text("tea: 2")
    page.get_by_role("button", name="Indented").click()
    expect(page.locator("#parts .body").first).to_have_text('{\n  "tea": 2\n}')
    page.get_by_role("button", name="As it came").click()
    expect(page.locator("#parts .body").first).to_have_text('{"tea": 2}')
    expect(page.locator("#parts .headers").first).to_contain_text("application/json")
    expect(page.locator("#facts")).to_contain_text("201 Created")
    row(page, 3).click()
    expect(page.locator("#parts .body")).to_contain_text("told in full told in full")
    row(page, 28).click()
    expect(page.locator(".messages li")).to_have_count(6)  # with both words of farewell
    assert page.locator(".messages pre").all_text_contents()[:4] == ["hello", "HELLO", "grüß dich", "GRÜSS DICH"]


def test_browser_only_encodings_are_readable(inspected: InspectedTunnel, page: Page) -> None:
    open_page(page, inspected)
    for number, coding in enumerate(("br", "zstd"), 1):
        inspected.curl(inspected.url(f"/{coding}"))
        inspected.settled(number)
        row(page, number).click()
        expect(page.locator("#title")).to_have_text(f"#{number} GET /{coding}")
        expect(page.locator("#parts .body")).to_contain_text("told in full told in full")


def test_by_keyboard_and_by_filter(inspected: InspectedTunnel, page: Page) -> None:
    open_page(page, inspected)
    send_known_requests(inspected)
    inspected.settled(28)
    expect(page.locator("#count")).to_have_text("28")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#title")).to_have_text("#27 GET /many/19")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#right")).to_be_hidden()
    expect(page.locator("#rows")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("post chunks")
    expect(page.locator("#count")).to_have_text("1 of 28")
    page.locator("#text").fill("")
    page.locator("#method").select_option("HEAD")
    expect(page.locator("#count")).to_have_text("1 of 28")
    page.locator("#method").select_option("")
    page.locator("#status").select_option("websocket")
    expect(page.locator("#rows tr:visible")).to_have_count(1)
    page.locator("#status").select_option("")
    page.locator("#pause").click()
    inspected.curl(inspected.url("/paused"))
    inspected.settled(29)
    page.locator("#text").fill("paused")
    expect(page.locator("#count")).to_have_text("0 of 28")
    page.locator("#pause").click()
    expect(page.locator("#count")).to_have_text("1 of 29")
    page.locator("#clear").click()
    expect(page.locator("#empty")).to_be_visible()
    assert inspected.listed() == []


def test_stream_is_shown_as_it_arrives(inspected: InspectedTunnel, origin: Origin, page: Page) -> None:
    open_page(page, inspected)
    with inspected.raw() as visitor:
        visitor.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        row(page, 1).click()
        expect(page.locator("#parts .body")).to_have_text("data: first")
        expect(row(page, 1).locator("td").nth(3)).to_have_text("200")
        assert inspected.listed()[0]["state"] == "open"
        origin.more.set()
        expect(page.locator("#parts .body")).to_contain_text("data: last")
        expect(page.locator("#facts")).to_contain_text("done")


def test_hostile_bytes_are_shown_as_text(inspected: InspectedTunnel, page: Page) -> None:
    open_page(page, inspected)
    inspected.curl(inspected.url("/hostile"))
    path = "/<img/src=x/onerror=alert(3)>?" + "a" * 5000
    with inspected.raw() as visitor:
        visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-H: {HOSTILE}\r\nConnection: close\r\n\r\n".encode())
        while visitor.recv(65536):
            pass
    inspected.curl(inspected.url("/binary"))
    with inspected.raw() as visitor:
        visitor.sendall(HOSTILE.encode() + b"\r\n\r\n\x00\xff")
        visitor.settimeout(20)
        with contextlib.suppress(OSError):  # the origin may reset what is no request
            while visitor.recv(65536):
                pass
    inspected.settled(4)
    expect(page.locator("#rows tr")).to_have_count(4)
    row(page, 1).click()
    expect(page.locator("#parts .body")).to_have_text(HOSTILE)
    expect(page.locator("#parts .headers").nth(1)).to_contain_text(HOSTILE)
    row(page, 2).click()
    expect(page.locator("#title")).to_contain_text("<img/src=x/onerror=alert(3)>")
    expect(page.locator("#parts .headers").first).to_contain_text(HOSTILE)
    row(page, 3).click()
    expect(page.locator("#parts .bytes")).to_contain_text("00000000  00 01 02 03")
    row(page, 4).click()
    expect(page.locator("#title")).to_have_text("#4 bytes")
    expect(page.locator("#parts .bytes").first).to_contain_text("3c 69 6d 67 20 73 72 63")
    assert page.evaluate("document.querySelectorAll('main img, main script, main a, main iframe').length") == 0


def test_replay_and_copy(inspected: InspectedTunnel, origin: Origin, page: Page) -> None:
    open_page(page, inspected)
    body = 'it\'s "$5" `now`\n\\n €'
    inspected.curl("--data-binary", body, "--header", 'X-Odd: a\'b "$c" `d`', inspected.url("/order?x='1'"))
    row(page, 1).click()
    page.locator("#replay").click()
    expect(page.locator("#title")).to_have_text("#2 POST /order?x='1'")
    expect(row(page, 2).locator(".tag")).to_have_text("replay of #1")
    expect(page.locator("#facts")).to_contain_text("201 Created")
    expect(page.locator("#facts")).to_contain_text("Replay of")
    assert [(method, path, text.decode()) for method, path, text in origin.asked] == [("POST", "/order", body)] * 2
    page.locator("#curl").click()
    expect(page.locator("#said")).to_have_text("Copied.")
    command = page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["sh", "-c", f"{command} -sS"], check=True, capture_output=True, timeout=20)
    assert origin.asked[2] == origin.asked[0]
    page.locator("#title").focus()
    page.keyboard.press("r")
    expect(page.locator("#title")).to_contain_text("#3 ")
    expect(page.locator("#facts")).to_contain_text("201 Created")
    assert len(origin.asked) == 4
    with inspected.raw() as visitor:
        visitor.sendall(b"\x16\x03\x01 no request")
        eventually(lambda: inspected.listed()[-1]["kind"] == "raw", "not seen")
        number = inspected.listed()[-1]["id"]
        row(page, number).click()
        expect(page.locator("#replay")).to_be_disabled()
        expect(page.locator("#notes")).to_contain_text("TLS")
    assert inspected.ask(f"api/exchanges/{number}/replay", "POST")[0] == 409
    assert inspected.ask(f"api/exchanges/{number}/curl")[0] == 409
    assert inspected.ask("api/exchanges/999/replay", "POST")[0] == 404


def test_requests_of_others_are_refused(inspected: InspectedTunnel) -> None:
    inspected.curl(inspected.url("/json"))
    for headers in ({"authorization": ""}, {"authorization": "Bearer guess"}):
        assert inspected.ask("api/exchanges", **headers)[0] == 401
    for path, method in (("clear", "POST"), ("exchanges/1/replay", "POST"), ("events", "GET")):
        assert inspected.ask(f"api/{path}", method, authorization="")[0] == 401
        assert inspected.ask(f"api/{path}", method, origin="http://evil.example")[0] == 403
        assert inspected.ask(f"api/{path}", method, host="evil.example")[0] == 421
    assert inspected.ask("", host="evil.example")[0] == 421
    for path in ("api/clear", "api/exchanges/1/replay"):
        assert inspected.ask(path)[0] == 405, "nothing is done by GET"
    assert len(inspected.listed()) == 1


def test_a_page_without_the_token(inspected: InspectedTunnel, page: Page, complaints: PageErrors) -> None:
    inspected.curl(inspected.url("/json"))
    page.goto(inspected.base)
    expect(page.locator("#locked")).to_contain_text("opened without its token")
    expect(page.locator("#locked")).to_contain_text("print(tunnel.inspector_url)")
    expect(page.locator("#address")).to_be_focused()
    assert page.locator("#rows tr").count() == 0
    page.keyboard.type("guess")
    page.keyboard.press("Enter")
    expect(page.locator("#locked")).to_contain_text("not the one of this tunnel")
    page.locator("#address").fill(inspected.page_url)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#locked")).to_be_hidden()
    assert all("401" in said for said in complaints.take())


def test_an_address_with_another_token_in_the_same_tab(
    inspected: InspectedTunnel, page: Page, complaints: PageErrors
) -> None:
    """The next tunnel has the same port, so its address differs after the # alone."""
    page.goto(inspected.base + "#" + "old")
    expect(page.locator("#locked")).to_contain_text("not the one of this tunnel")
    page.goto(inspected.page_url)
    expect(page.locator("#link")).to_have_text("Live")
    assert all("401" in said for said in complaints.take())


TRIES = """async ([url, token]) => {
    const tried = [];
    for (const options of [{}, {mode: "no-cors", method: "POST"}, {headers: {authorization: `Bearer ${token}`}},
                           {method: "POST", headers: {authorization: `Bearer ${token}`}}]) {
        try {
            const answer = await fetch(url + "api/clear", options);
            tried.push(answer.type + (await answer.text()));
        } catch (error) { tried.push("refused"); }
    }
    return tried;
}"""


def test_another_site_in_the_same_browser(inspected: InspectedTunnel, page: Page, complaints: PageErrors) -> None:
    """Even if it knew the token."""
    inspected.curl(inspected.url("/json"))
    with serving(Quiet) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        found = page.evaluate(TRIES, [inspected.base, inspected.token])
        page.goto("about:blank")
    assert found == ["refused"] * 4
    assert len(inspected.listed()) == 1
    assert complaints.take()


def test_a_name_that_was_rebound_to_this_machine(inspected: InspectedTunnel, chromium: Browser) -> None:
    port = inspected.base.rsplit(":", 1)[1].strip("/")
    with chromium.new_context() as context:
        answer = context.new_page().goto(f"http://rebound.example:{port}/#{inspected.token}")
        assert answer is not None
        assert answer.status == 421


def test_thousands_of_requests(inspected: InspectedTunnel, page: Page) -> None:
    """The page follows, keeps the newest, and stays usable."""
    open_page(page, inspected)
    context = ssl.create_default_context(cafile=str(inspected.edge.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", inspected.tunnel.port, context=context)
    connection.sock = inspected.raw()
    for number in range(1500):
        connection.request("GET", f"/n/{number}", headers={"Host": "x"})
        connection.getresponse().read()
    connection.close()
    eventually(lambda: inspected.listed()[-1]["target"] == "/n/1499", "it does not come to the last")
    last = inspected.settled(limits.MAX_EXCHANGES)[-1]
    expect(row(page, last["id"])).to_be_visible()
    expect(page.locator("#rows tr")).to_have_count(limits.MAX_EXCHANGES)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#title")).to_contain_text("/n/1499")


def test_http_1_0_exchange_and_a_tunnel_that_ends(edge, client, page: Page, complaints: PageErrors) -> None:
    with serving(Quiet) as port:
        with quictunnel.forward(port, client=client, inspect=True) as tunnel:
            inspected = InspectedTunnel(edge, tunnel)
            open_page(page, inspected)
            inspected.curl("--http1.0", inspected.url("/old"))
            (seen,) = inspected.settled(1)
            assert (seen["state"], seen["received"]) == ("done", 27)
            assert inspected.ask("api/exchanges/1")[1]["version"] == "1.0"
            before = time.monotonic()
        assert time.monotonic() - before < 5, "an open page does not hold the tunnel"
        expect(page.locator("#link")).to_have_text("The tunnel has ended.")
        page.goto("about:blank")
        complaints.take()  # it could not connect any more
