"""The commands and options as one table, which the parser and the completion scripts are both made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
SHELLS: Final = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Option:
    flag: str
    summary: str
    metavar: str = ""
    """What the value is called; empty for a switch."""
    choices: tuple[str, ...] = ()
    default: str | None = None
    is_file: bool = False
    is_port: bool = False
    is_seconds: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    summary: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    summary: str
    description: str
    examples: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    runs_program: bool = False
    """What follows ``--`` is a program and its arguments."""


HELP: Final = Option("--help", "show this help and exit")
VERSION: Final = Option("--version", "show the version and the QUIC engine in use, and exit")
JSON: Final = Option("--json", "print events as JSON, one object a line, for programs to read")
LOG_LEVEL: Final = Option(
    "--log-level", "how much to log on stderr", metavar="LEVEL", choices=LOG_LEVELS, default="warning"
)
EDGE_OPTIONS: Final = (
    Option("--edge", "the edge to use (default: QUICTUNNEL_EDGE, see below)", metavar="HOST:PORT"),
    Option("--ca", "PEM file of the authority that vouches for the edge", metavar="FILE", is_file=True),
    Option("--token-file", "file that holds the token for the edge", metavar="FILE", is_file=True),
)
TICKET: Final = Option(
    "--ticket",
    "keep the tunnel's ticket there: started again with it, it has the same public address",
    metavar="FILE",
    is_file=True,
)
NAME: Final = Option("--name", "the name below the edge's domain that it is to have: my-app", metavar="NAME")
DOMAIN: Final = Option(
    "--domain", "a domain of yours whose DNS points to the edge: app.example.com", metavar="DOMAIN"
)
POOL: Final = Option("--pool", "share the name with other clients of the same token that also say so")
PROXY_PROTOCOL: Final = Option(
    "--proxy-protocol",
    "tell the local server who its visitors are, by the PROXY protocol, which it then has to expect",
    metavar="VERSION",
    choices=("v1", "v2"),
)
ALLOW: Final = Option(
    "--allow", "networks that visitors may come from: 203.0.113.0/24,2001:db8::/32", metavar="NETS"
)
DENY: Final = Option("--deny", "networks that they may not come from", metavar="NETS")
WAIT: Final = Option(
    "--wait", "wait so many seconds for the local server to listen first", metavar="SECONDS", is_seconds=True
)
INSPECT: Final = (
    Option("--inspect", "open a page on this machine that shows requests and responses as they pass"),
    Option("--inspect-address", "where that page is (default: loopback, any port)", metavar="HOST:PORT"),
)
PLACE: Final = (NAME, POOL, ALLOW, DENY, PROXY_PROTOCOL, TICKET, WAIT)
TERMS: Final = (
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
"""Options that ``forward()`` has by the same names."""
PORT: Final = Argument("PORT", "the local port to expose, 1 to 65535")
LOCAL_PORT: Final = Argument("PORT", "the local port to look at; may be left out")

LOOKUP: Final = """\
which edge:
  --edge, --ca and --token-file, over QUICTUNNEL_EDGE, QUICTUNNEL_CA and QUICTUNNEL_TOKEN;
  else your config file (on Linux ~/.config/quictunnel/config.toml: edge, token, ca);
  else an edge that you run on this machine with `python -m edge_server`.
  The token is never an argument: every user of a machine can read those.
"""

HTTP: Final = Command(
    "http",
    "expose a local port at a public https:// address",
    "Expose a local port at a public https:// address until Ctrl-C. TLS ends at the edge; the bytes inside "
    "are carried as they are, so WebSockets, server-sent events and uploads of any size work.",
    """\
examples:
  quictunnel http 8000                    a web app that listens on port 8000
  quictunnel http 50051 --h2              gRPC, or any other server that speaks HTTP/2 without TLS
  quictunnel http 8000 --name my-app      at the same address each time
  quictunnel http 8000 --domain app.example.com     at a domain of yours
  quictunnel http 8000 --wait 60          a server that is about to start
  quictunnel http 8000 --inspect          and a page that shows what passes
  quictunnel http 8000 --json             for a program: the first line it reads has the address
""",
    arguments=(PORT,),
    options=(
        Option("--h2", "offer HTTP/2 to visitors; the local server must speak it without TLS"),
        Option("--passthrough", "TLS ends at the local server, which has a certificate for the public name"),
        DOMAIN,
        *PLACE,
        *INSPECT,
        *EDGE_OPTIONS,
        JSON,
        LOG_LEVEL,
    ),
)
TCP: Final = Command(
    "tcp",
    "expose a local port at a public TCP address, without encryption",
    "Expose a local port at a public TCP address as well, until Ctrl-C. Nothing is encrypted on the way to "
    "the edge's public port: use it for protocols that do so themselves, such as SSH.",
    """\
