"""The inspector's page and bodies, in Chromium: readable forms, search, edited replay, export."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import brotli
import pytest
import zstandard
from playwright.sync_api import expect
from websockets.sync.client import connect

from quictunnel.inspect import limits
from tests.harness.inspected_tunnel import HOSTILE, MIB, InspectedTunnel, Origin, png
from tests.harness.inspector_page import PageErrors, open_page, row
from tests.inspect.har_format import check_har

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

JSON = {"content-type": "application/json"}


def show(page: Page, inspected: InspectedTunnel, *arguments: str, count: int = 1) -> None:
    """Send a request, and open its details."""
    open_page(page, inspected)
    inspected.curl(*arguments)
    number = inspected.settled(count)[-1]["id"]
    row(page, number).click()
    expect(page.locator("#title")).to_contain_text(f"#{number} ")


def test_json_is_folded(inspected: InspectedTunnel, origin: Origin, page: Page) -> None:
    value = {"teas": [{"name": HOSTILE, "price": 3.5, "sold out": None}], "wide": list(range(1000))}
    origin.served["/fold"] = (json.dumps(value).encode(), JSON)
    show(page, inspected, inspected.url("/fold"))
    tree = page.locator("#parts .tree")
    expect(tree.locator(".string").first).to_have_text(json.dumps(HOSTILE))
    wide = tree.locator("details", has_text="1000 items").last
    assert wide.get_attribute("open") is None, "a long list is folded at first"
    wide.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(wide.locator(":scope > .leaf")).to_have_count(100)
    wide.get_by_role("button", name="Show 100 of 900 more").click()
    expect(wide.locator(":scope > .leaf")).to_have_count(200)
    page.get_by_role("button", name="Fold all", exact=True).click()
    expect(wide).not_to_have_attribute("open", "")
    page.get_by_role("button", name="As it came").click()
    expect(page.locator("#parts .body")).to_have_text(json.dumps(value))
    assert page.locator("main img, main script").count() == 0


def test_json_bombs_are_folded_too(inspected: InspectedTunnel, origin: Origin, page: Page) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    origin.served["/deep"] = (deep, JSON)
    origin.served["/broad"] = (b"[" + b"[],{}," * 40_000 + b"1]", JSON)
    show(page, inspected, inspected.url("/deep"))
    expect(page.locator("#parts .tree summary").first).to_contain_text("1 item")
    page.get_by_role("button", name="Unfold all").click()
    expect(page.locator("#parts .json")).to_contain_text("Stopped after 2000 values or 30 levels.")
    assert page.locator("#parts .tree details").count() < 100
    assert page.get_by_role("button", name="Indented").count() == 0, "it would have 10^10 spaces"
    page.get_by_role("button", name="As it came").click()
    expect(page.locator("#parts .body")).to_contain_text("[[[[")
    page.get_by_role("button", name="Tree").click()
    show(page, inspected, inspected.url("/broad"), count=2)
    expect(page.locator("#parts .tree summary").first).to_contain_text("80001 items")
    assert page.locator("#parts .tree details").count() < 300
    page.get_by_role("button", name="Unfold all").click()
    assert page.locator("#parts .tree details").count() < 300, "those that are hidden stay so"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_decompression_bombs_are_cut(inspected: InspectedTunnel, origin: Origin, page: Page, coding: str) -> None:
    pack = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}[coding]
    origin.served["/bomb"] = (pack(b" " * 100 * MIB), JSON | {"content-encoding": coding})
    show(page, inspected, inspected.url("/bomb"))
    expect(page.locator("#parts")).to_contain_text(f"Only the first {limits.MAX_DECODED} decoded bytes are shown.")
    body = page.locator("#parts .body").last
    assert len(body.text_content() or "") == limits.MAX_DECODED


def test_forms_are_fields_and_files(inspected: InspectedTunnel, page: Page, tmp_path: Path) -> None:
    file = tmp_path / "photo.bin"
    file.write_bytes(b"\x00\xff" + b"x" * 10_000)
    show(
        page, inspected, inspected.url("/upload"), "--form-string", f"note={HOSTILE}", "--form",
        f"photo=@{file};filename=<b>.png;type=image/png",
    )  # fmt: skip
    fields = page.locator("#parts .fields tr")
    expect(fields.nth(0).locator("td")).to_have_text(["note", HOSTILE])
    expect(fields.nth(1)).to_contain_text("File <b>.png · 10.0 kB, image/png")
    expect(fields.nth(1)).to_contain_text("00000000  00 ff 78")
    expect(fields.nth(1)).to_contain_text("Only the beginning")
    show(page, inspected, inspected.url("/form"), "--data", "tea=Earl+Grey&size=%3Cb%3E", count=2)
    expect(fields.locator("td")).to_have_text(["tea", "Earl Grey", "size", "<b>"])
    page.get_by_role("button", name="As it came").click()
    expect(page.locator("#parts .body").first).to_have_text("tea=Earl+Grey&size=%3Cb%3E")
    page.get_by_role("button", name="Fields").click()
    file.write_bytes(png(300, 200))
    show(page, inspected, inspected.url("/photo"), "--form", f"photo=@{file}", "--form-string", "a=b", count=3)
    page.wait_for_function("document.querySelector('#parts .fields img').naturalWidth === 300")
    expect(fields.nth(0)).to_contain_text("image/png, 300 by 200 pixels")
    assert inspected.ask("api/exchanges/3/request/image?field=1")[0] == 404
    assert inspected.ask("api/exchanges/3/request/image?field=9")[0] == 404
    broken = "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nhalf"
    kind = "Content-Type: multipart/form-data; boundary=XX"
    show(page, inspected, inspected.url("/broken"), "--data-binary", broken, "--header", kind, count=4)
    expect(page.locator("#parts .warning")).to_contain_text("the last boundary is missing")
    expect(fields.locator("td")).to_have_text(["a", "half"])


def test_images_are_shown_and_svg_is_text(
    inspected: InspectedTunnel, origin: Origin, page: Page, complaints: PageErrors
) -> None:
    show(page, inspected, inspected.url("/png"))
    image = page.locator("#parts .picture img")
    expect(image).to_be_visible()
    page.wait_for_function("document.querySelector('#parts img').naturalWidth === 300")
    expect(page.locator("#parts figcaption")).to_have_text("image/png, 300 by 200 pixels")
    page.get_by_role("button", name="Bytes").click()
    expect(page.locator("#parts .bytes")).to_contain_text("89 50 4e 47")
    page.get_by_role("button", name="Image").click()
    show(page, inspected, inspected.url("/svg"), count=2)
    expect(page.locator("#parts .body")).to_contain_text("<script>alert(4)</script>")
    show(page, inspected, inspected.url("/wide"), count=3)
    expect(page.locator("#parts")).to_contain_text("60000 by 60000 pixels is not shown")
    origin.served["/damaged"] = (origin.served["/png"][0][:40], {})
    show(page, inspected, inspected.url("/damaged"), count=4)
    expect(page.locator("#parts")).to_contain_text("The image is damaged.")
    assert page.locator("main img, main svg").count() == 0
    assert complaints == []


def test_bodies_are_searched(inspected: InspectedTunnel, page: Page) -> None:
    inspected.curl(inspected.url("/gzip"), "--header", "Accept-Encoding: gzip")
    inspected.curl(inspected.url("/json"))
    inspected.settled(2)
    open_page(page, inspected)
    page.keyboard.press("/")
    page.keyboard.type("in FULL told")
    expect(page.locator("#count")).to_have_text("0 of 2")
    page.locator("#everywhere").check()
    expect(page.locator("#searched")).to_have_text("1 found, 2 searched")
    expect(page.locator("#count")).to_have_text("1 of 2")
    row(page, 1).click()
    expect(page.locator("#found")).to_contain_text("Found in the response body: ")
    inspected.curl(inspected.url("/in%20between"), "--data", "In full told")
    expect(page.locator("#count")).to_have_text("2 of 3")
    page.locator("#text").fill("")
    expect(page.locator("#count")).to_have_text("3")
    expect(page.locator("#searched")).to_have_text("")


def test_request_is_edited_and_sent(
    inspected: InspectedTunnel, origin: Origin, page: Page, complaints: PageErrors
) -> None:
    show(page, inspected, inspected.url("/order"), "--data-binary", "one\r\ntwo", "--header", "X-Old: 1")
    page.locator("#title").focus()
    page.keyboard.press("e")
    expect(page.locator("#edit-method")).to_be_focused()
    assert page.locator("#edit-headers").input_value().startswith("Host: ")
    assert "Content-Length" not in page.locator("#edit-headers").input_value()
    page.locator("#edit-method").fill("put")
    page.locator("#edit-target").fill("no path")
    page.locator("#edit-send").click()
    expect(page.locator("#edit-error")).to_contain_text("should begin with /")
    assert all("422" in said for said in complaints.take())
    page.locator("#edit-target").fill("/orders/7")
    page.locator("#edit-headers").fill("Host: x\nX-New: <b>\nContent-Type: text/plain")
    page.locator("#edit-body").fill("one\nthree")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#title")).to_have_text("#2 PUT /orders/7")
    expect(row(page, 2).locator(".tag")).to_have_text("edited replay of #1")
    expect(page.locator("#notes")).to_have_text("Edited before it was sent: method, path, headers, body.")
    expect(page.locator("#facts")).to_contain_text("200 OK")
    expect(page.locator("#parts .headers").first).to_contain_text("<b>")
    assert origin.asked[-1] == ("PUT", "/orders/7", b"one\r\nthree")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    expect(page.locator("#editor")).to_be_hidden()
    expect(page.locator("#edit")).to_be_focused()
    page.keyboard.press("e")
    page.locator("#edit-send").click()
    expect(page.locator("#title")).to_contain_text("#3 ")
    expect(page.locator("#facts")).to_contain_text("200 OK")
    assert origin.asked[-1] == origin.asked[-2], "an unchanged body is sent as it was"


def test_har_is_exported_and_can_be_read(
    inspected: InspectedTunnel, page: Page, chromium: Browser, tmp_path: Path
) -> None:
    """Playwright is the reader: it answers a page's requests from the file."""
    inspected.curl(inspected.url("/hostile"), inspected.url("/json"), inspected.url("/png"))
    inspected.settled(3)
    open_page(page, inspected)
    with page.expect_download() as download:
        page.locator("#har-all").click()
    path = tmp_path / "all.har"
    download.value.save_as(path)
    assert download.value.suggested_filename == "quictunnel.har"
    har = check_har(path.read_text())
    assert len(har["log"]["entries"]) == 3
    with chromium.new_context() as context:
        context.route_from_har(path, not_found="abort")
        reader = context.new_page()
        answer = reader.goto(inspected.url("/json"))
        assert answer is not None
        assert answer.json() == {"name": "tea", "price": 3}
    row(page, 1).click()
    with page.expect_download() as download:
        page.locator("#har").click()
    one = json.loads(download.value.path().read_text())
    assert [entry["response"]["content"]["text"] for entry in one["log"]["entries"]] == [HOSTILE]


