"""An edge that other machines reach: what it prints for them is what they can use."""

import json
import re
import shutil
import signal
import subprocess
import sys

from tests.e2e.conftest import children_environment
from tests.e2e.world import new_world

PUBLIC = "192.0.2.7"
OPTIONS = ("--quic", "0.0.0.0:4433", "--https", "0.0.0.0:443", "--public-host", PUBLIC)


def test_other_machines_are_told_the_public_address(tmp_path):
    with new_world(tmp_path) as world:
        world.run("ip", "address", "add", f"{PUBLIC}/32", "dev", "lo").check_returncode()
        world.start_edge(*OPTIONS)
        assert f"clients connect to {PUBLIC}:4433 (UDP)" in world.edge.banner
        assert "127.0.0.1" not in world.edge.banner
        told = dict(re.findall(r"export (\w+)=(\S+)", world.edge.banner))
        assert told["QUICTUNNEL_EDGE"] == f"{PUBLIC}:4433"
        # Clients on this machine need no way around by the public address, which many a router does not offer.
        assert world.edge.environ == told | {"QUICTUNNEL_EDGE": "127.0.0.1:4433"}

        # Another machine has nothing but those lines and a copy of the authority.
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        told["QUICTUNNEL_CA"] = shutil.copy(told["QUICTUNNEL_CA"], elsewhere)
        client = subprocess.Popen(
            [*world.enter, sys.executable, "-m", "quictunnel", "http", "8000", "--json"],
            env=children_environment(world.edge) | told | {"HOME": str(elsewhere)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(client.stdout.readline())["event"] == "ready"
        client.send_signal(signal.SIGTERM)
        client.communicate(timeout=20)
        assert client.returncode == 0
