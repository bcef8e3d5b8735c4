"""``tunnel.stats``: the figures of one tunnel, while it is open and after."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest

import quictunnel
from tests.harness.visitors import read_all
from tests.harness.waiting import eventually


@contextmanager
def visitor(edge, tunnel):
    context = ssl.create_default_context(cafile=edge.ca)
    with (
        socket.create_connection(("127.0.0.1", tunnel.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=tunnel.host) as secure,
    ):
        yield secure


def answer(listener, size):
    """Take one visitor's 5 bytes and answer with so many; wait for the end."""
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(5) == b"hello"
        connection.sendall(bytes(size))
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)


class TestStats:
    def test_bytes_are_counted_by_tunnel_and_kept(self, edge, client):
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            before = time.time()
            with (
                quictunnel.forward(one.getsockname()[1], client=client) as tunnel,
                quictunnel.forward(other.getsockname()[1], client=client) as idle,
            ):
                first = tunnel.stats
                assert (first.state, first.visitors_now, first.visitors_total) == ("connected", 0, 0)
                assert first.engine in ("native", "aioquic")
                assert before <= first.since <= time.time()
                server = threading.Thread(target=answer, args=(one, 100_000))
                server.start()
                with visitor(edge, tunnel) as secure:
                    secure.sendall(b"hello")
                    eventually(lambda: tunnel.stats.visitors_now == 1)
                    assert len(read_all(secure)) == 100_000
                server.join()
                eventually(lambda: tunnel.stats.visitors_now == 0)
                eventually(lambda: tunnel.stats.rtt)
                during = tunnel.stats
                assert (during.visitors_total, during.bytes_in, during.bytes_out) == (1, 5, 100_000)
                assert idle.stats.visitors_total == idle.stats.bytes_out == 0
            after = tunnel.stats
        assert after.until is not None
        assert dataclasses.replace(after, rtt=during.rtt) == dataclasses.replace(
            during, state="closed", until=after.until
        )
        assert after.rtt
        assert tunnel.stats is after, "nothing changes any more"
        with pytest.raises(dataclasses.FrozenInstanceError):
            after.bytes_in = 0

    def test_a_visitor_who_is_reset_at_the_end_is_counted(self, edge, client):
        """The visitor is still connected when the tunnel closes."""
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            quictunnel.forward(listener.getsockname()[1], client=client) as tunnel,
            visitor(edge, tunnel) as secure,
        ):
            secure.sendall(b"hello")
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(5) == b"hello"
                client.close()
                assert tunnel.stats.state == "closed"
        assert (tunnel.stats.visitors_now, tunnel.stats.visitors_total, tunnel.stats.bytes_in) == (0, 1, 5)

    def test_stats_are_readable_from_many_threads(self, edge, client):
        """No reading raises, and no sum goes back."""
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            quictunnel.forward(listener.getsockname()[1], client=client) as tunnel,
        ):
            stop = threading.Event()
            failures: list[object] = []

            def read() -> None:
                last = tunnel.stats
                while not stop.is_set():
                    now = tunnel.stats
                    if now.visitors_total < last.visitors_total or now.visitors_now > 1:
                        failures.append((last, now))
                    last = now

            readers = [threading.Thread(target=read) for _ in range(3)]
            for reader in readers:
                reader.start()
            try:
                for _ in range(10):
                    server = threading.Thread(target=answer, args=(listener, 1000))
                    server.start()
                    with visitor(edge, tunnel) as secure:
                        secure.sendall(b"hello")
                        assert len(read_all(secure)) == 1000
                    server.join()
                    eventually(lambda: tunnel.stats.visitors_now == 0)
            finally:
                stop.set()
                for reader in readers:
                    reader.join()
            assert failures == []
            assert (tunnel.stats.visitors_total, tunnel.stats.bytes_out) == (10, 10_000)

    def test_the_tunnel_is_the_value_that_it_was(self, client):
        with quictunnel.forward(9, client=client) as tunnel:
            plain = quictunnel.Tunnel(tunnel.host, tunnel.port)
            assert tunnel == plain
            assert hash(tunnel) == hash(plain)
            assert repr(tunnel) == repr(plain)
            assert [field.name for field in dataclasses.fields(tunnel)] == [
                "host", "port", "unencrypted_host", "unencrypted_port",
            ]  # fmt: skip
            for double in (plain, copy.copy(tunnel), pickle.loads(pickle.dumps(tunnel))):
                assert double == tunnel
                with pytest.raises(quictunnel.InvalidError, match="no figures"):
                    _ = double.stats


class TestWait:
    def test_tunnel_is_announced_after_its_origin_listens(self, client):
        with socket.socket() as origin:
            origin.bind(("127.0.0.1", 0))
            port = origin.getsockname()[1]
            opened = threading.Event()

            def run() -> None:
                with quictunnel.forward(port, wait=20, client=client):
                    opened.set()

            thread = threading.Thread(target=run)
            thread.start()
            assert not opened.wait(0.3)
            assert client.state == "connecting", "not even the edge has been asked"
            origin.listen()
            assert opened.wait(20)
            thread.join()

    def test_an_ipv6_listener_counts(self, client):
        with (
            socket.create_server(("::1", 0), family=socket.AF_INET6) as origin,
            quictunnel.forward(origin.getsockname()[1], wait=True, client=client) as tunnel,
        ):
            assert tunnel.stats.state == "connected"

    def test_time_is_up(self, client):
        with socket.socket() as origin:
            origin.bind(("127.0.0.1", 0))
            port = origin.getsockname()[1]
            with pytest.raises(quictunnel.OriginUnavailableError, match=f"Nobody listened on port {port} .*0.2 s"):
                quictunnel.forward(port, wait=0.2, client=client).__enter__()

    async def test_wait_can_be_cancelled(self, client):
        import asyncio

        task = asyncio.create_task(quictunnel.forward(9, wait=True, client=client).__aenter__())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with quictunnel.forward(9, client=client):
            pass  # the port is free

    @pytest.mark.parametrize("wait", [-1, float("inf"), float("nan"), "5", None, 86_401])
    def test_invalid_wait_is_an_error(self, wait):
        with pytest.raises(quictunnel.InvalidError, match=r"^wait should be"):
            quictunnel.forward(8000, wait=wait)
