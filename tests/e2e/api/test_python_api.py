"""The Python interface as its users hold it: arguments, errors, and every way of using it."""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import quictunnel
from quictunnel.wire.messages import MAX_NETWORK, MAX_NETWORKS
from tests.harness.echo_origin import (
    EchoOrigin,
    assert_closed,
    echoes,
    is_closed,
    run_python,
    serves,
    udp_sockets,
)
from tests.harness.edge_process import children_environment
from tests.harness.programs import free_port, need
from tests.harness.visitors import tls_connect, was_reset
from tests.harness.waiting import LONG_TIMEOUT, eventually

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).parents[3]


def long_networks(count: int) -> list[str]:
    """Return networks that no visitor comes from, written as long as a network can be."""
    networks = [f"2001:1db8:1111:2222:3333:4444:5555:{0x1000 + number:x}/128" for number in range(count)]
    assert len(networks[-1]) == MAX_NETWORK
    return networks


@pytest.fixture
def origin():
    with EchoOrigin() as origin:
        yield origin


class TestArguments:
    @pytest.mark.parametrize("port", ["8000", 80.0, None, True, False, b"80", [80]])
    def test_a_port_is_an_int(self, port):
        with pytest.raises(quictunnel.InvalidError, match=r"^The port argument should be an int, not ") as raised:
            quictunnel.forward(port)
        assert isinstance(raised.value, quictunnel.Error)

    @pytest.mark.parametrize("port", [0, -1, 65536, 10**30])
    def test_a_port_has_16_bits(self, port):
        with pytest.raises(quictunnel.InvalidError, match=r"^Invalid port number "):
            quictunnel.forward(port)

    def test_h2_is_for_encrypted_ports(self):
        with pytest.raises(quictunnel.InvalidError, match=r"^H2 can only be used with encrypted ports"):
            quictunnel.forward(8000, h2_enabled=True, unencrypted=True)

    @pytest.mark.parametrize("what", ["allow", "deny"])
    def test_networks_are_counted(self, what):
        with pytest.raises(quictunnel.InvalidError, match=rf"^{what} takes up to {MAX_NETWORKS} networks\.$"):
            quictunnel.forward(8000, **{what: long_networks(MAX_NETWORKS + 1)})

    def test_as_many_networks_as_there_may_be(self, edge, client, origin):
        """Both lists full of the longest fit into what is said to the edge, and it looks at the last of each."""
        here, networks = "127.0.0.1/32", long_networks(MAX_NETWORKS)
        with quictunnel.forward(
            origin.port, unencrypted=True, client=client, allow=[*networks[1:], here], deny=networks
        ) as tunnel:
            assert serves(edge, tunnel)
        with (
            quictunnel.forward(origin.port, client=client, allow=networks, deny=[*networks[1:], here]) as tunnel,
        ):
            assert is_closed(edge, tunnel)

    def test_options_are_keywords(self):
        with pytest.raises(TypeError):
            quictunnel.forward(8000, True)

    def test_the_port_may_be_given_by_name(self, edge, client, origin):
        with quictunnel.forward(port=origin.port, unencrypted=True, client=client) as tunnel:
            assert serves(edge, tunnel)


class TestTunnel:
    def test_tunnel_addresses(self, client):
        with quictunnel.forward(free_port(), client=client, unencrypted=True) as tunnel:
            assert isinstance(tunnel, quictunnel.Tunnel)
            assert tunnel.host.endswith(".tunnel.localhost")
            assert len(tunnel.host.partition(".")[0]) == 16  # 80 random bits
            assert tunnel.url == f"https://{tunnel.host}:{tunnel.port}"
            assert tunnel.tls_socket == (tunnel.host, tunnel.port)
            assert tunnel.tcp_socket == (tunnel.unencrypted_host, tunnel.unencrypted_port)
            with pytest.raises(AttributeError):
                tunnel.port = 1

    def test_without_tcp(self, client):
        with quictunnel.forward(free_port(), client=client) as tunnel:
            assert (tunnel.unencrypted_host, tunnel.unencrypted_port) == ("", 0)
            with pytest.raises(
                quictunnel.InvalidError, match=r"^This tunnel is not configured for unencrypted TCP\."
            ):
                _ = tunnel.tcp_socket


