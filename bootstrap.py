#!/usr/bin/env python3
"""From a fresh clone to a running thing, with Python 3.11 or newer and nothing else.

    python3 bootstrap.py demo      an edge, a small web app and a tunnel between them; fetches the public URL
    python3 bootstrap.py test      everything that can be checked: style, types, all tests
    python3 bootstrap.py shell     prints how to enter the environment that the two make

Both make a virtual environment in .venv and install into it what they need; arguments that follow are passed
on (``demo --once``, ``test -k sni``). Standard library only, and old Pythons can read it to say so.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
NEEDED = (3, 11)


def python_in_venv():
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*command, **options):
    """Run a program; its failure is ours."""
    status = subprocess.call([str(part) for part in command], cwd=str(ROOT), **options)
    if status:
        sys.exit(status)


def set_up(extra):
    """The virtual environment with the project in it; made again only when pyproject.toml changed."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + extra.encode()).hexdigest()
    stamp = VENV / (".ready" + (extra and "-" + extra))
    python = python_in_venv()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    print("Setting up %s (once) ..." % VENV.name, flush=True)
    if not python.exists():
        try:
            venv.create(str(VENV), with_pip=True)
        except (subprocess.CalledProcessError, SystemExit):
            sys.exit("This Python cannot make virtual environments; on Debian: apt-get install python3-venv")
    target = ".[%s]" % extra if extra else "."
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", target)
    stamp.write_text(wanted)
    return python


def test(python, arguments):
    """Style, types, tests. With arguments: only the tests that they select."""
    if not arguments:
        run(python, "-m", "ruff", "check", ".")
        run(python, "-m", "ruff", "format", "--check", ".")
        run(python, "-m", "mypy")
    run(python, "-m", "pytest", *arguments)


def main():
    if sys.version_info < NEEDED:
        sys.exit("quictunnel needs Python %d.%d or newer; this is %s" % (*NEEDED, sys.version.split()[0]))
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else "help"), sys.argv[2:]
    if command == "demo":
        run(set_up(""), "-m", "quictunnel", "demo", *arguments)
    elif command == "test":
        test(set_up("dev"), arguments)
    elif command == "shell":
        set_up("dev")
        print("source %s" % (VENV / "bin" / "activate"))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
