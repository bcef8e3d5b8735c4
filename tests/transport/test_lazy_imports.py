"""Forks while another thread imports a module, in processes of their own: a fork takes everything along."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = """
import os, signal, sys, threading, time
from quictunnel.shared import lazy_imports
from quictunnel.shared.lazy_imports import import_module

sys.path.insert(0, sys.argv[1])
started, going_on = threading.Event(), threading.Event()
sys.modules["scene"] = sys.modules["__main__"]

def in_child(work):
    child = os.fork()
    if not child:
        signal.alarm(20)
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child did not come to its end"
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str], None]:
    """Run a program beside a module called ``slow``."""

    def run(slow: str, body: str) -> None:
        (tmp_path / "slow.py").write_text(slow)
        words = [sys.executable, "-c", PROGRAM + body, str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    return run


IMPORTED_BY_A_THREAD = """
thread = threading.Thread(target=import_module, args=["slow"])
thread.start()
started.wait()
"""


def test_a_child_can_import_what_another_thread_was_importing(run: Callable[[str, str], None]):
    slow = "import scene, time\nscene.started.set()\ntime.sleep(0.2)\n"
    run(slow, IMPORTED_BY_A_THREAD + "in_child(lambda: import_module('slow'))\nthread.join()\n")


def test_import_delays_a_fork_only_briefly(run: Callable[[str, str], None]):
    """The child can still import everything else, and the parent that as well."""
    slow = "import scene\nscene.started.set()\nscene.going_on.wait()\n"
    body = """
lazy_imports.MAX_WAIT = 0.1
in_child(lambda: import_module("wave"))
going_on.set()
thread.join()
import_module("wave")
"""
    run(slow, IMPORTED_BY_A_THREAD + body)


def test_a_module_may_fork_while_it_is_imported(run: Callable[[str, str], None]):
    slow = "import scene\nscene.in_child(lambda: scene.import_module('wave'))\n"
    run(slow, "import_module('slow')\nin_child(lambda: import_module('wave'))\n")
