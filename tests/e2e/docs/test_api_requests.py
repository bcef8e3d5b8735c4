"""The requests to the operator's API in ADMIN.md and METRICS.md, sent as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from quictunnel.forwarding import forward
from tests.harness.edge_process import start_edge
from tests.harness.programs import free_port, need
from tests.harness.tutorial_runner import steps_of

DOCS = Path(__file__).parents[3] / "docs"
ADDRESS = "http://127.0.0.1:9443"
STREAM_TIMEOUT = 28
"""curl's exit status at --max-time, which is how the stream of events ends here."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    """An edge with the operator's page and a tunnel by the name ``shop``."""
    port = free_port()
    edge = start_edge(tmp_path_factory.mktemp("api") / "state", "--admin", str(port))
    with edge.client() as client, forward(8000, name="shop", client=client):
        yield edge, f"http://127.0.0.1:{port}"
    assert edge.stop() == 0


def requests_of(page: str) -> list[str]:
    """Return the commands of a page with the API's address, each on one line."""
    blocks = [step.text for step in steps_of((DOCS / page).read_text()) if ADDRESS in step.text]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("curl ")]


def run(edge, line: str) -> str:
    """Run a line in a shell with the token, and return what it prints."""
    process, address = edge
    token = (process.state_dir / "admin.token").read_text().strip()
    assert ADDRESS in line
    command = line.replace(ADDRESS, address).replace("curl ", "curl --silent --show-error --fail --max-time 3 ", 1)
    done = subprocess.run(
        [need("sh"), "-c", command],
        env=os.environ | {"TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == (STREAM_TIMEOUT if line.rsplit(maxsplit=1)[-1].endswith("/events") else 0), (
        f"{line}: {done}"
    )
    return done.stdout


def test_requests_of_metrics(edge):
    sessions, trace, stop = requests_of("METRICS.md")
    (session,) = json.loads(run(edge, sessions))["items"]
    started = json.loads(run(edge, trace.replace("/ID/", f"/{session['id']}/")))
    assert Path(started["file"]).exists()
    run(edge, stop.replace("/ID/", f"/{session['id']}/"))


def test_requests_of_the_operators_page(edge):
    lines = requests_of("ADMIN.md")
    assert len(lines) >= 4
    closing = [line for line in lines if line.endswith("/close")]
    for line in [line for line in lines if line not in closing] + closing:  # the tunnel ends last
        assert run(edge, line)
