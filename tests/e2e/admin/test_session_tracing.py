"""A session that an operator wants to see on the wire: traced on request while the edge runs, link after link."""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openapi_schema_validator import OAS31Validator

from edge_server.admin.operations import PREFIX
from quictunnel.transport.engine import CloseCause
from quictunnel.transport.qlog import Tracer
from quictunnel.transport.tracing_engine import TracingEngine
from quictunnel.wire.codes import SessionCode
from quictunnel.wire.messages import Welcome
from tests.harness.admin_client import DOCUMENT, AdminClient, AdminTunnel, schema_of
from tests.harness.edge_process import start_edge
from tests.harness.hostile_peer import HostileClient, ReturningClient
from tests.harness.qlog_reader import count, events, names
from tests.harness.sockets import ClientProcess, receive_exactly
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_server.clients.qlog import QlogTracing
    from quictunnel.transport.engine import Engine

SIZE = 300_000
WAY = f"{PREFIX}/sessions/{{id}}/qlog"


class Traffic:
    """A client in a process of its own, and visitors of its origin, which is the test's."""

    def __init__(self, edge: Any, stack: contextlib.ExitStack) -> None:
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.settimeout(15)
        self.client = stack.enter_context(ClientProcess.start(edge, self.listener.getsockname()[1]))

    def move(self) -> None:
        """Connect one visitor and send it data."""
        with socket.create_connection(self.client.tunnel.tcp_socket, 15) as visitor:
            visitor.sendall(b"?")
            with self.listener.accept()[0] as origin:
                receive_exactly(End(origin), 1)
                origin.sendall(bytes(SIZE))
                receive_exactly(End(visitor), SIZE)


class End:
    def __init__(self, sock: socket.socket) -> None:
        self.receive = lambda: sock.recv(65536)


def trace(operator: AdminClient, session: str, method: str = "post") -> dict[str, Any]:
    """Begin or end one; the answer, which is as described."""
    response = operator.do(f"/sessions/{session}/qlog", method)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    OAS31Validator(schema_of(DOCUMENT, WAY, method, 200)).validate(answer)
    assert answer["target"] == session
    return answer


def session_at(operator: AdminClient, tunnels: list[str]) -> dict[str, Any]:
    """Return the session with these names."""
    (one,) = [one for one in operator.get("/sessions")["items"] if one["tunnels"] == tunnels]
    return one


def moves_in(found: list[dict[str, Any]]) -> int:
    """Return how often the client has passed on the origin's data. Datagrams cannot be counted: some are sent
    again."""
    size = sum(event["data"]["length"] for event in found if event.get("name") == "transport:data_moved")
    assert size % SIZE < SIZE / 10, "and control messages"
    return size // SIZE


