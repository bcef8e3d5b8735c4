"""The life of a public port: however the body ends, after a fork, and when the edge is gone for a while."""

import asyncio
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import quictunnel
from tests.harness.echo_origin import EchoOrigin, assert_closed, is_closed, is_served, run_python, serves
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.programs import free_port
from tests.harness.visitors import tls_connect, was_reset
from tests.harness.waiting import LONG_TIMEOUT, eventually
from tests.load.background import arrivals_at, churn_beside, nothing_left
from tests.load.churn import in_between
from tests.load.plan import WAITING_RATE

BLOCKS = """
import quictunnel, time
with quictunnel.forward(PORT, unencrypted=True) as t:
    print(t.host, t.port, *t.tcp_socket, flush=True)
    time.sleep(3600)
"""


DIES = """
import quictunnel, os, signal
with quictunnel.forward(PORT) as t:
    print(t.host, t.port, flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def origin():
    with EchoOrigin() as origin:
        yield origin


class TestTheBodyEnds:
    @pytest.mark.parametrize("kind", [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_in_any_way(self, edge, client, origin, kind):
        def body():
            nonlocal tunnel
            with quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
                assert serves(edge, tunnel)
                if kind is not None:
                    raise kind

        tunnel = None
        if kind is None:
            body()
        else:
            with pytest.raises(kind):
                body()
        assert_closed(edge, tunnel)

    async def test_by_cancellation(self, edge, client, origin):
        opened = asyncio.get_running_loop().create_future()

        async def body():
            async with quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
                opened.set_result(tunnel)
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        tunnel = await opened
        assert await asyncio.to_thread(serves, edge, tunnel)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_closed(edge, tunnel)

    async def test_cancelled_at_any_moment_of_opening(self, client, origin):
        """Nothing stays behind: the port could not be forwarded again otherwise."""
        async with quictunnel.forward(free_port(), client=client):  # the connection is there already
            for wait in range(60):

                async def body():
                    async with quictunnel.forward(origin.port, client=client):
                        await asyncio.Event().wait()

                task = asyncio.create_task(body())
                try:
                    async with asyncio.timeout(wait / 10_000):
                        await task
                except TimeoutError:
                    pass
                await self._opens_again(client, origin.port)

    @staticmethod
    async def _opens_again(client, port):
        """Giving up is told to nobody, so it is looked at until it is so."""
        deadline = time.monotonic() + LONG_TIMEOUT
        while True:
            try:
                async with quictunnel.forward(port, client=client):
                    return
            except quictunnel.InvalidError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)

    def test_by_ctrl_c_in_a_blocking_body(self, edge, origin, running):
        process = running(
            [
                *(sys.executable, "-c"),
                BLOCKS.replace("PORT", str(origin.port)),
            ],
            env=children_environment(edge),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process.stdout, process.stderr:
            host, port, tcp_host, tcp_port = process.stdout.readline().split()
            tunnel = quictunnel.Tunnel(host, int(port), tcp_host, int(tcp_port))
            assert serves(edge, tunnel)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == -signal.SIGINT
            assert process.stderr.read().strip().endswith("KeyboardInterrupt")
        assert_closed(edge, tunnel)

    @pytest.mark.slow
    @pytest.mark.early
    def test_by_the_death_of_the_process(self, origin, running, tmp_path):
        """The process sends no farewell. The edge notices by itself and closes the port after the hold time;
        visitors who came meanwhile are reset."""
        edge = start_edge(tmp_path / "state", "--hold", "2")
        process = running(
            [
                *(sys.executable, "-c"),
                DIES.replace("PORT", str(origin.port)),
            ],
            env=children_environment(edge),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process.stdin, process.stdout:
            host, port = process.stdout.readline().split()
            tunnel = quictunnel.Tunnel(host, int(port))
            looks = []

            def is_closed_now():
                looks.append(time.monotonic())
                return is_closed(edge, tunnel)

            with churn_beside(edge, tunnel, rate=WAITING_RATE, others=lambda: len(looks)) as churn:
                killed = time.monotonic()
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.wait(20) == -signal.SIGKILL
                eventually(is_closed_now, timeout=90)
                visitors = churn.finish(lambda visitor: visitor.ended >= killed)
        assert not [visitor for visitor in visitors if "TimeoutError" in visitor.failure]
        nothing_left(edge)
        assert edge.stop() == 0

    def test_by_the_end_of_a_program_that_forgot_to_close(self, edge, origin):
        done = run_python(
            f"""
            import quictunnel
            forwarding = quictunnel.forward({origin.port}, unencrypted=True)
            tunnel = forwarding.__enter__()
            print(tunnel.host, tunnel.port, *tunnel.tcp_socket)
            """,
            children_environment(edge),
        )
        assert (done.returncode, done.stderr) == (0, "")
        host, port, tcp_host, tcp_port = done.stdout.split()
        assert_closed(edge, quictunnel.Tunnel(host, int(port), tcp_host, int(tcp_port)))

    def test_visitors_who_wait_for_nothing_do_not_hold_it_up(self, edge, client):
        """An idle connection, one whose question was answered, one that hung up without a word."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with quictunnel.forward(listener.getsockname()[1], client=client, unencrypted=True) as tunnel:
                visitors = [socket.create_connection(tunnel.tcp_socket, timeout=30) for _ in range(3)]
                connections = [listener.accept()[0] for _ in visitors]
                visitors[1].sendall(b"question")
                readable, _, _ = select.select(connections, [], [], 30)
                assert readable[0].recv(8) == b"question"
                readable[0].sendall(b"answer")
                assert visitors[1].recv(6) == b"answer"
                visitors[2].close()
                begun = time.monotonic()
            assert time.monotonic() - begun < 3
            assert was_reset(visitors[0])
            assert was_reset(visitors[1])
            for sock in visitors + connections:
                sock.close()

    def test_a_visitor_in_flight_may_finish(self, edge, client):
        """The public port is closed at once; a request that is being answered is not cut off."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with quictunnel.forward(listener.getsockname()[1], client=client) as tunnel:
                visitor = tls_connect(edge, tunnel)
                visitor.sendall(b"question")
                connection, _ = listener.accept()
                assert connection.recv(8) == b"question"

                def answer_late():
                    eventually(lambda: is_closed(edge, tunnel), timeout=LONG_TIMEOUT)
                    connection.sendall(b"answer")
                    connection.close()

                thread = threading.Thread(target=answer_late)
                thread.start()
            thread.join()
            with visitor:
                assert visitor.recv(6) == b"answer"


class TestFork:
    def test_a_child_forwards_its_own_and_leaves_the_parents_alone(self, edge, origin):
        done = run_python(
            f"""
            import os, socket, sys, quictunnel

            def serves(tunnel):
                with socket.create_connection(tunnel.tcp_socket, timeout=30) as visitor:
                    visitor.sendall(b"hello")
                    return visitor.recv(5) == b"hello"

            reader, writer = os.pipe()
            with quictunnel.forward({origin.port}, unencrypted=True) as tunnel:
                assert serves(tunnel)
                child = os.fork()
                if child == 0:
                    with quictunnel.forward({origin.port}, unencrypted=True) as own:
                        assert own.host != tunnel.host
                        assert serves(own)
                        assert serves(tunnel)
                    print("child was served")
                    sys.exit(0)  # through the parent's "with", and everything at exit
                _, status = os.waitpid(child, 0)
                assert status == 0, status
                assert serves(tunnel)
                # Again, the hard way out and with nothing done.
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
                assert serves(tunnel)
            try:
                serves(tunnel)
            except ConnectionRefusedError:
                print("parent has closed")
            """,
            children_environment(edge),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["child was served", "parent has closed"]

    def test_a_client_given_to_a_child(self, edge, origin):
        """A Client object made before the fork works after it, with a connection of its own."""
        done = run_python(
            f"""
            import os, sys, quictunnel
            client = quictunnel.Client.from_env()
            with quictunnel.forward({origin.port}, client=client) as tunnel:
                child = os.fork()
                if child == 0:
                    client.close()
                    again = quictunnel.Client.from_env()
                    with quictunnel.forward({origin.port}, client=again) as own:
                        sys.exit(own.host == tunnel.host)
                _, status = os.waitpid(child, 0)
                assert status == 0, status
                assert client.snapshot().state == "connected"
                with quictunnel.forward({free_port()}, client=client):
                    pass
            """,
            children_environment(edge),
        )
        assert (done.returncode, done.stderr) == (0, "")


class DyingProcess:
    """An edge that may be killed and started again in the same place."""

    def __init__(self, state_dir: Path) -> None:
        self.edge = start_edge(state_dir)
        self._quic = self.edge.environ["QUICTUNNEL_EDGE"]

    def restart(self, tunnel: quictunnel.Tunnel) -> None:
        """After it has ended. ``tunnel`` knows the public port."""
        https = f"127.0.0.1:{tunnel.port}"
        self.edge = start_edge(self.edge.state_dir, "--quic", self._quic, "--https", https)


class TestTheEdgeGoesAndComesBack:
    @pytest.fixture
    def mortal(self, tmp_path):
        mortal = DyingProcess(tmp_path / "state")
        yield mortal
        mortal.edge.stop()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_with_the_same_name_and_port(self, mortal, origin, number):
        with (
            mortal.edge.client() as client,
            quictunnel.forward(origin.port, unencrypted=True, client=client) as tunnel,
        ):
            with churn_beside(mortal.edge, tunnel) as churn:
                states = []
                client.subscribe(lambda event: states.append(event.kind))
                churn.edge_leaves()
                states.clear()  # of what came before, the first subscriber's own past included
                gone = time.monotonic()
                assert mortal.edge.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
                mortal.restart(tunnel)
                there = time.monotonic()
                churn.edge_follows(arrivals_at(mortal.edge))
                eventually(lambda: is_served(mortal.edge, tunnel), timeout=LONG_TIMEOUT)
                assert client.snapshot().state == "connected"
                lost = "reconnecting" if number == signal.SIGTERM else "away"  # visitors may hope after a crash
                assert states.index(lost) < states.index("connected")
                with quictunnel.forward(free_port(), client=client) as another:
                    assert another.host != tunnel.host
                churn.wait_for(5)
                churn.finish(in_between(gone, there))
            nothing_left(mortal.edge, client)
        assert_closed(mortal.edge, tunnel)

    def test_closing_while_it_is_away(self, mortal, origin):
        """Ends at once, although nobody is there to be told."""
        with mortal.edge.client() as client:
            with quictunnel.forward(origin.port, client=client) as tunnel:
                assert serves(mortal.edge, tunnel)
                assert mortal.edge.stop() == 0
                eventually(lambda: client.snapshot().state == "reconnecting", timeout=LONG_TIMEOUT)
                begun = time.monotonic()
            assert time.monotonic() - begun < 5
