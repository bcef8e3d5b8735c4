"""The command line in a process that says what its tunnels hold.

``python -m tests.load.observed_cli SOCKET tcp 8000`` does what ``quictunnel tcp 8000`` does.

Whoever connects to the socket is sent one JSON array with an object for each client of the process.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import threading

from quictunnel.cli.main import main
from quictunnel.connection.manager import ConnectionManager
from quictunnel.shared import event_loop
from tests.load.client_state import held_by


def answer(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        with sock:
            managers = [each for each in gc.get_objects() if type(each) is ConnectionManager]
            held = [event_loop.shared_loop().call(held_by(manager)) for manager in managers]
            sock.sendall(json.dumps(held).encode())


if __name__ == "__main__":
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    sys.exit(main(sys.argv[2:]))
