"""A client of the operator's API."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Self

import httpx

from edge_server.admin import openapi
from edge_server.admin.operations import PREFIX
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.tunnel_fixture import EmbeddedTunnel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


class AdminClient:
    """A client with the token of an edge's page."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=20, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def ask(self, path: str, **parameters: Any) -> httpx.Response:
        """Return the response to a GET request."""
        return self.http.get(PREFIX + path, params=parameters)

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of a response, which must have the status 200."""
        response = self.ask(path, **parameters)
        assert response.status_code == 200, response.text
        return response.json()

    def do(self, path: str, method: str = "post", body: Any = None) -> httpx.Response:
        """Send a request that changes something, with a JSON body unless it is None."""
        return self.http.request(method, PREFIX + path, json=body)

    def follow(self) -> AbstractContextManager[httpx.Response]:
        """Open the event stream."""
        return self.http.stream("GET", f"{PREFIX}/events")


class AdminTunnel(EmbeddedTunnel):
    """A tunnel in this process, with a client of its edge's API."""

    def __init__(self) -> None:
        super().__init__(admin=True)
        admin = self.edge.server.admin
        assert admin is not None
        self.operator = self.stack.enter_context(AdminClient(admin.url, admin.token))


def event_data(response: httpx.Response) -> Iterator[bytes]:
    """Yield the data of each event."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ").encode()


def schema_of(document: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    """Return the JSON Schema of a response from the OpenAPI document."""
    content = document["paths"][path][method]["responses"][str(status)]["content"]
    (media,) = content.values()
    return {**media["schema"], "components": document["components"]}


DOCUMENT = openapi.document()


@contextlib.contextmanager
def raw(operator: AdminClient) -> Iterator[socket.socket]:
    """Connect to the operator's port without a client library."""
    port = httpx.URL(operator.url).port
    with socket.create_connection(("127.0.0.1", port), SOCKET_TIMEOUT) as sock:
        yield sock


def request(operator: AdminClient, method: str, path: str, *headers: str) -> bytes:
    """Return an HTTP/1.1 request without a body, with the operator's token."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {operator.token}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def all_of(sock: socket.socket) -> bytes:
    """Return everything that comes until the connection ends or breaks."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            received += piece
    return received
