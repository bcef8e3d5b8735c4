"""Table of the commands and options, from which the parser and the completion scripts are built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
SHELLS: Final = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Option:
    """Command-line option."""

    flag: str
    summary: str
    metavar: str = ""
    """Name of the value in the help text; empty for a switch."""
    choices: tuple[str, ...] = ()
    default: str | None = None
    is_file: bool = False
    is_port: bool = False
    is_seconds: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """Positional argument."""

    name: str
    summary: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """Subcommand with its help texts, arguments and options."""

    name: str
    summary: str
    description: str
    examples: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    runs_program: bool = False
    """True if a program and its arguments follow after ``--``."""


HELP: Final = Option("--help", "show this help and exit")
VERSION: Final = Option("--version", "show the version and the QUIC engine in use, and exit")
JSON: Final = Option("--json", "print events as JSON, one object a line")
LOG_LEVEL: Final = Option(
    "--log-level", "log level on stderr", metavar="LEVEL", choices=LOG_LEVELS, default="warning"
)
EDGE_OPTIONS: Final = (
    Option("--edge", "the edge to use (default: QUICTUNNEL_EDGE, see below)", metavar="HOST:PORT"),
    Option(
        "--ca",
        "PEM file of the certificate authority that signed the edge's certificate",
        metavar="FILE",
        is_file=True,
    ),
    Option("--token-file", "file with the token for the edge", metavar="FILE", is_file=True),
)
TICKET: Final = Option(
    "--ticket",
    "file for the tunnel's ticket: a restart with it gets the same public address",
    metavar="FILE",
    is_file=True,
)
NAME: Final = Option("--name", "public name below the edge's domain, such as my-app", metavar="NAME")
DOMAIN: Final = Option(
    "--domain", "own domain whose DNS points to the edge, such as app.example.com", metavar="DOMAIN"
)
POOL: Final = Option(
    "--pool", "share the name with other clients of the same token that also use --pool (load balancing)"
)
PROXY_PROTOCOL: Final = Option(
    "--proxy-protocol",
    "send visitors' addresses to the local server by the PROXY protocol, which it must support",
    metavar="VERSION",
    choices=("v1", "v2"),
)
ALLOW: Final = Option(
    "--allow", "accept only visitors from these networks: 203.0.113.0/24,2001:db8::/32", metavar="NETS"
)
DENY: Final = Option("--deny", "reject visitors from these networks", metavar="NETS")
WAIT: Final = Option(
    "--wait", "wait up to this many seconds until the local server listens", metavar="SECONDS", is_seconds=True
)
INSPECT: Final = (
    Option("--inspect", "open a page on this machine that shows requests and responses"),
    Option("--inspect-address", "address of that page (default: loopback, any port)", metavar="HOST:PORT"),
)
COMMON: Final = (NAME, POOL, ALLOW, DENY, PROXY_PROTOCOL, TICKET, WAIT)
FORWARD_OPTIONS: Final = (
    "name",
    "domain",
    "tcp_port",
    "pool",
    "proxy_protocol",
    "allow",
    "deny",
    "ticket",
    "wait",
    "inspect",
    "inspect_address",
)
"""Options that are arguments of ``forward()`` with the same names."""
PORT: Final = Argument("PORT", "the local port to expose, 1 to 65535")
LOCAL_PORT: Final = Argument("PORT", "the local port to check (optional)")

LOOKUP: Final = """\
choice of the edge, first match wins:
  1. --edge, --ca and --token-file, then QUICTUNNEL_EDGE, QUICTUNNEL_CA and QUICTUNNEL_TOKEN
  2. your config file (on Linux ~/.config/quictunnel/config.toml: edge, token, ca)
  3. an edge that you run on this machine with `python -m edge_server`
  The token is never an argument, because all users of a machine can read arguments.
"""

HTTP: Final = Command(
    "http",
    "expose a local port at a public https:// address",
    "Expose a local port at a public https:// address until Ctrl-C. The edge terminates TLS and forwards the "
    "bytes unchanged, so WebSockets, server-sent events and uploads of any size work.",
    """\
examples:
  quictunnel http 8000                    a web app on port 8000
  quictunnel http 50051 --h2              gRPC, or another server with HTTP/2 without TLS
  quictunnel http 8000 --name my-app      the same public address each time
  quictunnel http 8000 --domain app.example.com     your own domain
  quictunnel http 8000 --wait 60          a server that is still starting
  quictunnel http 8000 --inspect          with a page that shows the requests
  quictunnel http 8000 --json             for programs: the first line has the address
""",
    arguments=(PORT,),
    options=(
        Option("--h2", "offer HTTP/2 to visitors; the local server must support it without TLS"),
        Option(
            "--passthrough", "forward TLS to the local server, which must have a certificate for the public name"
        ),
        DOMAIN,
        *COMMON,
        *INSPECT,
        *EDGE_OPTIONS,
        JSON,
        LOG_LEVEL,
    ),
)
TCP: Final = Command(
    "tcp",
    "expose a local port at a public TCP address, without encryption",
    "Expose a local port at a public TCP address, and at an https:// address, until Ctrl-C. The TCP connection "
    "between visitor and edge is not encrypted: use it for protocols with their own encryption, such as SSH.",
    """\
examples:
  quictunnel tcp 22       then, from anywhere:  ssh -p TCP_PORT user@TCP_HOST
  quictunnel tcp 5432     a database, for a client that uses TLS itself
