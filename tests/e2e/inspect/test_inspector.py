"""The inspector beside a real tunnel, asked by programs: what passes unchanged, what ends, what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

import quictunnel
from quictunnel.inspect import inspector, limits, web_app
from quictunnel.inspect.replay import Replays
from tests.harness.edge_process import children_environment, resident_memory
from tests.harness.inspected_tunnel import MIB, InspectedTunnel, Origin
from tests.harness.programs import free_port
from tests.harness.waiting import eventually


def test_replays_are_few_and_end(
    inspected: InspectedTunnel, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLAY_TIMEOUT", 0.5)
    with inspected.raw() as visitor:
        visitor.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: inspected.listed() and inspected.listed()[0]["status"] == 200, "not seen")
        for _ in range(limits.MAX_REPLAYS):
            assert inspected.ask("api/exchanges/1/replay", "POST")[0] == 202
        status, why = inspected.ask("api/exchanges/1/replay", "POST")
        assert (status, "limit of" in why) == (429, True)
        eventually(lambda: all(each["state"] == "broken" for each in inspected.listed()[1:]), "replays go on")
        assert "Cut off after" in inspected.ask("api/exchanges/2")[1]["notes"][0]
        origin.more.set()
    monkeypatch.setattr(limits, "REPLAY_TIMEOUT", 20)
    monkeypatch.setattr(limits, "MAX_REPLAYED", MIB)
    assert len(inspected.curl(inspected.url("/large"))) == 100 * MIB
    number = inspected.listed()[-1]["id"]
    replay = inspected.ask(f"api/exchanges/{number}/replay", "POST")[1]["id"]
    eventually(lambda: inspected.listed()[-1]["state"] == "broken", "goes on")
    assert f"Cut off after {MIB} bytes" in inspected.ask(f"api/exchanges/{replay}")[1]["notes"][0]


def test_replay_that_fails_is_logged(
    inspected: InspectedTunnel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> str:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(Replays, "_exchange", fail)
    inspected.curl(inspected.url("/"))
    assert inspected.ask("api/exchanges/1/replay", "POST")[0] == 202
    eventually(lambda: "replaying a request" in caplog.text, "nothing is logged")
    assert "a fault of ours" in caplog.text


def test_internal_error_of_the_page_is_logged(inspected: InspectedTunnel, monkeypatch, caplog) -> None:
    """The tunnel and the rest of the page work all the same."""

    def fail(_: object) -> None:
        raise ValueError("a fault of ours")

    inspected.curl(inspected.url("/"))
    inspected.settled(1)
    monkeypatch.setattr(web_app, "detail", fail)
    with pytest.raises(urllib.error.HTTPError, match="500") as failed:
        urllib.request.urlopen(inspected.request("api/exchanges/1"), timeout=10)
    failed.value.close()
    eventually(lambda: "a fault of ours" in caplog.text, "nothing is logged")
    assert inspected.curl(inspected.url("/"))
    assert len(inspected.settled(2)) == 2


def test_so_many_pages_may_follow(inspected: InspectedTunnel) -> None:
    request = inspected.request("api/events")
    with contextlib.ExitStack() as stack:
        for _ in range(limits.MAX_PAGES):
            assert stack.enter_context(urllib.request.urlopen(request, timeout=10)).status == 200
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            urllib.request.urlopen(request, timeout=10)
        refused.value.close()

    def may_follow() -> bool:
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as refused:
            refused.close()
            return False
        return True

    eventually(may_follow, "pages that left still count")


def test_idle_event_stream_gets_heartbeats(inspected: InspectedTunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_INTERVAL", 0.05)
    with urllib.request.urlopen(inspected.request("api/events"), timeout=10) as answer:
        lines = [answer.readline() for _ in range(7)]
    assert lines[0] == b"event: all\n"
    assert lines[3:] == [b": no changes\n", b"\n"] * 2


def test_closed_origin_port_is_shown(edge, client) -> None:
    with quictunnel.forward(free_port(), client=client, inspect=True) as tunnel:
        inspected = InspectedTunnel(edge, tunnel)
        assert inspected.curl(inspected.url("/")).startswith(b"502")
        (seen,) = inspected.settled(1)
        assert (seen["kind"], seen["state"]) == ("raw", "broken")
        assert "Nobody listens on port" in seen["note"]


@pytest.mark.slow
def test_a_hundred_megabytes_each_way_unchanged_in_bounded_memory(edge, origin: Origin, tmp_path) -> None:
    """The client is a process of its own, so that its memory is."""
    command = [sys.executable, "-m", "quictunnel", "http", str(origin.port), "--inspect", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=children_environment(edge))
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        tunnel = quictunnel.Tunnel(*ready["tls_socket"])
        tunnel.set_inspector_url(ready["inspector_url"])
        inspected = InspectedTunnel(edge, tunnel)
        inspected.curl(inspected.url("/json"))
        inspected.settled(1)
        before = resident_memory(process.pid)
        sent = tmp_path / "sent"
        sent.write_bytes(os.urandom(MIB) * 100)
        expected = hashlib.sha256(sent.read_bytes()).hexdigest()
        assert inspected.curl("--data-binary", f"@{sent}", inspected.url("/digest")).decode() == expected
        received = inspected.curl(inspected.url("/large"))
        expected = hashlib.sha256(b"".join(bytes([number]) * MIB for number in range(100))).hexdigest()
        assert hashlib.sha256(received).hexdigest() == expected
        found = inspected.settled(3)
        assert (found[1]["sent"], found[2]["received"]) == (100 * MIB, 100 * MIB)
        kept = inspected.ask("api/exchanges/2")[1]["request"]["body"]
        assert (kept["size"], kept["kept"]) == (100 * MIB, limits.MAX_BODY)
        grown = resident_memory(process.pid) - before
        assert grown < 60 * MIB, f"{grown / MIB:.0f} MiB"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_inspector_ends_with_its_tunnel(edge, client, origin: Origin) -> None:
    with quictunnel.forward(origin.port, client=client):
        before = threading.active_count()
    for _ in range(3):
        with quictunnel.forward(origin.port, client=client, inspect=True) as tunnel:
            assert tunnel == quictunnel.Tunnel(tunnel.host, tunnel.port)
            assert "inspector" not in repr(tunnel)
            url = tunnel.inspector_url
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])))
    assert threading.active_count() == before


async def test_a_tunnel_that_does_not_open_leaves_no_inspector(edge, client, origin: Origin) -> None:
    async with quictunnel.forward(origin.port, client=client):
        before = threading.active_count()
        with pytest.raises(quictunnel.InvalidError, match="already forwarded"):
            async with quictunnel.forward(origin.port, client=client, inspect=True):
                pytest.fail("it opened")
        with (
            pytest.raises(quictunnel.InvalidError, match="already forwarded"),
            quictunnel.forward(origin.port, client=client, inspect=True),
        ):
            pytest.fail("it opened")
        inspectors = [each for each in threading.enumerate() if each.name == "quictunnel-inspector"]
        assert inspectors == []
        assert threading.active_count() <= before + 1  # a worker of to_thread


async def test_under_async_with(edge, client, origin: Origin) -> None:
    async with quictunnel.forward(origin.port, client=client, inspect=True) as tunnel:
        inspected = InspectedTunnel(edge, tunnel)
        await asyncio.to_thread(inspected.curl, inspected.url("/json"))
        assert (await asyncio.to_thread(inspected.settled, 1))[0]["status"] == 200
    async with quictunnel.forward(origin.port, client=client) as tunnel:
        assert tunnel.inspector_url == ""


def test_an_address_that_is_taken(edge, client, origin: Origin) -> None:
    taken = f"127.0.0.1:{origin.port}"
    with (
        pytest.raises(quictunnel.ConfigError, match=f"cannot listen on {taken}"),
        quictunnel.forward(origin.port, client=client, inspect=True, inspect_address=taken),
    ):
        pytest.fail("it opened")
    with pytest.raises(quictunnel.InvalidError, match="inspect=True as well"):
        quictunnel.forward(1, inspect_address=taken)
    with pytest.raises(quictunnel.ConfigError, match="inspect_address should be host:port"):
        quictunnel.forward(1, inspect=True, inspect_address="nonsense")


def test_without_the_extra(edge) -> None:
    program = "import sys; sys.modules['uvicorn'] = None\n"
    cli = program + "from quictunnel.cli.main import main; sys.exit(main(['http', '1', '--inspect']))"
    options: dict[str, Any] = {"env": children_environment(edge), "capture_output": True, "text": True}
    ended = subprocess.run([sys.executable, "-c", cli], check=False, timeout=60, **options)
    assert ended.returncode == 2
    assert "pip install 'quictunnel[inspect]'" in ended.stderr
    library = program + "import quictunnel\nwith quictunnel.forward(1, inspect=True): pass"
    ended = subprocess.run([sys.executable, "-c", library], check=False, timeout=60, **options)
    assert "ConfigError: The inspector needs packages" in ended.stderr


def test_default_address_is_the_first_free_port(
    edge, client, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test has ports of its own, because others use the default ones at the same time."""

    def port_of_the_page() -> int:
        with quictunnel.forward(origin.port, client=client, inspect=True) as tunnel:
            assert InspectedTunnel(edge, tunnel).listed() == []
            assert tunnel.inspector_url.startswith("http://127.0.0.1:")
            return int(tunnel.inspector_url.split(":")[2].split("/")[0])

    assert inspector.DEFAULT_PORTS[0] == 4040
    ports = [origin.port, free_port()]
    monkeypatch.setattr(inspector, "DEFAULT_PORTS", ports)
    assert port_of_the_page() == ports[1]
    with socket.create_server(("127.0.0.1", ports[1])):
        assert port_of_the_page() not in ports