examples:
  quictunnel tcp 22       then, from anywhere:  ssh -p TCP_PORT user@TCP_HOST
  quictunnel tcp 5432     a database, for a client that uses TLS itself
""",
    arguments=(PORT,),
    options=(
        Option("--tcp-port", "the public TCP port that it is to have", metavar="PORT", is_port=True),
        *PLACE,
        *INSPECT,
        *EDGE_OPTIONS,
        JSON,
        LOG_LEVEL,
    ),
)
RUN: Final = Command(
    "run",
    "run a program that listens on a port, and expose that port while it runs",
    "Run a program, wait until it listens on its port, and expose that at a public https:// address until it ends "
    "or Ctrl-C. Then the tunnel closes first, visitors under way may finish, and the program gets SIGTERM and, 10 "
    "seconds later, SIGKILL, with every process that it has made.",
    """\
examples:
  quictunnel run -- uvicorn app:app --port 8000
  quictunnel run -- python -m http.server 8000
  quictunnel run --port 3000 -- npm run dev          PORT=3000 is in its environment as well
  quictunnel run --json -- flask run --port 5000     its output goes to stderr, events to stdout

which port:
  --port; else what the program's command line says (--port 8000, -p 8000, --bind 0.0.0.0:8000,
  http.server 8000, runserver 8000, PORT=8000) or the variable PORT. It is never made up.

The program does not get QUICTUNNEL_TOKEN. It cannot be told its public address in a variable,
because the tunnel is opened when the program listens.

exit status:
  0  stopped by Ctrl-C or SIGTERM
  else that of the program when it ended by itself; 1 when it ended well but never listened
""",
    options=(
        Option("--port", "the port that the program listens on", metavar="PORT", is_port=True),
        Option("--h2", "offer HTTP/2 to visitors; the program must speak it without TLS"),
        DOMAIN,
        *PLACE,
        *INSPECT,
        *EDGE_OPTIONS,
        JSON,
        LOG_LEVEL,
    ),
    runs_program=True,
)
DEMO: Final = Command(
    "demo",
    "an edge, an app and a tunnel in one process: nothing to configure",
    "Start an edge on loopback, a sample web app and a tunnel between them, all in this process; fetch the "
    "app's public address, verifying its certificate, and show what came back. Then stay up until Ctrl-C.",
    """\
examples:
  quictunnel demo           see it work, then open the address in a browser
  quictunnel demo --once    leave after the fetch: exit status 0 if it worked, 1 if not
""",
    options=(Option("--once", "leave after the fetch"), JSON, LOG_LEVEL),
)
STATUS: Final = Command(
    "status",
    "the tunnels that you have open on this machine",
    "Show every tunnel that this user has open on this machine, whichever program opened it: its public address, "
    "where it leads, the state of its link, visitors, bytes and rates.",
    """\
examples:
  quictunnel status                        for a person
  quictunnel status --json | jq -r .url    for a program: one JSON object a line, one for each tunnel

exit status:
  0  something is open
  1  nothing is

A program is not shown when QUICTUNNEL_STATUS=off was set for it.
""",
    options=(JSON,),
)
DOCTOR: Final = Command(
    "doctor",
    "find out why a tunnel does not work, or is slow",
    "Look at everything that a tunnel needs, one by one: engine, socket buffers, limits, the local port, "
    "configuration, the edge's name, UDP, the size of datagrams, the handshake, the certificate, the clock, the "
    "token and, through a tunnel to nothing of yours, the public address. What is not well comes with a remedy.",
    """\
examples:
  quictunnel doctor           everything but a local port
  quictunnel doctor 8000      and whether somebody listens on port 8000
  quictunnel doctor --json    one JSON object a line: check, verdict (ok warn fail skip), remedy

exit status:
  0  tunnels work; there may be warnings
  1  something failed
  2  what failed is your configuration: no edge, a wrong address, token or authority
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
"""What follows the examples in a command's help."""

DESCRIPTION: Final = (
    "Expose a port of this machine or container to the world, over one QUIC connection to an edge of your own."
)
EPILOG: Final = """\
examples:
  quictunnel demo         see it work, with nothing configured
  quictunnel http 8000    a public https:// address for port 8000
  quictunnel tcp 22       a public TCP address for port 22
  quictunnel run -- uvicorn app:app --port 8000       start an app and expose it
  quictunnel status       what is open now
  quictunnel doctor       why it does not work

exit status:
  0  stopped by Ctrl-C or SIGTERM, after visitors had their time to finish (a second Ctrl-C: at once)
  1  something else failed: nobody listened on the local port in the time of --wait
  2  wrong usage, wrong configuration or a refused token, also one that is revoked or expires later
  3  the edge cannot be reached
  141 the reader of its output has left, as in `quictunnel doctor | head`

`quictunnel COMMAND --help` explains a command.
"""