""",
    arguments=(PORT,),
    options=(
        Option("--tcp-port", "the public TCP port to request", metavar="PORT", is_port=True),
        *COMMON,
        *INSPECT,
        *EDGE_OPTIONS,
        JSON,
        LOG_LEVEL,
    ),
)
RUN: Final = Command(
    "run",
    "run a program that listens on a port, and expose that port while it runs",
    "Run a program, wait until it listens on its port, and expose the port at a public https:// address until the "
    "program ends or Ctrl-C. At the end the tunnel closes first and open connections may finish. Then the "
    "program and its child processes get SIGTERM and, 10 seconds later, SIGKILL.",
    """\
examples:
  quictunnel run -- uvicorn app:app --port 8000
  quictunnel run -- python -m http.server 8000
  quictunnel run --port 3000 -- npm run dev          also sets PORT=3000 for the program
  quictunnel run --json -- flask run --port 5000     its output goes to stderr, events to stdout

choice of the port:
  --port; else the port in the program's command line (--port 8000, -p 8000, --bind 0.0.0.0:8000,
  http.server 8000, runserver 8000, PORT=8000) or in the variable PORT. It is never guessed.

The program does not get QUICTUNNEL_TOKEN. No variable has its public address, because the tunnel
opens only when the program listens.

exit status:
  0  stopped by Ctrl-C or SIGTERM
  else the exit status of the program; 1 if it succeeded but never listened
""",
    options=(
        Option("--port", "the port that the program listens on", metavar="PORT", is_port=True),
        Option("--h2", "offer HTTP/2 to visitors; the program must support it without TLS"),
        DOMAIN,
        *COMMON,
        *INSPECT,
        *EDGE_OPTIONS,
        JSON,
        LOG_LEVEL,
    ),
    runs_program=True,
)
DEMO: Final = Command(
    "demo",
    "run an edge, an app and a tunnel in one process, without configuration",
    "Start an edge on loopback, a sample web app and a tunnel between them, all in this process. Request the "
    "app's public address, verify its certificate, and show the response. Then run until Ctrl-C.",
    """\
examples:
  quictunnel demo           run the demo, then open the address in a browser
  quictunnel demo --once    exit after the request: status 0 on success, 1 on failure
""",
    options=(Option("--once", "exit after the request"), JSON, LOG_LEVEL),
)
STATUS: Final = Command(
    "status",
    "list your open tunnels on this machine",
    "List all open tunnels of this user on this machine, from every program: public address, local port, state of "
    "the connection, visitors, bytes and rates.",
    """\
examples:
  quictunnel status                        for people
  quictunnel status --json | jq -r .url    for programs: one JSON object a line and tunnel

exit status:
  0  at least one tunnel is open
  1  no tunnel is open

Programs started with QUICTUNNEL_STATUS=off are not listed.
""",
    options=(JSON,),
)
DOCTOR: Final = Command(
    "doctor",
    "find out why a tunnel does not work, or is slow",
    "Check everything that a tunnel needs: engine, socket buffers, limits, local port, configuration, the edge's "
    "name, UDP, datagram size, handshake, certificate, clock, token, and the public address of a test tunnel. "
    "Each problem is printed with a remedy.",
    """\
examples:
  quictunnel doctor           all checks but the local port
  quictunnel doctor 8000      all checks, with local port 8000
  quictunnel doctor --json    one JSON object a line: check, verdict (ok warn fail skip), remedy

exit status:
  0  no check failed; there may be warnings
  1  a check failed
  2  only your configuration is wrong: no edge, a wrong address, token or authority
""",
    arguments=(LOCAL_PORT,),
    options=(*EDGE_OPTIONS, JSON),
)
COMPLETION: Final = Command(
    "completion",
    "print a completion script for your shell",
    "Print a script that completes quictunnel's commands and options.",
    """\
examples:
  bash:  quictunnel completion bash > ~/.local/share/bash-completion/completions/quictunnel
  zsh:   quictunnel completion zsh > ~/.zfunc/_quictunnel      (with fpath+=~/.zfunc before compinit)
  fish:  quictunnel completion fish > ~/.config/fish/completions/quictunnel.fish
""",
    arguments=(Argument("SHELL", "bash, zsh or fish", choices=SHELLS),),
)
COMMANDS: Final = (HTTP, TCP, RUN, STATUS, DOCTOR, DEMO, COMPLETION)
EXPLAINED: Final = {HTTP.name: LOOKUP, TCP.name: LOOKUP, RUN.name: LOOKUP, DOCTOR.name: LOOKUP}
"""Text after the examples in a command's help."""

DESCRIPTION: Final = (
    "Expose a port of this machine or container to the internet, over one QUIC connection to your own edge."
)
EPILOG: Final = """\
examples:
  quictunnel demo         a demo without configuration
  quictunnel http 8000    a public https:// address for port 8000
  quictunnel tcp 22       a public TCP address for port 22
  quictunnel run -- uvicorn app:app --port 8000       start an app and expose it
  quictunnel status       list open tunnels
  quictunnel doctor       find out why a tunnel does not work

exit status:
  0    stopped by Ctrl-C or SIGTERM, after the drain (a second Ctrl-C stops at once)
  1    another failure, such as no listener on the local port within --wait
  2    wrong usage, wrong configuration, or a token that is refused, revoked or expired
  3    the edge cannot be reached
  141  the reader of the output has closed it, as in `quictunnel doctor | head`

`quictunnel COMMAND --help` shows the help of a command.
"""
