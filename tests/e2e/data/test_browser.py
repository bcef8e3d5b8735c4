"""A real browser as the visitor. What it does over HTTP/2 is in ``tests/e2e/tls/test_http2.py``."""

import asyncio
import http

from websockets.asyncio.server import serve

import quictunnel
from tests.harness import browser
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.visitors import browsing, shown

MIB = 1024 * 1024
TALK = """<!doctype html><script>
const socket = new WebSocket(`wss://${location.host}/`)
socket.onopen = () => socket.send("from a page")
socket.onmessage = (event) => socket.send("heard " + event.data)
</script>"""


def test_a_page_and_what_belongs_to_it(edge, client, nginx, tmp_path):
    (nginx.root / "index.html").write_text("<script src=last.js></script>" + "<img src=none.png>" * 20)
    (nginx.root / "last.js").write_bytes(b"//%b\ndocument.write('all' + ' came')" % (b"x" * 3 * MIB))
    with quictunnel.forward(nginx.port, client=client) as tunnel:
        assert "all came" in shown(edge, tunnel, tmp_path, "/")


async def test_a_page_that_opens_a_websocket(edge, client, tmp_path):
    heard = asyncio.get_running_loop().create_future()

    def page(connection, request):
        if "Upgrade" in request.headers:
            return None
        response = connection.respond(http.HTTPStatus.OK, TALK)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/html"
        return response

    async def talk(connection):
        assert await connection.recv() == "from a page"
        await connection.send("from its origin")
        heard.set_result(await connection.recv())

    async with serve(talk, "127.0.0.1", 0, process_request=page) as server:
        port = server.sockets[0].getsockname()[1]
        async with quictunnel.forward(port, client=client) as tunnel:
            command = browsing(edge, tunnel, tmp_path, tunnel.url)
            process = await asyncio.create_subprocess_exec(
                *command,
                env=browser.environment(tmp_path),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                assert await asyncio.wait_for(heard, SOCKET_TIMEOUT) == "heard from its origin"
            finally:
                process.terminate()
                await process.wait()
