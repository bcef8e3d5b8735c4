"""The lab as a whole: programs in its hosts, what TCP makes of the link, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.netlab import Lab, LabError, WanBuildError, WanGoneError, build, missing, namespace
from tests.netlab.__main__ import main, parse_value

if TYPE_CHECKING:
    from tests.netlab.fixture import StartLab

pytestmark = pytest.mark.alone

REPOSITORY = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    return namespace.born(pid) is not None


def iperf3(lab: Lab, *options: str) -> float:
    """Mbit/s at the receiver of one iperf3 run from the client to the edge."""
    server = lab.edge.popen(["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if "listening" in line:
            break
    report = lab.client.run(["iperf3", "-J", "-c", lab.edge.address, *options]).stdout
    server.wait(10)
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_programs_run_inside_their_host(netlab: StartLab) -> None:
    lab = netlab()
    shown = lab.client.run(["ip", "-o", "address"]).stdout
    assert lab.client.address in shown
    assert lab.client.address6 in shown
    assert "127.0.0.1" in shown
    assert lab.edge.address in lab.edge.run(["ip", "-o", "address"]).stdout
    assert lab.client.run(["cat"], stdin="through a pipe").stdout == "through a pipe"
    with pytest.raises(subprocess.CalledProcessError):
        lab.client.run(["false"])
    assert lab.client.run(["false"], check=False).returncode == 1
    with pytest.raises(subprocess.TimeoutExpired):
        lab.client.run(["sleep", "60"], timeout=0.1)


def test_loopback_is_up_in_each_host(netlab: StartLab) -> None:
    lab = netlab()
    for host in (lab.client, lab.edge):
        with host.socket(bind=("127.0.0.1", 0)) as here:
            here.settimeout(5)
            here.sendto(b"to itself", here.getsockname())
            assert here.recv(100) == b"to itself"


def test_python_runs_inside_its_host(netlab: StartLab) -> None:
    lab = netlab()
    program = "import socket; s = socket.socket(); s.bind(('" + lab.edge.address + "', 80)); print('bound')"
    edge = lab.edge.python("-c", program, stdout=subprocess.PIPE, text=True)
    assert edge.communicate(timeout=20)[0] == "bound\n"
    client = lab.client.python("-c", program, stderr=subprocess.DEVNULL)
    assert client.wait(20) == 1  # not its address


def test_calling_thread_returns_to_its_namespace(netlab: StartLab) -> None:
    lab = netlab()
    home = Path("/proc/thread-self/ns/net").stat().st_ino

    def fail_inside() -> None:
        with lab.client.entered():
            assert Path("/proc/thread-self/ns/net").stat().st_ino != home
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert Path("/proc/thread-self/ns/net").stat().st_ino == home


def test_two_labs_do_not_hear_each_other(netlab: StartLab) -> None:
    one, two = netlab(), netlab()
    with one.edge.socket(bind=("0.0.0.0", 7)) as heard, two.edge.socket(bind=("0.0.0.0", 7)) as unheard:
        heard.settimeout(5)
        with one.client.socket() as client:
            client.sendto(b"x", (one.edge.address, 7))
        assert heard.recv(10) == b"x"
        unheard.setblocking(False)
        with pytest.raises(BlockingIOError):
            unheard.recv(10)
    assert two.link.stats().up.received == 0


@pytest.mark.slow
@pytest.mark.parametrize("congestion", ["bbr", "cubic"])
def test_tcp_fills_100_mbit_at_50_ms(netlab: StartLab, congestion: str) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("no iperf3")
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    if congestion not in available:
        pytest.skip(f"this kernel has no {congestion}")
    lab = netlab(delay_ms=25, rate_mbit=100)
    # The first second is slow start, which is not what is asked here.
    assert 80 <= iperf3(lab, "-t", "4", "-O", "1", "-C", congestion) <= 100
    assert lab.client.device_drops() == lab.edge.device_drops() == 0


@pytest.mark.slow
def test_without_limits_the_link_is_fast(netlab: StartLab) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("no iperf3")
    # About 4000 on an idle machine with two cores; the bound only tells fast from broken.
    assert iperf3(netlab(), "-t", "1") > 300


def test_teardown_leaves_nothing(netlab: StartLab) -> None:
    devices = {entry.name for entry in Path("/sys/class/net").iterdir()}
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    lab = Lab(delay_ms=1)
    with lab:
        names = [lab.client.name, lab.edge.name]
        assert set(names) <= set(namespace.names())
        # One that is polite, one that is deaf, one that is frozen, and one whose parent is gone.
        children = [lab.client.popen(["sleep", "600"]), lab.edge.popen(["sleep", "600"])]
        deaf = lab.edge.popen(["sh", "-c", "trap '' TERM; echo ready; sleep 600; true"], stdout=subprocess.PIPE)
        assert deaf.stdout is not None
        assert deaf.stdout.readline() == b"ready\n"
        children[1].send_signal(signal.SIGSTOP)
        orphan = int(lab.client.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"]).stdout)
        assert orphan in namespace.pids_in(lab.client.name)
        wan = lab.wan_pid
        assert wan is not None
    assert lab.wan_pid is None
    assert not set(names) & set(namespace.names())
    assert not any(alive(pid) for pid in [wan, deaf.pid, *(child.pid for child in children)])
    assert_ends(orphan)
    assert {entry.name for entry in Path("/sys/class/net").iterdir()} == devices
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    lab.close()
    with pytest.raises(LabError, match="not running"):
        _ = lab.link


def assert_ends(pid: int) -> None:
    """A process that is not our child ends soon: it was killed, its new parent reaps it when it likes."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)


