"""Tests of the error pages that client and edge send."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from edge_server.ingress.proxy_protocol import header
from quictunnel.shared.error_page import (
    MAX_HEAD,
    ErrorPage,
    NotHttpError,
    RequestHead,
    RequestHeadReader,
    http_response,
)

PAGE = ErrorPage("503 Service Unavailable", "Offline & <away>", "no client has <this> name", "Come back.", 10)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def read(data: bytes, step: int = 1 << 20) -> RequestHead | None:
    reader = RequestHeadReader()
    found = None
    for start in range(0, len(data), step):
        found = reader.feed(data[start : start + step])
        if found is not None:
            return found
    return found


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (BROWSER, True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/json, TEXT/HTML;q=0.5", True),
        ("text/html;q=0", False),
        ("text/html;q=0.000, */*", False),
        ("text/html;level=1", True),
        ("text/htmlx", False),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_html_is_sent_to_those_that_name_it(accept, wanted, step):
    head = f"GET /a HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nCookie: a=b\r\n\r\n".encode()
    assert read(head, step) == RequestHead("GET", wanted)


def test_an_accept_in_the_body_or_in_another_field_does_not_count():
    assert read(b"POST / HTTP/1.1\r\nX-Accept: text/html\r\n\r\n\r\naccept: text/html\r\n\r\n") == RequestHead(
        "POST", accepts_html=False
    )


def test_fields_may_end_with_a_bare_line_feed():
    assert read(b"GET / HTTP/1.0\naccept:text/html\n\n", 1) == RequestHead("GET", accepts_html=True)


@pytest.mark.parametrize(
    "data", [b"\x00\x01", b"PRI * HTTP/2.0\r\n\r\n", b"get / HTTP/1.1", b"A" * 30, b"SSH-2.0-OpenSSH_9\r\n"]
)
def test_other_protocols_are_recognised(data):
    with pytest.raises(NotHttpError):
        read(data)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("step", [5, 1 << 20])
def test_a_request_behind_a_proxy_header_is_read(version, step):
    before = header(version, ("192.0.2.1", 1), ("192.0.2.2", 443))
    assert read(before + b"HEAD / HTTP/1.1\r\nAccept: text/html\r\n\r\n", step) == RequestHead(
        "HEAD", accepts_html=True
    )


@pytest.mark.parametrize("version", [1, 2])
def test_only_one_proxy_header_is_skipped(version):
    before = header(version, ("192.0.2.1", 1), ("192.0.2.2", 443))
    with pytest.raises(NotHttpError):
        read(before + header(2, ("192.0.2.1", 1), ("192.0.2.2", 443)) + b"GET / HTTP/1.1\r\n\r\n")


def test_a_long_head_is_answered_at_the_bound():
    reader = RequestHeadReader()
    assert reader.feed(b"GET / HTTP/1.1\r\nAccept: text/html\r\nCookie: ") is None
    assert reader.feed(b"c" * 4096) is None
    assert reader.feed(b"c" * 4096) == RequestHead("GET", accepts_html=True)
    assert len(reader._head) == MAX_HEAD


def test_an_incomplete_head_is_known_as_far_as_it_came():
    reader = RequestHeadReader()
    assert reader.known is None
    reader.feed(b"GE")
    assert reader.known is None
    reader.feed(b"T / HTTP/1.1\r\n")
    assert reader.known == RequestHead("GET", accepts_html=False)


def parts(response: bytes) -> tuple[list[str], str]:
    head, _, body = response.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body.decode()


def test_a_browser_gets_a_page_that_runs_and_stores_nothing():
    head, body = parts(http_response(PAGE, RequestHead("GET", accepts_html=True)))
    assert head[0] == "HTTP/1.1 503 Service Unavailable"
    assert "Content-Type: text/html; charset=utf-8" in head
    assert "Cache-Control: no-store" in head
    assert "Retry-After: 10" in head
    assert "Connection: close" in head
    assert f"Content-Length: {len(body.encode())}" in head
    (policy,) = (line for line in head if line.startswith("Content-Security-Policy: "))
    style = re.search(r"<style>(.*)</style>", body, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "script-src" not in policy
    assert "<h1>Offline &amp; &lt;away&gt;</h1>" in body
    assert "<p>No client has &lt;this&gt; name.</p>" in body
    assert "Come back." in body
    assert "prefers-color-scheme:dark" in body


def test_other_programs_get_one_line():
    head, body = parts(http_response(PAGE, RequestHead("GET", accepts_html=False)))
    assert "Content-Type: text/plain; charset=utf-8" in head
    assert body == "503 Service Unavailable: no client has <this> name.\n"
    assert "Retry-After: 10" in head


@pytest.mark.parametrize("html", [True, False])
def test_head_has_no_body_but_its_length(html):
    whole = parts(http_response(PAGE, RequestHead("GET", html)))
    assert parts(http_response(PAGE, RequestHead("HEAD", html))) == (whole[0], "")