def test_edited_replay(inspected: InspectedTunnel, origin: Origin) -> None:
    inspected.curl("--json", '{"tea": 2}', inspected.url("/order"))
    inspected.settled(1)
    edited = {
        "method": "PUT",
        "target": "/orders/1?again",
        "headers": [["Host", "x"], ["Content-Type", "application/json"]],
        "body": '{"tea": 3}',
    }
    status, answer = inspected.post("api/exchanges/1/edited", json.dumps(edited))
    assert (status, answer) == (202, {"id": 2})
    seen = inspected.settled(2)[1]
    assert (seen["replay_of"], seen["is_edited"], seen["status"]) == (1, True, 200)
    assert origin.asked[-1] == ("PUT", "/orders/1", b'{"tea": 3}')
    assert inspected.ask("api/exchanges/2")[1]["notes"] == [
        "Edited before it was sent: method, path, headers, body."
    ]
    assert inspected.post("api/exchanges/1/edited", json.dumps(edited | {"target": "//x y"}))[0] == 422
    assert inspected.post("api/exchanges/1/edited", "{")[0] == 422
    assert inspected.post("api/exchanges/1/edited", " " * (limits.MAX_EDIT + 1))[0] == 413
    assert inspected.post("api/exchanges/9/edited", json.dumps(edited))[0] == 404
    assert len(origin.asked) == 2


