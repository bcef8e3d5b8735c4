"""Programs that do unusual things to their process: gevent, eventlet, a main thread that ends."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys

import pytest

from quictunnel.forwarding import forward
from tests.e2e.cli.test_degraded_host import visit
from tests.harness.echo_origin import run_python
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.programs import free_port
from tests.harness.visitors import curl
from tests.harness.waiting import LONG_TIMEOUT, eventually

GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, gevent.os, logging, os, signal, sys, threading
from gevent.pywsgi import WSGIServer
import quictunnel
logging.basicConfig(level=logging.DEBUG, stream=open(os.devnull, "w"))
web = WSGIServer(("127.0.0.1", 0), lambda environ, start: (start("200 OK", []), [b"from a greenlet"])[1], log=None)
web.start()
turns = 0
def turn():
    global turns
    while True:
        turns += 1
        logging.info("a line")  # its lock is shared with the tunnel's thread
        gevent.sleep(0.001)
gevent.spawn(turn)
descriptors = lambda: len(os.listdir("/proc/self/fd"))
with quictunnel.forward(web.server_port) as tunnel:
    before = None
    for _ in range(20):
        with quictunnel.forward(9):
            pass
        before = before or descriptors()
    assert descriptors() <= before + 2, "sockets that stay open"
    assert turns > 20, "the other greenlets stood still"
    print(tunnel.url, flush=True)
    gevent.os.tp_read(0, 1)  # others run meanwhile
    quictunnel.Client.from_env().close()
print("closed", flush=True)
"""


def need_package(name: str) -> None:
    """A visible skip without it. It is not imported here: eventlet would warn of each fork of the tests."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


class TestGevent:
    def test_a_patched_program_opens_serves_and_closes(self, edge):
        need_package("gevent")
        with subprocess.Popen(
            [sys.executable, "-c", GEVENT],
            env=children_environment(edge), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as program:  # fmt: skip
            assert program.stdin is not None
            assert program.stdout is not None
            url = program.stdout.readline().strip()
            assert url, "it did not open"
            assert curl(edge, url, text=True).stdout == "from a greenlet"
            program.stdin.close()
            assert program.stdout.readline() == "closed\n"
            assert program.wait(20) == 0

    def test_ctrl_c_ends_a_program_whose_edge_does_not_answer(self, edge):
        need_package("gevent")
        code = "from gevent import monkey; monkey.patch_all()\nimport sys, quictunnel\n"
        code += "print('opening', flush=True)\nquictunnel.forward(9).__enter__()"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            environ = children_environment(edge) | {"QUICTUNNEL_EDGE": f"127.0.0.1:{silent.getsockname()[1]}"}
            with subprocess.Popen(
                [sys.executable, "-c", code],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as program:
                assert program.stdout is not None
                assert program.stdout.readline() == "opening\n"
                silent.settimeout(20)
                silent.recv(2000)  # it dials
                program.send_signal(signal.SIGINT)
                _, errors = program.communicate(timeout=20)
                assert "KeyboardInterrupt" in errors

    def test_without_uvloop_it_is_refused_at_once(self, edge):
        need_package("gevent")
        code = """
        from gevent import monkey; monkey.patch_all()
        import sys; sys.modules["uvloop"] = None
        import quictunnel
        try:
            quictunnel.forward(9).__enter__()
        except quictunnel.ConfigError as error:
            print(error)
        """
        ended = run_python(code, children_environment(edge), timeout=20)
        assert "uvloop" in ended.stdout, ended.stderr


def test_eventlet_is_refused_at_once_with_the_way_out(edge):
    need_package("eventlet")
    code = """
    import warnings; warnings.simplefilter("ignore")
    import eventlet; eventlet.monkey_patch()
    import quictunnel
    try:
        quictunnel.forward(9).__enter__()
    except quictunnel.ConfigError as error:
        print(error)
    """
    ended = run_python(code, children_environment(edge), timeout=20)
    assert "quictunnel run -- PROGRAM" in ended.stdout, ended.stderr


class TestAMainThreadThatHasEnded:
    CODE = """
    import socket, sys, threading, time
    {first}
    import quictunnel
    def work():
        threading.main_thread().join()
        with quictunnel.forward({port}, ticket={ticket!r}) as tunnel:
            print(tunnel.url, flush=True)
            sys.stdin.read()
        print("closed", flush=True)
    threading.Thread(target=work).start()
    """

    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_a_thread_opens_and_reconnects(self, loop, tmp_path, origin):
        """Another dial resolves a name and writes a ticket, on threads that are started then."""
        port = free_port()
        edge = start_edge(tmp_path / "state", "--quic", f"127.0.0.1:{port}")
        first = "sys.modules['uvloop'] = None" if loop == "asyncio" else ""
        code = self.CODE.format(port=origin, ticket=str(tmp_path / "ticket"), first=first).replace("\n    ", "\n")
        environ = children_environment(edge) | {"QUICTUNNEL_EDGE": f"localhost:{port}"}
        with subprocess.Popen(
            [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            url = program.stdout.readline().strip()
            assert url.startswith("https://")
            https = re.search(r":(\d+)$", url)
            assert https is not None
            edge.stop(signal.SIGKILL)
            edge = start_edge(
                tmp_path / "state", "--quic", f"127.0.0.1:{port}", "--https", f"127.0.0.1:{https[1]}"
            )
            eventually(lambda: visit(edge, url) == b"hello", timeout=LONG_TIMEOUT)
            program.stdin.close()
            assert program.stdout.readline() == "closed\n"
            assert program.wait(20) == 0
        assert edge.stop() == 0


def test_a_certificate_that_is_wrong_for_a_while_does_not_end_a_client(tmp_path, origin):
    port, https = free_port(), free_port()
    where = ("--quic", f"127.0.0.1:{port}", "--https", f"127.0.0.1:{https}")
    edge = start_edge(tmp_path / "state", *where)
    events = []
    with edge.client() as client, forward(origin, client=client, name="kept") as tunnel:
        client.subscribe(events.append)
        assert edge.stop() == 0  # so that the client knows at once
        other = start_edge(tmp_path / "other", *where)
        eventually(lambda: any("certificate" in event.message for event in events), timeout=LONG_TIMEOUT)
        other.stop(signal.SIGKILL)
        assert client.state not in ("failed", "refused")
        edge = start_edge(tmp_path / "state", *where)
        eventually(lambda: visit(edge, tunnel.url) == b"hello", timeout=LONG_TIMEOUT)
    assert edge.stop() == 0


class TestEventsBeforeTheFirstSubscriber:
    def test_early_events_go_to_the_first_subscriber_only(self, client, tmp_path):
        with forward(9, client=client, ticket=tmp_path / "nowhere" / "ticket"):
            first, second = [], []
            client.subscribe(first.append)
            eventually(lambda: first, timeout=LONG_TIMEOUT)
            client.subscribe(second.append)
        assert [event.kind for event in first][:2] == ["connected", "warning"]
        assert "ticket" in first[1].message
        assert "connected" not in [event.kind for event in second]