def test_teardown_after_a_failure_inside(netlab: StartLab) -> None:
    lab = Lab()

    def fail_inside() -> None:
        with lab:
            lab.edge.popen(["sleep", "600"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert lab.edge.name not in namespace.names()


def test_failed_start_leaves_nothing(netlab: StartLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    with monkeypatch.context() as patch:
        patch.setattr(build, "compiler", lambda: None)
        with pytest.raises(WanBuildError, match="C compiler"):
            lab.__enter__()
    assert lab.edge.name not in namespace.names()
    with pytest.raises(ValueError, match="loss"):
        Lab(loss=2).__enter__()
    assert not [name for name in namespace.names() if f"-{os.getpid()}-" in name]


def test_a_killed_lab_is_cleaned_up_by_the_next(netlab: StartLab) -> None:
    program = (
        "from tests.netlab import Lab\n"
        "with Lab() as lab:\n"
        "    child = lab.edge.popen(['sleep', '600'])\n"
        "    print(lab.client.name, lab.edge.name, lab.wan_pid, child.pid, flush=True)\n"
        "    input()\n"
    )
    crashing = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    with crashing:
        assert crashing.stdout is not None
        client, edge, wan, child = crashing.stdout.readline().split()
        netlab()
        assert {client, edge} <= set(namespace.names())  # it lives: not ours to touch
        crashing.kill()
    assert_ends(int(wan))  # by itself
    assert {client, edge} <= set(namespace.names())
    netlab()
    assert not {client, edge} & set(namespace.names())
    assert_ends(int(child))


def test_only_namespaces_of_labs_are_deleted() -> None:
    with pytest.raises(ValueError, match="not a namespace of a lab"):
        namespace.delete("production")


def test_ended_wan_process_is_reported(netlab: StartLab) -> None:
    lab = netlab()
    wan = lab.wan_pid
    assert wan is not None
    os.kill(wan, signal.SIGKILL)
    assert_ends(wan)
    with pytest.raises(WanGoneError):
        lab.link.stats()


def test_missing_requirement_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "not root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing() in {"no /dev/net/tun", "no ip command (iproute2)"}


def test_a_source_that_does_not_compile_is_reported(
    netlab: StartLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "wan.c"
    broken.write_text("int main(void) { return nonsense; }")
    monkeypatch.setattr(build, "SOURCE", broken)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WanBuildError, match="nonsense"):
        build.wan_program()
    broken.write_text("int main(void) { return 0; }")
    program = build.wan_program()
    assert build.wan_program() == program
    assert [entry.name for entry in program.parent.iterdir()] == [program.name]


def test_command_line_runs_a_command_in_each_host(netlab: StartLab, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["--delay-ms", "1", "--edge", "exec sleep 600", "--client", "echo to $EDGE from $NETLAB_HOST; exit 3"]
    )
    out = capfd.readouterr().out
    assert code == 3
    assert "to 198.18.2.1 from client" in out
    assert "received_bytes" in out
    assert main(["--loss", "2", "--client", "true"]) == 2


def test_prompt(netlab: StartLab) -> None:
    lines = [
        "set up loss=0.5 rate_mbit=none blackhole=on",
        "set loss=7",
        "dance",
        "client echo hello from $NETLAB_HOST",
        "edge sleep 600 &",
        "edge false",
        "move 192.0.2.9",
        "rebind",
        "stats",
        "help set",
        "",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "tests.netlab"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        check=True,
    )
    for wanted in (
        "hello from client",
        "! exit status 1",
        "! loss=7.0 is not possible",
        "192.0.2.9",
        "blackholed",
        "pid ",
    ):
        assert wanted in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("text", "value"), [("on", True), ("off", False), ("none", None), ("1.5", 1.5)])
def test_values_at_the_prompt(text: str, value: float | bool | None) -> None:
    assert parse_value(text) == value
