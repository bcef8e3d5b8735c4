#!/usr/bin/env python3
"""Set up the project and run it in a fresh clone. Needs only Python 3.11 or newer.

    python3 bootstrap.py demo          run an edge, a small web app and a tunnel between them; fetch the public URL
    python3 bootstrap.py test          style, types, unit tests and a short end-to-end round: under four minutes
    python3 bootstrap.py test --all    everything but the tests marked "long": what CI runs
    python3 bootstrap.py shell         print the command that enters the virtual environment

Each command creates a virtual environment in .venv and installs its requirements there. Further arguments are
passed on: ``demo --once``; ``test -k sni`` runs only pytest, with these arguments. If a Rust toolchain is
installed, the native QUIC engine (native/) is built as well, and rebuilt only after its source has changed;
QUICTUNNEL_NATIVE=0 disables it. This file uses only the standard library, and its syntax is old enough for an old
Python to print that it is too old.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
NATIVE = ROOT / "native"
NATIVE_STAMP = VENV / ".ready-native"
NATIVE_LOG = VENV / "native.log"
NEEDED = (3, 11)


def python_in_venv():
    """Return the path of the Python in .venv."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*command, **options):
    """Run a program, and exit with its status if it fails."""
    status = subprocess.call([str(part) for part in command], **{"cwd": str(ROOT), **options})
    if status:
        sys.exit(status)


def pip(python, *arguments):
    """Return a command line for the pip of .venv."""
    return [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]


def set_up(extra):
    """Create the virtual environment with the project, unless it is current. Return its Python."""
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
    run(*pip(python, "install", "--editable", ".[%s]" % extra if extra else "."))
    stamp.write_text(wanted)
    return python


def is_refused():
    """Return True if QUICTUNNEL_NATIVE disables the native engine."""
    return os.environ.get("QUICTUNNEL_NATIVE") == "0"


def why_no_rust():
    """Return the reason why the native engine cannot be built here; empty if it can."""
    if is_refused():
        return "QUICTUNNEL_NATIVE=0 disables the native one"
    cargo = shutil.which("cargo")
    if cargo is None:
        return "install Rust (https://rustup.rs) to get the native one"
    try:
        said = subprocess.check_output([cargo, "--version"], cwd=str(NATIVE), universal_newlines=True)
    except (OSError, subprocess.CalledProcessError):
        return "the native one needs a Rust toolchain, and the cargo that is installed does not run"
    found = re.match(r"cargo (\d+)\.(\d+)", said)
    needed = re.search(r'^rust-version = "(\d+)\.(\d+)', (NATIVE / "Cargo.toml").read_text(), re.MULTILINE)
    if found is None or [int(part) for part in found.groups()] < [int(part) for part in needed.groups()]:
        return "the native one needs Rust %s.%s or newer, this is %s" % (*needed.groups(), said.strip())
    return ""


def native_sources():
    """Return a hash of all sources of the native engine."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(str(NATIVE)):
        folders[:] = sorted(set(folders) - {"target"})
        for name in sorted(files):
            path = Path(folder, name)
            digest.update(("%s\0%d\0" % (path.relative_to(NATIVE).as_posix(), path.stat().st_size)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build_native(python):
    """Build the native engine if its source has changed. Return the reason why it is missing; empty if it is
    installed."""
    wanted = "" if is_refused() else native_sources()
    if NATIVE_STAMP.exists() and NATIVE_STAMP.read_text() == wanted:
        return ""
    lack = why_no_rust()
    if not lack:
        print("Building the native engine (once; cargo takes a minute or two) ...", flush=True)
        with NATIVE_LOG.open("w") as log:
            command = pip(python, "install", "--force-reinstall", "--no-deps", str(NATIVE))
            if subprocess.call(command, stdout=log, stderr=subprocess.STDOUT) == 0:
                NATIVE_STAMP.write_text(wanted)
                return ""
        lack = "building the native one failed, see %s" % NATIVE_LOG.relative_to(ROOT)
    if NATIVE_STAMP.exists():  # built from another source, or disabled now
        run(*pip(python, "uninstall", "--yes", "quictunnel-native"))
        NATIVE_STAMP.unlink()
    return lack


def say_engine(python, lack):
    """Print the engine in one line."""
    said = subprocess.run(
        [str(python), "-m", "quictunnel", "--version"], cwd=str(ROOT), stdout=subprocess.PIPE, check=False
    )
    if said.returncode:  # it has printed the reason
        sys.exit(said.returncode)
    engine = said.stdout.decode().strip().partition("engine ")[2]
    if engine.startswith("native"):
        print("engine: %s, the fast one" % engine, flush=True)
    else:
        why = lack or "QUICTUNNEL_ENGINE=%s selects it" % os.environ.get("QUICTUNNEL_ENGINE")
        print("engine: %s, pure Python, about a quarter of the speed; %s" % (engine, why), flush=True)


def part(title, *command, **options):
    """Run one part of the tests and print its time."""
    print("== " + title, flush=True)
    begun = time.monotonic()
    run(*command, **options)
    print("== %s: %.0f s" % (title, time.monotonic() - begun), flush=True)


QUICK = "not alone and not slow and not long and (not whole or smoke)"
"""Tests of the quick tier: no measurements, and of whole programs and networks only those marked smoke."""


def side_by_side():
    """Return how many test processes run at once: two more than cores, because half of their time they wait."""
    return str(min(6, 2 + (os.cpu_count() or 1)))


def test(python, arguments, has_rust):
    """Run the quick tier; with ``--all`` the full one; with other arguments pytest with these arguments alone."""
    pytest = (python, "-m", "pytest")
    if arguments and arguments != ["--all"]:
        run(*pytest, *arguments)
        return
    part("style", python, "-m", "ruff", "check", ".")
    part("format", python, "-m", "ruff", "format", "--check", ".")
    part("types", python, "-m", "mypy")
    parallel = (*pytest, "-n", side_by_side(), "--dist", "worksteal")
    if not arguments:
        part("quick tests", *parallel, "-m", QUICK)
        return
    if has_rust:
        test_crate()
    part("tests side by side", *parallel, "-m", "not alone and not long")
    part("tests that measure", *pytest, "-m", "alone and not long")


def test_crate():
    """Check style and tests of the Rust crate, in the release profile, which has compiled most of it already."""
    rust = {"cwd": str(NATIVE)}
    lint = ("clippy", "--locked", "--release", "--all-targets", "--", "-D", "warnings")
    part("Rust format", "cargo", "fmt", "--check", **rust)
    part("Rust lint", "cargo", *lint, **rust)
    part("Rust tests", "cargo", "test", "--locked", "--release", "--no-default-features", **rust)


def main():
    """Run the command that the command line names."""
    if sys.version_info < NEEDED:
        sys.exit("quictunnel needs Python %d.%d or newer; this is %s" % (*NEEDED, sys.version.split()[0]))
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else "help"), sys.argv[2:]
    if command not in ("demo", "test", "shell"):
        sys.exit(__doc__)
    python = set_up("" if command == "demo" else "dev")
    lack = build_native(python)
    has_rust = not why_no_rust()
    if command == "test" and lack and has_rust:
        sys.exit(NATIVE_LOG.read_text() + lack)
    say_engine(python, lack)
    if command == "demo":
        run(python, "-m", "quictunnel", "demo", *arguments)
    elif command == "test":
        test(python, arguments, has_rust)
    else:
        print("source %s" % (VENV / "bin" / "activate"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