def test_events_are_a_timeline(inspected: InspectedTunnel, origin: Origin, page: Page) -> None:
    open_page(page, inspected)
    with inspected.raw() as visitor:
        visitor.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        row(page, 1).click()
        events = page.locator(".messages li")
        expect(events).to_have_count(1)
        page.get_by_role("button", name="Hex").click()
        expect(events.locator("pre")).to_have_text(
            "00000000  66 69 72 73 74                                   first"
        )
        origin.more.set()
        expect(events).to_have_count(2)
        assert page.get_by_role("button", name="Hex").get_attribute("aria-pressed") == "true"
        page.get_by_role("button", name="Hex").click()
        expect(events.locator("pre")).to_have_text(["first", "last"])
        expect(events.first).to_contain_text("message")


def test_long_timeline_is_bounded(inspected: InspectedTunnel, page: Page) -> None:
    with connect(
        inspected.tunnel.url.replace("https", "wss") + "/ws",
        sock=socket.create_connection(("127.0.0.1", inspected.tunnel.port)),
        ssl=ssl.create_default_context(cafile=str(inspected.edge.ca)),
        server_hostname=inspected.tunnel.host,
        compression=None,
    ) as websocket:
        for number in range(600):
            websocket.send(f"<b>{number}</b>")
            websocket.recv()
        open_page(page, inspected)
        row(page, 1).click()
        expect(page.locator("#parts h3").last).to_have_text("Messages · 1200")
        expect(page.locator("#parts")).to_contain_text("The first 200 are not stored any more.")
        expect(page.locator(".messages li")).to_have_count(300)
        expect(page.locator(".messages li.sent pre").last).to_have_text("<b>599</b>")
        page.get_by_role("button", name="Show 700 earlier").click()
        expect(page.locator(".messages li")).to_have_count(limits.MAX_FRAMES)


def is_overflowing(page: Page) -> Any:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screen(inspected: InspectedTunnel, page: Page, complaints: PageErrors, scheme: Any) -> None:
    """Nothing is wider than a telephone, and colours follow the system."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    inspected.curl("--data", "x=" + "y" * 500, inspected.url("/" + "long" * 100))
    inspected.settled(1)
    open_page(page, inspected)
    assert not is_overflowing(page)
    row(page, 1).click()
    expect(page.locator("#parts .fields")).to_be_visible()
    expect(page.locator("#left")).to_be_hidden()
    page.locator("#edit").click()
    assert not is_overflowing(page)
    assert page.locator("#edit-target").bounding_box()["x"] >= 0  # type: ignore[index]  # it is visible
    page.locator("#edit-cancel").click()
    page.locator("#close").click()
    expect(page.locator("#left")).to_be_visible()
    colours = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in colours]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
    page.evaluate("sessionStorage.clear()")
    page.goto(inspected.base)
    expect(page.locator("#locked")).to_be_visible()
    assert not is_overflowing(page)
    complaints.take()  # the refused request
