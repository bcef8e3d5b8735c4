"""An edge that other machines reach: what it prints for them is what they can use."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quictunnel.config.credential import decode
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.netns import new_namespace

ROOT = Path(__file__).parents[3]
PUBLIC = "192.0.2.7"
NAME = "edge.example.com"


@pytest.mark.parametrize(
    ("options", "told", "here"),
    [
        (["--quic", "0.0.0.0:4433", "--public-host", PUBLIC], PUBLIC, "127.0.0.1"),
        (["--quic", "[::]:4433", "--domain", NAME], NAME, "127.0.0.1"),
        (["--quic", f"{NAME}:4433"], NAME, NAME),
    ],
)
def test_public_address_is_printed_for_other_machines(tmp_path, options, told, here):
    with new_namespace(tmp_path, NAME) as namespace:
        namespace.run("ip", "address", "add", f"{PUBLIC}/32", "dev", "lo").check_returncode()
        hosts = namespace.hosts
        hosts.write_text(hosts.read_text().replace(f"127.0.0.1 {NAME}", f"{PUBLIC} {NAME}"))
        namespace.start_edge(*options)
        assert f"clients connect to {told}:4433 (UDP)" in namespace.edge.banner
        assert "127.0.0.1" not in namespace.edge.banner
        assert namespace.edge.environ["QUICTUNNEL_TOKEN"] not in namespace.edge.banner
        assert "qt1" not in namespace.edge.banner
        # Clients on this machine need no way around by the public address, which many a router does not offer.
        assert namespace.edge.environ["QUICTUNNEL_EDGE"] == f"{here}:4433"
        assert opens(namespace, tmp_path / "home", namespace.edge.environ)

        # Another machine has nothing but the credential that the command of those lines prints.
        printed = re.search(r"(token create --state-dir .*) --note NAME", namespace.edge.banner)
        program = [sys.executable, "-m", "edge_server", *printed[1].split()]
        credential = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
        assert decode(credential).addresses == (f"{told}:4433",)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        assert opens(namespace, elsewhere, {"QUICTUNNEL_CREDENTIAL": credential})


def without_edge(environ: dict[str, str]) -> dict[str, str]:
    names = ("QUICTUNNEL_EDGE", "QUICTUNNEL_TOKEN", "QUICTUNNEL_CA")
    return {name: value for name, value in environ.items() if name not in names}


def opens(namespace, home, environ) -> bool:
    """Return True if a client there opens a tunnel, and ends in good order."""
    client = subprocess.Popen(
        [*namespace.enter, sys.executable, "-m", "quictunnel", "http", "8000", "--json"],
        env=without_edge(children_environment(namespace.edge)) | environ | {"HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    is_open = json.loads(client.stdout.readline())["event"] == "ready"
    client.send_signal(signal.SIGTERM)
    client.communicate(timeout=20)
    return is_open and client.returncode == 0


def test_an_edge_without_a_public_name_says_what_is_missing(tmp_path):
    edge = start_edge(tmp_path / "state", "--quic", "0.0.0.0:0")
    try:
        assert "Set --public-host NAME for clients on other machines." in edge.banner
        assert edge.environ["QUICTUNNEL_TOKEN"] not in edge.banner
    finally:
        assert edge.stop() == 0
