"""Network namespace: its name, entering it, the processes in it, and the removal of what a crashed lab left
behind.

Namespaces are named (``ip netns``), so that a person can look into one while a test is stopped in it, and so
that those of a lab which died without cleaning up are found by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NETNS = Path("/run/netns")
PREFIX = "netlab"
DEVICE = "wan0"
CLONE_NEWNET = 0x40000000
COMMAND_SECONDS = 30.0
"""For ``Host.run`` unless told otherwise: a command that hangs fails its test before the test's own timeout."""
GRACE_SECONDS = 2.0
"""From SIGTERM to SIGKILL when a lab is taken down."""

_NAME = re.compile(rf"{PREFIX}-(?P<pid>\d+)-(?P<born>\d+)-\d+-(client|edge)")
_libc = ctypes.CDLL(None, use_errno=True)


def born(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot; None if there is no such process.

    Together with the pid it names a process for good: pids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def namespace_name(serial: int, host: str) -> str:
    """The name that this process gives to the namespace of ``host`` in its lab number ``serial``."""
    pid = os.getpid()
    return f"{PREFIX}-{pid}-{born(pid)}-{serial}-{host}"


def ip(*args: str, stdin: str | None = None) -> str:
    """Run ``ip``; what it complains about becomes the error's text."""
    result = subprocess.run(
        ["ip", *args], input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if result.returncode != 0:
        raise OSError(f"ip {' '.join(args)}: {result.stderr.strip()}")
    return result.stdout


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setns")


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Have the calling thread live in a namespace: sockets and processes made meanwhile belong to it.

    Other threads are not touched. Never await inside: whatever else the event loop ran would be moved too.
    """
    with contextlib.ExitStack() as stack:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        there = os.open(NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, there)
        _setns(there)
        stack.callback(_setns, home)
        yield


def pids_in(name: str) -> list[int]:
    """The processes that live in a namespace (by their main thread), this one never among them."""
    try:
        wanted = (NETNS / name).stat().st_ino
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        # A process may end between the listing and the look, and a zombie has no namespace.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if entry.name.isdigit() and (entry / "ns/net").stat().st_ino == wanted:
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def delete(name: str) -> None:
    """Kill what still runs in a namespace of a lab and delete it; a namespace already gone is no error."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a namespace of a lab: {name}")
    for pid in pids_in(name):
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, signal.SIGKILL)
    try:
        ip("netns", "delete", name)
    except OSError:
        # Two labs that start at once both find the leftovers of a third; one of them comes too late.
        if (NETNS / name).exists():
            raise


def names() -> list[str]:
    """The namespaces of all labs on this machine, living and dead."""
    if not NETNS.is_dir():
        return []
    return sorted(path.name for path in NETNS.iterdir() if _NAME.fullmatch(path.name))


def delete_leftovers() -> list[str]:
    """Delete the namespaces of labs whose process is gone; their names are returned."""
    dead = []
    for name in names():
        match = _NAME.fullmatch(name)
        if match and born(int(match["pid"])) != int(match["born"]):
            delete(name)
            dead.append(name)
    return dead


class Host:
    """Host on one side of a lab: a namespace with loopback, the device ``wan0`` and an address of each family."""

    def __init__(self, name: str, address: str, address6: str) -> None:
        self.name = name
        """Of the namespace: ``ip netns exec NAME ...`` works from any terminal."""
        self.address = address
        self.address6 = address6
        self._processes: list[subprocess.Popen[Any]] = []

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Have the calling thread live in this host; see :func:`entered`."""
        return entered(self.name)

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, bind: tuple[str, int] | None = None
    ) -> socket.socket:
        """A socket of this host for use in this very process; closing it is the caller's business."""
        with self.entered():
            sock = socket.socket(family, kind)
        try:
            if bind is not None:
                sock.bind(bind)
        except OSError:
            sock.close()
            raise
        return sock

    def popen(self, args: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in this host, as ``subprocess.Popen``; it is ended with the lab at the latest."""
        self._processes = [process for process in self._processes if process.poll() is None]
        with self.entered():
            process = subprocess.Popen(args, **options)
        self._processes.append(process)
        return process

    def python(self, *args: str | os.PathLike[str], **options: Any) -> subprocess.Popen[Any]:
        """Start this very Python in this host: ``host.python("-m", "edge_server")``."""
        return self.popen([sys.executable, *args], **options)

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        stdin: str | None = None,
        timeout: float = COMMAND_SECONDS,
        check: bool = True,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in this host to its end, its output captured as text."""
        process = self.popen(
            args,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        try:
            out, err = process.communicate(stdin, timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, args, out, err)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def device_drops(self) -> int:
        """Packets that this host's kernel dropped because the WAN did not fetch them fast enough."""
        with self.entered():
            table = Path("/proc/thread-self/net/dev").read_text()
        row = next(line for line in table.splitlines() if line.strip().startswith(f"{DEVICE}:"))
        return int(row.partition(":")[2].split()[11])

    def end_processes(self) -> None:
        """End the programs started in this host and reap them, politely first."""
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that a test has frozen would not hear it
        for process in running:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self._processes:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # unread input of a program that is gone
                        pipe.close()
        self._processes.clear()
