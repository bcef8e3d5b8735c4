"""Tests of port detection: the port that a program will listen on, read from its command line and nowhere else."""

from __future__ import annotations

import pytest

from quictunnel.cli.port_detection import port_of
from quictunnel.errors import InvalidError


@pytest.mark.parametrize(
    "line",
    [
        "uvicorn app:app --port 8000",
        "uvicorn app:app --port=8000",
        "flask run -p 8000",
        "python -m http.server 8000",
        "python -m http.server 8000 --bind 127.0.0.1",
        "python manage.py runserver 8000",
        "python manage.py runserver 0.0.0.0:8000",
        "gunicorn -b 0.0.0.0:8000 app",
        "gunicorn --bind=[::]:8000 app",
        "hypercorn --bind :8000 app",
        "streamlit run app.py --server.port 8000",
        "env PORT=8000 node server.js",
        "uvicorn app:app --host 0.0.0.0 --port 8000",
        "app --port 8000 --listen 127.0.0.1:8000",
        "uvicorn app:app --host ::1 --port 8000",
        "uvicorn app:app --host :: --port 8000",
        "app --host fe80::1:2 -p 8000",
        "app --host fe80::1%eth0 -p 8000",
        "python -m http.server 8000 --bind ::1",
        "python -m http.server --bind ::1 8000 --port 8000",
        "gunicorn --bind [::1]:8000 app",
        "python manage.py runserver [::1]:8000",
    ],
)
def test_port_is_read_from_the_command_line(line: str) -> None:
    assert port_of(line.split(), {}, None) == 8000
    assert port_of(line.split(), {"PORT": "8000"}, None) == 8000
    assert port_of(line.split(), {"PORT": "8000"}, 9000) == 9000, "what the person says counts alone"


def test_the_variable_alone() -> None:
    assert port_of(["node", "server.js"], {"PORT": "3000"}, None) == 3000


@pytest.mark.parametrize(
    "line",
    [
        "uvicorn app:app",
        "docker run -p 8080:80 nginx",
        "app --port",
        "app --port 0",
        "app --port 65536",
        "app --port ٨٠",
        "app --host 8000",
        "app 8000",
        "python -m http.server",
        "mkdir -p src",
        "app --host ::1",
        "app --host 2001:db8::8000",
        "app --bind [::1]",
    ],
)
def test_unstated_port_is_not_guessed(line: str) -> None:
    with pytest.raises(InvalidError, match=r"does not contain its port.*--port 8000"):
        port_of(line.split(), {"PORT": "none"}, None)


@pytest.mark.parametrize(
    ("line", "environ"), [("app --port 1 --bind :2", {}), ("app --port 1", {"PORT": "2"}), ("app -p 2 -p 1", {})]
)
def test_two_ports_are_one_too_many(line: str, environ: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="name the ports 1 and 2"):
        port_of(line.split(), environ, None)
