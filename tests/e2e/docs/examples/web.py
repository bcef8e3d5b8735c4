"""A web server, as a user writes it."""

from flask import Flask

import quictunnel

flask_app = Flask(__name__)


@flask_app.route("/")
def hello_world():
    return "Hello, World!"


def run_app():
    # Start a web server inside the container at port 8000. `quictunnel.forward(8000)` lets us
    # expose that port to the world at a random HTTPS URL.
    with quictunnel.forward(8000) as tunnel:
        print("Server listening at", tunnel.url)
        flask_app.run("0.0.0.0", 8000)

    # When the context manager exits, the port is no longer exposed.


if __name__ == "__main__":
    run_app()
