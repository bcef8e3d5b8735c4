"""Listening sockets of the edge and the inspector."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from quictunnel.shared.listening import open_listener


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_listener_accepts_connections(host, family):
    with open_listener(host, 0, backlog=1) as listener:
        assert listener.family == family
        assert not listener.getblocking()
        with socket.create_connection(listener.getsockname()[:2], timeout=5):
            listener.settimeout(5)
            accepted, _ = listener.accept()
            accepted.close()


def test_port_in_use_is_refused():
    in_use = pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE))
    with open_listener("127.0.0.1", 0, backlog=1) as listener, in_use:
        open_listener("127.0.0.1", listener.getsockname()[1], backlog=1)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="the platform shares no ports")
def test_shared_port_is_opened_twice():
    with (
        open_listener("127.0.0.1", 0, backlog=1, is_shared=True) as first,
        open_listener("127.0.0.1", first.getsockname()[1], backlog=1, is_shared=True) as second,
    ):
        assert first.getsockname() == second.getsockname()


def test_family_limits_the_addresses_of_a_name():
    with pytest.raises(socket.gaierror):
        open_listener("::1", 0, backlog=1, family=socket.AF_INET)
