"""``python -m edge_server health`` against what may stand where an edge did."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from edge_server.cli import health
from edge_server.cli.commands import main
from edge_server.cli.health import MAX_RESPONSE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_server.server import RunningEdge

READY = b'{"ready":true,"checks":[]}'


@contextlib.contextmanager
def answering(words: bytes | None) -> Iterator[str]:
    """A server that gives this answer to one request; None: none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as asked:
                asked.recv(4096)
                if words is not None:
                    asked.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("words", "is_ready"),
    [
        (answer(READY), True),
        (answer(b'{"ready":false,"checks":[]}', b"503 Service Unavailable"), False),
        (answer(b'{"ready":true,"checks":[{"name":"udp","ok":false,"why":"no"}]}'), False),
        (answer(b"<html>", b"404 Not Found"), False),
        (answer(READY[:-1] + b" " * MAX_RESPONSE + b"}"), False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (None, False),
    ],
)
def test_only_a_good_answer_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], words, is_ready):
    with answering(words) as url:
        (tmp_path / "admin.url").write_text(url)
        assert main(["health", "--state-dir", str(tmp_path)]) == (0 if is_ready else 1)
    said = capsys.readouterr()
    assert said.out == ("ready\n" if is_ready else "")
    assert is_ready or said.err.startswith("not ready")


def test_an_edge_that_does_not_answer_is_not_waited_for_long(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(health, "RESPONSE_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (tmp_path / "admin.url").write_text(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert main(["health", "--state-dir", str(tmp_path)]) == 1
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["auto"])
async def test_files_of_a_killed_edge_are_not_trusted(edge: RunningEdge, capsys):
    """The killed edge had a page; this one has none."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        (edge.config.state_dir / "admin.url").write_text(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert await asyncio.to_thread(main, ["health", "--state-dir", str(edge.config.state_dir)]) == 0
    assert capsys.readouterr().out.startswith("the QUIC socket responds")


def test_damaged_file_is_reported(tmp_path: Path, capsys):
    (tmp_path / "client.env").write_text("QUICTUNNEL_EDGE=nowhere\n")
    assert main(["health", "--state-dir", str(tmp_path)]) == 1
    assert "client.env is damaged" in capsys.readouterr().err