def test_trace_covers_only_the_chosen_client(tmp_path, engines):
    """The trace covers that client alone, from the request to its end, and only the owner can read it."""
    log = tmp_path / "edge.log"
    with contextlib.ExitStack() as stack:
        edge = start_edge(tmp_path / "state", "--admin", "127.0.0.1:0", "--grace", "0", log=log)
        stack.callback(edge.stop)
        operator = stack.enter_context(
            AdminClient((edge.state_dir / "admin.url").read_text(), (edge.state_dir / "admin.token").read_text())
        )
        watched, other = Traffic(edge, stack), Traffic(edge, stack)
        session = session_at(operator, [watched.client.tunnel.host.partition(".")[0]])
        assert (session["is_traced"], session["qlog"]) == (False, None)
        watched.move()
        began = trace(operator, session["id"])
        file = Path(began["file"])
        assert (began["action"], began["is_traced"]) == ("trace_session", True)
        assert file.parent == edge.state_dir / "qlog"
        now = session_at(operator, session["tunnels"])
        assert (now["is_traced"], now["qlog"]) == (True, str(file))
        assert trace(operator, session["id"]) == began, "asked again, it is the same"
        watched.move()
        other.move(), other.move()
        ended = trace(operator, session["id"], "delete")
        assert ended == {"action": "end_trace", "target": session["id"], "is_traced": False, "file": str(file)}
        size = file.stat().st_size
        watched.move()
        assert operator.do(f"/sessions/{session['id']}/qlog", "delete").status_code == 404
        now = session_at(operator, session["tunnels"])
        assert (now["is_traced"], now["qlog"]) == (False, None)
        assert file.stat().st_size == size
        assert list(file.parent.iterdir()) == [file]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        found = events(file)
        assert found[0]["trace"]["vantage_point"]["type"] == "server"
        assert found[1]["data"]["dst_port"] == int(session["address"].rpartition(":")[2])
        assert moves_in(found) == 1
        assert count(found, "transport:datagrams_sent") > 0
        # And with the session.
        again = Path(trace(operator, session["id"])["file"])
        assert again != file
        assert operator.do(f"/sessions/{session['id']}/end").status_code == 200
        eventually(lambda: "connection_closed" in again.read_text(), "it goes on")
        assert names(events(again))[-1] == "connectivity:connection_closed"
        assert operator.do(f"/sessions/{session['id']}/qlog").status_code == 404
        key = session["owner"]
        said = [
            line for line in log.read_text().splitlines() if "the operator at 127.0.0.1" in line and "trac" in line
        ]
        assert len(said) == 4
        assert f"traces session {session['id']} of client {key} to {file}" in said[0]
        assert f"stops tracing session {session['id']} of client {key}" in said[2]


def test_the_option_for_all_and_the_wish_for_one(tmp_path, engines):
    """SIGHUP switches --qlog on and off, while one session is traced and while it is not: it has one file for as
    long as anybody wants it."""
    config, log = tmp_path / "edge.toml", tmp_path / "edge.log"
    config.write_text("")
    with contextlib.ExitStack() as stack:
        edge = start_edge(
            tmp_path / "state", "--admin", "127.0.0.1:0", "--grace", "0", "--config", str(config), log=log
        )
        stack.callback(edge.stop)
        operator = stack.enter_context(
            AdminClient((edge.state_dir / "admin.url").read_text(), (edge.state_dir / "admin.token").read_text())
        )
        watched, other = Traffic(edge, stack), Traffic(edge, stack)
        tunnels = [[each.client.tunnel.host.partition(".")[0]] for each in (watched, other)]
        id_ = session_at(operator, tunnels[0])["id"]

        def switch(text: str) -> list[str | None]:
            """To which files the two go after that."""
            before = log.read_text().count("changed: qlog")
            config.write_text(text)
            edge.process.send_signal(signal.SIGHUP)
            eventually(lambda: log.read_text().count("changed: qlog") > before, "it was not read")
            return [session_at(operator, each)["qlog"] for each in tunnels]

        file = trace(operator, id_)["file"]
        mine, others = switch('qlog = "traces"')
        assert mine == file
        assert others is not None
        assert Path(others).parent == tmp_path / "traces"
        watched.move(), other.move()
        assert switch("") == [file, None]
        watched.move()
        assert trace(operator, id_, "delete")["is_traced"] is False
        assert moves_in(events(Path(file))) == 2
        assert moves_in(events(Path(others))) == 1
        # While all are traced a wish changes nothing but what comes after.
        mine, others = switch('qlog = "traces"')
        assert trace(operator, id_)["file"] == mine
        answer = trace(operator, id_, "delete")
        assert (answer["file"], answer["is_traced"]) == (mine, True)
        assert session_at(operator, tunnels[0])["is_traced"] is False
        trace(operator, id_)
        assert switch("") == [mine, None]
        watched.move()
        trace(operator, id_, "delete")
        assert moves_in(events(Path(mine))) == 1
        # One that is wanted while the option names a place goes there.
        switch('qlog = "elsewhere"')
        assert Path(trace(operator, id_)["file"]).parent == tmp_path / "elsewhere"


# Links, in this process.


class TracingRig(AdminTunnel):
    @property
    def engine(self) -> Engine:
        """The edge's, with what stands before it."""
        return self.edge.server.introspection.endpoint.engine