class TestConfiguration:
    def test_no_edge_anywhere(self, tmp_path):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | {
            name: value for name, value in os.environ.items() if name == "PYTHONPATH"
        }
        done = run_python(
            """
            import quictunnel
            try:
                with quictunnel.forward(8000):
                    pass
            except quictunnel.ConfigError as error:
                print(error)
            """,
            environment | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        for words in ("QUICTUNNEL_EDGE", "QUICTUNNEL_TOKEN", "QUICTUNNEL_CA", "quictunnel-edge"):
            assert words in done.stdout

    def test_a_wrong_token_is_refused_and_never_shown(self, edge, caplog):
        caplog.set_level(logging.DEBUG)
        token = "not-the-token-of-this-edge"
        with quictunnel.Client(edge.environ["QUICTUNNEL_EDGE"], token=token, ca=edge.ca) as client:
            with (
                pytest.raises(quictunnel.AuthError, match="QUICTUNNEL_TOKEN") as raised,
                quictunnel.forward(8000, client=client),
            ):
                pass
            shown = [str(raised.value), repr(raised.value), repr(client), str(client), repr(client.snapshot())]
            assert client.state == "refused"
        assert token not in " ".join([*shown, caplog.text])

    def test_a_good_token_is_never_shown(self, edge, caplog):
        caplog.set_level(logging.DEBUG)
        token = edge.environ["QUICTUNNEL_TOKEN"]
        with edge.client() as client, quictunnel.forward(free_port(), client=client) as tunnel:
            shown = [repr(client), str(client), repr(client.config), repr(client.snapshot()), repr(tunnel)]
        assert token not in " ".join([*shown, caplog.text])
        assert token not in edge.state_dir.with_suffix(".log").read_text()

    def test_a_closed_port(self, tmp_path, edge):
        """The host exists, and no edge listens on that port: its kernel says so at once."""
        address = f"127.0.0.1:{free_port()}"
        begun = time.monotonic()
        with (
            quictunnel.Client(address, token="t", ca=edge.ca) as client,
            pytest.raises(
                quictunnel.EdgeUnavailableError, match=r" answered that nothing listens on its UDP port "
            ) as raised,
            quictunnel.forward(8000, client=client),
        ):
            pass
        assert time.monotonic() - begun < 5  # 0.3 s on an idle machine
        assert address in str(raised.value)

    def test_a_name_without_an_address(self, edge):
        with (
            quictunnel.Client("edge.invalid:4433", token="t", ca=edge.ca) as client,
            pytest.raises(quictunnel.EdgeUnavailableError, match=r"edge\.invalid"),
            quictunnel.forward(8000, client=client),
        ):
            pass

    def test_a_name_with_two_addresses_of_which_one_answers(self, edge, tmp_path):
        """As localhost has, on most machines. It is looked up in a hosts file that only the child sees."""
        if os.geteuid() != 0:
            pytest.skip("mounts need root")
        hosts = tmp_path / "hosts"
        hosts.write_text("::1 localhost\n127.0.0.1 localhost\n")
        port = edge.environ["QUICTUNNEL_EDGE"].rpartition(":")[2]
        program = textwrap.dedent(
            f"""
            import socket, time, quictunnel
            assert len(socket.getaddrinfo("localhost", {port}, type=socket.SOCK_DGRAM)) == 2
            begun = time.monotonic()
            with quictunnel.forward({free_port()}):
                print(time.monotonic() - begun)
            """
        )
        done = subprocess.run(
            [
                *(
                    need("unshare"),
                    "--mount",
                    "sh",
                    "-ec",
                    'mount --bind "$0" /etc/hosts && exec "$@"',
                    hosts,
                ),
                *(sys.executable, "-c", program),
            ],
            env=children_environment(edge) | {"QUICTUNNEL_EDGE": f"localhost:{port}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert float(done.stdout) < 5

    def test_an_edge_of_another_authority(self, edge, tmp_path):
        """Said at once, not after a time-out."""
        from edge_server.certificates.authority import DevelopmentAuthority

        stranger = DevelopmentAuthority.load_or_create(tmp_path)
        config = replace(edge.config, ca=stranger.certificate)
        with (
            quictunnel.Client.from_config(config) as client,
            pytest.raises(quictunnel.ConfigError, match="QUICTUNNEL_CA"),
            quictunnel.forward(8000, client=client),
        ):
            pass

    def test_the_environment_is_all_a_program_needs(self, edge, origin):
        done = run_python(
            f"""
            import quictunnel
            assert quictunnel.Client.from_env() is quictunnel.Client.from_env()
            with quictunnel.forward({origin.port}) as tunnel, quictunnel.forward({free_port()}) as other:
                print(tunnel.url, quictunnel.Client.from_env().snapshot().state)
            """,
            children_environment(edge),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("https://")
        assert done.stdout.endswith(" connected\n")
        assert done.stderr == ""


class TestOneClient:
    def test_two_forwards_share_one_connection(self, edge, client, origin):
        with EchoOrigin() as second:
            with (
                quictunnel.forward(origin.port, client=client) as one,
                quictunnel.forward(second.port, client=client, unencrypted=True) as two,
            ):
                assert one.host != two.host
                assert serves(edge, one)
                assert serves(edge, two)
                assert udp_sockets() == 1
            assert_closed(edge, one)
            assert_closed(edge, two)

    def test_closing_one_leaves_the_other(self, edge, client, origin):
        with EchoOrigin() as second, quictunnel.forward(second.port, client=client) as stays:
            with quictunnel.forward(origin.port, client=client) as goes:
                assert serves(edge, goes)
            assert_closed(edge, goes)
            assert serves(edge, stays)

    def test_the_same_port_twice(self, edge, client, origin):
        with quictunnel.forward(origin.port, client=client) as tunnel:
            with (
                pytest.raises(quictunnel.InvalidError, match=rf"^Port {origin.port} is already forwarded"),
                quictunnel.forward(origin.port, client=client),
            ):
                pass
            assert serves(edge, tunnel)
        with quictunnel.forward(origin.port, client=client) as again:
            assert again.host != tunnel.host
            assert serves(edge, again)

    def test_the_same_port_by_two_clients(self, edge, client, origin):
        with (
            edge.client() as another,
            quictunnel.forward(origin.port, client=client) as one,
            quictunnel.forward(origin.port, client=another) as two,
        ):
            assert serves(edge, one)
            assert serves(edge, two)

    def test_a_forward_holds_one_tunnel_at_a_time(self, client, origin):
        forwarding = quictunnel.forward(origin.port, client=client)
        with forwarding, pytest.raises(quictunnel.InvalidError, match="in use already"), forwarding:
            pass
        with forwarding:
            pass

    def test_snapshot(self, edge, client, origin):
        before = client.snapshot()
        assert (before.state, before.visitors_total, before.rtt) == ("connecting", 0, None)
        with quictunnel.forward(origin.port, client=client) as tunnel:
            with tls_connect(edge, tunnel) as visitor:
                assert echoes(visitor, b"x" * 1000)
                during = client.snapshot()
            eventually(lambda: client.snapshot().visitors_now == 0, timeout=LONG_TIMEOUT)
            after = client.snapshot()
        assert (during.state, during.visitors_now, during.visitors_total) == ("connected", 1, 1)
        assert (during.bytes_in, during.bytes_out) == (after.bytes_in, after.bytes_out) == (1000, 1000)
        assert 0 < during.rtt < 1
        assert during.engine
        client.close()
        client.close()
        assert client.snapshot().state == "closed"
        assert udp_sockets() == 0

    def test_closing_the_client_closes_its_tunnels(self, edge, client, origin):
        with quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
            with tls_connect(edge, tunnel) as visitor:
                assert echoes(visitor)
                client.close()
                assert was_reset(visitor)
            eventually(lambda: is_closed(edge, tunnel), timeout=LONG_TIMEOUT)


class TestEveryWayOfUsingIt:
    async def test_async_with_in_a_running_loop(self, edge, client, origin):
        async with quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
            assert await asyncio.to_thread(serves, edge, tunnel)
        assert_closed(edge, tunnel)

    async def test_with_in_a_running_loop(self, edge, client, origin):
        """As a cell of a notebook does, whose loop is running already."""
        with quictunnel.forward(origin.port, client=client) as tunnel:
            assert serves(edge, tunnel)  # blocks that loop, and is served all the same
        assert_closed(edge, tunnel)

    def test_in_a_thread(self, edge, client, origin):
        result = []

        def work():
            with quictunnel.forward(origin.port, client=client) as tunnel:
                result.append(serves(edge, tunnel))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        assert result == [True]

    def test_in_many_threads_at_once(self, edge, client):
        """Also the first use of the client, which connects it."""
        result = []

        def work(origin):
            with quictunnel.forward(origin.port, client=client) as tunnel:
                result.append(serves(edge, tunnel))

        with EchoOrigin() as a, EchoOrigin() as b, EchoOrigin() as c, EchoOrigin() as d:
            threads = [threading.Thread(target=work, args=(origin,)) for origin in (a, b, c, d)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert udp_sockets() == 1
        assert result == [True] * 4

    async def test_two_loops_one_after_the_other(self, edge, client, origin):
        def whole_program():
            async def main():
                async with quictunnel.forward(origin.port, client=client) as tunnel:
                    return await asyncio.to_thread(serves, edge, tunnel)

            return asyncio.run(main())

        assert await asyncio.to_thread(whole_program)
        assert await asyncio.to_thread(whole_program)

    def test_in_a_subprocess_of_multiprocessing(self, edge, origin):
        for method in ("spawn", "fork"):
            done = run_python(
                f"""
                import multiprocessing, quictunnel

                def work(queue):
                    with quictunnel.forward({origin.port}) as tunnel:
                        queue.put(tunnel.url)

                if __name__ == "__main__":
                    context = multiprocessing.get_context({method!r})
                    queue = context.SimpleQueue()
                    if {method!r} == "fork":
                        process = context.Process(target=work, args=(queue,))
                    else:
                        # Without a file there is no module to import "work" from: the child's own code is used.
                        process = context.Process(target=exec, args=(
                            "import quictunnel\\nwith quictunnel.forward({origin.port}) as t: q.put(t.url)",
                            {{"q": queue}},
                        ))
                    process.start()
                    print(queue.get())
                    process.join()
                    raise SystemExit(process.exitcode)
                """,
                children_environment(edge),
            )
            assert (done.returncode, done.stderr) == (0, ""), (method, done.stderr)
            assert done.stdout.startswith("https://")


def test_importing_loads_no_quic_library():
    done = run_python(
        """
        import sys
        import quictunnel
        loaded = {name for name in sys.modules if name.startswith(("aioquic", "quictunnel.", "asyncio"))}
        print(sorted(loaded - {"quictunnel.shared", "quictunnel.shared.lazy_imports"}))
        quictunnel.InvalidError, quictunnel.Tunnel
        print([name for name in sys.modules if name.startswith("aioquic")])
        """,
        os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr
