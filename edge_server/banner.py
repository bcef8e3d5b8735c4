"""The text with which an edge says at its start how to use it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from edge_server.config.program_name import usage_name
from edge_server.systemd import goes_to_journal
from quictunnel.errors import ConfigError
from quictunnel.shared.paths import default_state_dir

if TYPE_CHECKING:
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.server import RunningEdge


def banner(server: RunningEdge) -> str:
    """Return the text for standard output.

    It has the credential of the operator only if the edge is for this machine alone. That of a public edge would
    open the edge to everybody who reads its output, which is often stored.
    """
    config = server.config
    address = server.public_quic_address or server.quic_address
    # Visitors need the edge's own authority unless the certificates are from a public one.
    trust = "" if config.cert is not None or config.acme else f"--cacert {shlex.quote(str(server.ca))} "
    # Without its credential in the output, the user needs the lines above.
    has_login = not _is_found(config) and (server.is_public or not _is_stored(config))
    login = "quictunnel login     then:  " if has_login else ""
    return (
        f"The edge serves https://*.{config.domain}:{server.https_port} and TCP ports "
        f"{config.tcp_ports[0]}-{config.tcp_ports[-1]}; clients connect to {address} (UDP).\n"
        f"{_for_others(server) if server.is_public else _for_this_machine(server)}\n\n"
        f"Try:  {login}quictunnel http 8000     then:  curl {trust}URL"
    )


def _for_others(server: RunningEdge) -> str:
    unknown = "" if server.public_quic_address else "Set --public-host NAME for clients on other machines.\n"
    if _is_found(server.config):
        who = "Programs of your user on this machine find it by themselves. For each other user or machine"
    else:
        who = "For each user or machine, and for yourself on this machine"
    return (
        f"{unknown}{who}, create a\ntoken. The command prints its credential, for `quictunnel login`:\n\n"
        f"  {usage_name()} token create{_state_dir_option(server.config)} --note NAME --tunnels 5 --expires 90d"
    )


def _for_this_machine(server: RunningEdge) -> str:
    config = server.config
    is_stored = _is_stored(config)
    file = shlex.quote(str(config.state_dir / "token"))
    token = f'"$(cat {file})"' if is_stored else shlex.quote(server.token)
    credential = server.credential.encode()
    login = "" if is_stored else f" `quictunnel login` with this credential:\n\n  {credential}\n\nor"
    if _is_found(config):
        who = (
            "Programs of your user on this machine find it by themselves. Those of other users, and of containers"
        )
    else:
        who = "Programs on this machine, and in containers"
    return (
        f"{who}\non the host's network, need{login} these:\n\n"
        f"  export QUICTUNNEL_EDGE={shlex.quote(server.quic_address)}\n"
        f"  export QUICTUNNEL_TOKEN={token}\n"
        f"  export QUICTUNNEL_CA={shlex.quote(str(server.ca))}"
    )


def _is_stored(config: EdgeConfig) -> bool:
    """Return True if the output is stored, and more people may read it than may open tunnels."""
    return config.hide_token or goes_to_journal(1)


def _is_found(config: EdgeConfig) -> bool:
    """Return True if the edge runs in the usual directory, where programs of its user look for one."""
    try:
        return config.state_dir == default_state_dir().absolute()
    except ConfigError:  # this user has no home directory
        return False


def _state_dir_option(config: EdgeConfig) -> str:
    """Return ``--state-dir`` for a command beside this edge, unless the edge runs in the usual directory."""
    return "" if _is_found(config) else f" --state-dir {shlex.quote(str(config.state_dir))}"
