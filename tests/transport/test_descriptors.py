"""A forked child and its copies of our sockets. In processes of their own, because a fork takes everything
along."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, socket, sys, time
from quictunnel.transport import descriptors

def in_child(look):
    child = os.fork()
    if not child:
        os._exit(0 if look() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "not as it should be in the child"

def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

ours, peer = socket.socketpair()
others = socket.socketpair()
descriptors.set_close_on_fork(ours)
"""


def run(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + body], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_child_has_no_copy_of_ours_and_keeps_all_others():
    run("""
numbers = ours.fileno(), others[0].fileno()
in_child(lambda: [is_open(number) for number in numbers] == [False, True])
ours.sendall(b"still here")
assert peer.recv(100) == b"still here"
descriptors.clear_close_on_fork(ours)
ours.close()
assert peer.recv(100) == b""
""")


def test_an_end_reaches_the_peer_while_the_child_lives():
    run("""
child = os.fork()
if not child:
    time.sleep(60)
peer.settimeout(10)
time.sleep(0.2)  # for the child to run at all; without it the test is only easier
descriptors.clear_close_on_fork(ours)
ours.close()
assert peer.recv(1) == b""
os.kill(child, 9)
""")


def test_reused_descriptor_number_is_left_alone():
    run("""
number = ours.fileno()
ours.close()
replacement = os.open(os.devnull, os.O_RDONLY)
assert replacement == number
in_child(lambda: is_open(number))
""")


def test_collected_object_in_a_child_closes_nothing_else():
    run("""
number = ours.fileno()
def look():
    global ours
    opened = os.open(os.devnull, os.O_RDONLY)
    ours = None
    gc.collect()
    return opened == number and is_open(number)
in_child(look)
""")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_child_leaves_the_event_loop_of_its_parent_alone(loop):
    """Parent and child share the set of descriptors that the loop waits for."""
    run(f"""
import asyncio, {loop}

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        descriptors.set_close_on_fork(transport.get_extra_info("socket"))
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, _error):
        descriptors.clear_close_on_fork(self.transport.get_extra_info("socket"))

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for _ in range(3):
        in_child(lambda: not any(map(is_open, [n for n in descriptors._inodes])))
        writer.write(b"echo")
        assert await asyncio.wait_for(reader.readexactly(4), 10) == b"echo"
    writer.close()
    await writer.wait_closed()
    server.close()

with asyncio.Runner(loop_factory={loop}.new_event_loop) as runner:
    runner.run(main())
assert not descriptors._inodes.keys() - {{ours.fileno()}}
""")


def test_a_thousand_sockets_cost_a_fork_little():
    """In seconds of the child, against those of a fork without any."""
    run("""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
pairs = [socket.socketpair() for _ in range(1000)]
for pair in pairs:
    descriptors.set_close_on_fork(pair[0])
began = time.perf_counter()
in_child(lambda: not any(is_open(pair[0].fileno()) for pair in pairs if pair[0].fileno() >= 0))
took = time.perf_counter() - began
assert took < 2, took  # 10 ms on an idle machine
""")
