"""The soak in small: what grows by the stream or by the byte is seen after 20,000 streams and 256 MiB."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from perf import soak
from tests.transport.engine_pairings import HAS_NATIVE

pytestmark = pytest.mark.slow  # memory is measured in processes of their own, so others may run beside it

ENGINE = "native" if HAS_NATIVE else "aioquic"
AMOUNTS = ["--streams", "20000", "--bytes", "256M" if HAS_NATIVE else "64M"]
# Few slots, because each is filled once and for all. 2 MiB are 116 bytes a stream; Python's heap sways by 1 MiB.
STRICT = ["--slots", "1024", "--growth", "2M" if HAS_NATIVE else "4M"]


LEAKY = """
from perf import soak

kept, visit = [], soak.Edge.visit

def leak(edge):
    kept.append(bytearray(b"x" * 2048))
    visit(edge)

soak.Edge.visit = leak
soak.main()
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, whose memory nothing else has used and given back before."""
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)


def test_memory_stays_where_it_is() -> None:
    done = run("-m", "perf.soak", "--engine", ENGINE, *AMOUNTS, *STRICT)
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "aioquic counted" in done.stdout


def test_a_leak_is_seen() -> None:
    done = run("-c", LEAKY, "--engine", ENGINE, "--streams", "20000", "--bytes", "0")
    assert done.returncode == 1
    assert re.search(r"RSS grew by \d+\.\d MiB", done.stderr)


def soaked(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """Return the complaint of a soak in this process."""
    monkeypatch.setattr(sys, "argv", ["perf.soak", "--engine", ENGINE, *options])
    with pytest.raises(SystemExit) as end:
        soak.main()
    return str(end.value)


def test_a_stream_that_is_not_ended_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = soak.Client.finish
    monkeypatch.setattr(soak.Client, "finish", lambda client, stream: stream == 405 or finish(client, stream))
    complaint = soaked(monkeypatch, "--streams", "500", "--bytes", "0")
    assert complaint.startswith("soak: the round until stream 200 did not end")


def test_other_bytes_than_were_sent_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = soak.Bulk.data

    def damage(side: soak.Bulk, stream: int, chunks: list[bytes], *, end: bool) -> None:
        data(side, stream, [chunk[:-1] + b"?" for chunk in chunks], end=end)

    monkeypatch.setattr(soak.Bulk, "data", damage)
    complaint = soaked(monkeypatch, "--streams", "0", "--bytes", "1M")
    assert "are not what was sent" in complaint


def test_amounts() -> None:
    texts = ("0", "100", "3K", "256M", "1.5g")
    assert [soak.amount_of(text) for text in texts] == [0, 100, 3 << 10, 256 << 20, 3 << 29]
