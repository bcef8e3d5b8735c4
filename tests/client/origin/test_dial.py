"""The origin is dialled: how long, and what is said when it was not reached."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from quictunnel.origin import dial_failure as failures
from quictunnel.origin.bad_gateway import error_response
from quictunnel.origin.dial import Origin, OriginDialError
from quictunnel.origin.dial_failure import dial_failure
from quictunnel.origin.target import Target
from quictunnel.shared.error_page import RequestHead
from quictunnel.wire.codes import StreamCode

GET = RequestHead("GET", accepts_html=False)

WORDS = {
    errno.ECONNREFUSED: "Nobody listens",
    errno.ETIMEDOUT: "backlog has been full",
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "system has no file descriptors",
    errno.EACCES: "may not connect",
    errno.EPERM: "may not connect",
    errno.ENETUNREACH: "no route",
    errno.EADDRNOTAVAIL: "No local ports",
    errno.ENOMEM: "no memory",
    errno.ENOBUFS: "no memory",
    errno.EPROTO: "failed (strange {thing})",
}


class OverStream:
    """A stream whose visitor has left: whatever joins it is reset."""

    is_over = True
    receive_done = True


@pytest.mark.parametrize("number", WORDS, ids=errno.errorcode.get)
def test_dial_errors_have_distinct_messages(number):
    failure = dial_failure(OSError(number, "strange {thing}"))
    assert WORDS[number] in failure.event_for(Target(8000))
    assert ("Nobody listens" in failure.event) is (number == errno.ECONNREFUSED)
    assert (failure.code is StreamCode.REFUSED) is (number == errno.ECONNREFUSED)
    assert str(failure.status).encode() in error_response(failure, Target(8000), GET)


def test_a_timeout_is_a_504_and_a_refusal_a_502():
    assert error_response(failures.BUSY, Target(8000), GET).startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert error_response(failures.REFUSED, Target(8000), GET).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"8000" in error_response(failures.BUSY, Target(8000), GET)
    assert error_response(failures.BUSY, Target(8000), RequestHead("HEAD", accepts_html=False)).endswith(
        b"\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ((errno.ECONNREFUSED, errno.EADDRNOTAVAIL), failures.REFUSED),
        ((errno.ECONNREFUSED, errno.ECONNREFUSED), failures.REFUSED),
        ((errno.ETIMEDOUT, errno.ECONNREFUSED), failures.BUSY),
        ((errno.ECONNREFUSED, errno.ETIMEDOUT), failures.BUSY),
        ((errno.EMFILE, errno.EMFILE), failures.NO_DESCRIPTORS),
    ],
)
async def test_the_two_addresses_have_one_answer(monkeypatch, errors, wanted):
    """Without IPv6 ``::1`` is no error, and a refusal tells less than anything else."""
    said = dict(zip(("127.0.0.1", "::1"), errors, strict=True))

    async def dial(_origin: Origin, host: str, _stream: object) -> None:
        raise OSError(said[host], "")

    monkeypatch.setattr(Origin, "_dial_address", dial)
    with pytest.raises(OriginDialError) as caught:
        await Origin(8000).dial(OverStream())
    assert caught.value.failure == wanted


@pytest.fixture
def full_listener():
    """A server that is busy, and whose queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        listener.setblocking(False)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield listener
        for each in waiting:
            each.close()


async def test_a_visitor_waits_for_a_busy_origin_until_it_takes_it(full_listener):
    loop = asyncio.get_running_loop()
    dial = asyncio.create_task(Origin(full_listener.getsockname()[1]).dial(OverStream()))
    done, _ = await asyncio.wait([dial], timeout=0.3)
    assert not done
    while not dial.done():  # the kernel asks again after a second
        taken = asyncio.create_task(loop.sock_accept(full_listener))
        await asyncio.wait([taken, dial], return_when=asyncio.FIRST_COMPLETED)
        if taken.done():
            taken.result()[0].close()
        else:
            taken.cancel()
    await dial


async def test_cancelled_dial_leaves_no_socket(full_listener):
    dial = asyncio.create_task(Origin(full_listener.getsockname()[1]).dial(OverStream()))
    await asyncio.wait([dial], timeout=0.1)
    dial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dial
