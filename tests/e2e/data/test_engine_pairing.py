"""Tests that the end-to-end tests run on the engines that they name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quictunnel
from tests.harness.edge_process import children_environment, embedded_edge
from tests.harness.tunnel_fixture import ProcessTunnel

pytestmark = [pytest.mark.every_pairing, pytest.mark.smoke]


def test_an_edge_of_its_own_and_clients_here_and_elsewhere(edge, client, engines, tmp_path):
    log = edge.state_dir.with_suffix(".log").read_text()
    assert f"QUIC engine: {engines.edge} " in log
    with quictunnel.forward(1, client=client):
        assert client.snapshot().engine == engines.client
    program = "import quictunnel; c = quictunnel.Client.from_env(); f = quictunnel.forward(1); f.__enter__()"
    program += "; print(c.snapshot().engine); f.__exit__(None, None, None)"
    environ = children_environment(edge)
    said = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == engines.client + "\n"


def test_embedded_tunnel_runs_on_the_pairing(engines):
    with embedded_edge() as edge, quictunnel.Client.from_config(edge.client_config) as client:
        assert edge.server.introspection.endpoint.engine.name == engines.edge
        with quictunnel.forward(1, client=client):
            assert client.snapshot().engine == engines.client


def test_stages(engines, tmp_path):
    with ProcessTunnel(tmp_path) as rig:
        assert f"QUIC engine: {engines.edge} " in (tmp_path / "state.log").read_text()
        assert rig.client.tunnel.host
