"""Tell an application that its visitors use https. The edge terminates TLS, and no header says so."""


def https_wsgi(application):
    """Wrap a WSGI application: Django, Flask, Socket.IO with either."""

    def with_https(environ, start_response):
        environ["wsgi.url_scheme"] = "https"
        return application(environ, start_response)

    return with_https


def https_asgi(application):
    """Wrap an ASGI application: FastAPI, Starlette, Django's asgi.py."""

    async def with_https(scope, receive, send):
        if scope["type"] in ("http", "websocket"):
            scope["scheme"] = "https" if scope["type"] == "http" else "wss"
        await application(scope, receive, send)

    return with_https