@pytest.fixture
def rig(engines) -> Iterator[TracingRig]:
    with TracingRig() as rig:
        yield rig


async def test_another_link_has_another_file(rig: TracingRig):
    """Of a client that dials again while its old link is there, and of one that is away and comes back."""
    config, operator = rig.edge.client_config, rig.operator
    async with HostileClient(config) as first, ReturningClient(config) as second, ReturningClient(config) as third:
        first.say(first.good_hello)
        secret = (await first.heard(Welcome)).session
        session = session_at(operator, [])["id"]
        files = [Path(trace(operator, session)["file"])]
        assert (await second.come_back(secret)).resumed
        assert await first.end() == (CloseCause.PEER, SessionCode.LINK_REPLACED)
        files.append(Path(session_at(operator, [])["qlog"]))
        second.connection.close(SessionCode.DONE)  # before it has said how it stands
        second.schedule_transmit()
        await second.end()
        eventually(lambda: session_at(operator, [])["is_away"], "its link is there")
        assert (session_at(operator, [])["is_traced"], session_at(operator, [])["qlog"]) == (True, None)
        assert not isinstance(rig.engine, TracingEngine), "nothing is traced meanwhile"
        assert trace(operator, session, "delete")["file"] == str(files[1])
        assert not session_at(operator, [])["is_traced"]
        assert trace(operator, session)["file"] is None, "it begins when there is something to trace"
        assert not isinstance(rig.engine, TracingEngine)
        assert (await third.come_back(secret)).resumed
        files.append(Path(session_at(operator, [])["qlog"]))
        assert trace(operator, session, "delete")["file"] == str(files[2])
        assert not isinstance(rig.engine, TracingEngine)
        assert len(set(files)) == 3
        for file, client in zip(files, (first, second, third), strict=True):
            found = events(file)
            assert found[1]["data"]["dst_port"] == client._endpoint.local_address[1]
            assert client is first or count(found, "transport:datagrams_sent") > 0
            assert (names(found)[-1] == "connectivity:connection_closed") == (client is not third)


def test_unwritable_trace_file_is_reported(rig: TracingRig, caplog: pytest.LogCaptureFixture):
    in_the_way = rig.edge.server.config.state_dir / "qlog"
    in_the_way.write_text("")
    (session,) = rig.operator.get("/sessions")["items"]
    refused = rig.operator.do(f"/sessions/{session['id']}/qlog")
    assert refused.status_code == 409
    OAS31Validator(schema_of(DOCUMENT, WAY, "post", 409)).validate(refused.json())
    assert str(in_the_way) in refused.json()["message"]
    assert not rig.operator.get("/sessions")["items"][0]["is_traced"]
    assert not isinstance(rig.engine, TracingEngine)
    assert not [record for record in caplog.records if record.name == "edge_server.audit"]
    in_the_way.unlink()
    assert trace(rig.operator, session["id"])["is_traced"]


def test_a_trace_that_is_full_is_over(rig: TracingRig):
    (session,) = rig.operator.get("/sessions")["items"]
    tracing = rig.edge.server.introspection.tracing
    rig.edge._background.call(trace_all(tracing, Tracer(tracing._directory, max_bytes=20_000)))
    file = Path(trace(rig.operator, session["id"])["file"])
    rig.edge._background.call(trace_all(tracing, None))
    visitor, origin = rig.pair("tcp")
    for _ in range(100):
        origin.send(bytes(20_000))
        receive_exactly(visitor, 20_000)
    (now,) = rig.operator.get("/sessions")["items"]
    assert (now["is_traced"], now["qlog"]) == (False, None)
    assert not isinstance(rig.engine, TracingEngine)
    assert names(events(file))[-1] == "quictunnel:trace_is_full"
    assert rig.operator.do(f"/sessions/{session['id']}/qlog", "delete").status_code == 404


async def trace_all(tracing: QlogTracing, tracer: Tracer | None) -> None:
    tracing.trace_all(tracer)
