"""A Flask app at a public address of its own."""

from flask import Flask, request

import quictunnel

app = Flask(__name__)


@app.route("/")
def hello():
    return f"Hello, {request.args.get('name', 'World')}!"


if __name__ == "__main__":
    with quictunnel.forward(8000, name="my-site") as tunnel:
        print("Listening at", tunnel.url, flush=True)
        app.run("127.0.0.1", 8000)