def test_search_is_limited(inspected: InspectedTunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    inspected.curl(inspected.url("/gzip"), "--header", "Accept-Encoding: gzip")
    inspected.settled(1)
    status, found = inspected.ask("api/search?text=TOLD%20in%20full")
    assert (status, found["searched"], found["is_complete"]) == (200, 1, True)
    assert [(match["number"], match["where"]) for match in found["matches"]] == [(1, "response body")]
    assert inspected.ask("api/search")[0] == 422
    assert inspected.ask("api/search?text=" + "x" * (limits.MAX_SEARCH_TEXT + 1))[0] == 422
    monkeypatch.setattr(limits, "MAX_SEARCHES", 0)
    assert inspected.ask("api/search?text=x")[0] == 429


def test_har_of_one_and_of_all(inspected: InspectedTunnel) -> None:
    inspected.curl(inspected.url("/json"), inspected.url("/gzip"))
    inspected.settled(2)
    one, both = inspected.ask("api/exchanges/2/har")[1], inspected.ask("api/har")[1]
    assert [entry["request"]["url"] for entry in one["log"]["entries"]] == [inspected.url("/gzip")]
    assert len(both["log"]["entries"]) == 2
    assert inspected.ask("api/exchanges/9/har")[0] == 404


def test_images_are_sandboxed(inspected: InspectedTunnel) -> None:
    inspected.curl(inspected.url("/png"), inspected.url("/json"), inspected.url("/svg"))
    inspected.settled(3)
    with urllib.request.urlopen(inspected.request("api/exchanges/1/response/image"), timeout=10) as answer:
        assert answer.headers.get_all("content-type") == ["image/png"]
        assert answer.headers.get_all("x-content-type-options") == ["nosniff"]
        assert answer.headers.get_all("content-disposition") == ["attachment"]
        (policy,) = answer.headers.get_all("content-security-policy")
        assert "sandbox;" in policy
    for path in ("1/request", "2/response", "3/response", "9/response", "1/other"):
        assert inspected.ask(f"api/exchanges/{path}/image")[0] == 404
    assert inspected.ask("api/exchanges/1/response/image", authorization="")[0] == 401
