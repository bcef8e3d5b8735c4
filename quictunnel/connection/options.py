"""Options of one tunnel, checked before they are sent to an edge, so that errors name the argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from quictunnel.errors import InvalidError
from quictunnel.origin.target import Target, check_port, parse_target
from quictunnel.shared.address import short_repr
from quictunnel.wire import labels
from quictunnel.wire.messages import MAX_NETWORKS, BindV2

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

PROXY_PROTOCOLS: Final = {None: 0, "v1": 1, "v2": 2}
TLS_CHOICES: Final = ("edge", "passthrough")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOptions:
    """Options of a tunnel; the arguments of ``forward()``. Raises InvalidError for invalid ones."""

    port: int | str
    """A local port, or another form of :func:`~quictunnel.origin.target.parse_target`."""
    unencrypted: bool = False
    h2: bool = False
    name: str | None = None
    tcp_port: int | None = None
    pool: bool = False
    tls: str = "edge"
    proxy_protocol: str | None = None
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    domain: str | None = None
    verify_origin: bool = True
    origin_ca: str | os.PathLike[str] | None = None
    target: Target = field(init=False)
    """The address of the local service."""

    def __post_init__(self) -> None:
        target = parse_target(self.port, verify=self.verify_origin, authority=self.origin_ca)
        object.__setattr__(self, "target", target)
        if self.h2 and self.unencrypted:
            raise InvalidError(
                "H2 can only be used with encrypted ports, because it is negotiated by TLS. "
                "Use h2_enabled=True without unencrypted=True."
            )
        if self.name is not None and (wrong := labels.validation_error(self.name)) is not None:
            raise InvalidError(f"The name {short_repr(self.name)} {wrong}.")
        self._check_domain()
        if self.pool and self.name is None and self.domain is None:
            raise InvalidError("A pool shares a name: give name= as well, the same in all of its clients.")
        if self.tcp_port is not None:
            check_port(self.tcp_port)
            if not self.unencrypted:
                raise InvalidError("tcp_port is the port of unencrypted TCP: give unencrypted=True as well.")
        self._check_tls()
        object.__setattr__(self, "allow", _networks("allow", self.allow))
        object.__setattr__(self, "deny", _networks("deny", self.deny))

    def _check_domain(self) -> None:
        if self.domain is None:
            return
        if self.name is not None:
            raise InvalidError("A tunnel has one name: give name= (below the edge's domain) or domain=, not both.")
        if (wrong := labels.domain_validation_error(self.domain)) is not None:
            raise InvalidError(f"The domain {short_repr(self.domain)} {wrong}.")

    def _check_tls(self) -> None:
        if self.tls not in TLS_CHOICES:
            raise InvalidError(f"tls should be one of {', '.join(TLS_CHOICES)}, not {short_repr(self.tls)}.")
        if self.h2 and self.tls == "passthrough":
            raise InvalidError(
                "With tls='passthrough' the local service offers HTTP/2 itself; leave h2_enabled out."
            )
        if self.target.tls is not None:
            self._check_origin_tls()
        if self.proxy_protocol not in PROXY_PROTOCOLS:
            raise InvalidError(f"proxy_protocol should be v1 or v2, not {short_repr(str(self.proxy_protocol))}.")

    def _check_origin_tls(self) -> None:
        if self.tls == "passthrough":
            raise InvalidError(
                "With tls='passthrough' (--passthrough) visitors speak TLS with the local service themselves: "
                "give "
                f"{self.target.text.removeprefix('https://')} without https://."
            )
        if self.h2:
            raise InvalidError(
                "h2_enabled (--h2) needs a local service that speaks HTTP/2 without TLS; with https:// visitors "
                "get "
                "HTTP/1.1. For HTTP/2 from end to end use tls='passthrough' (--passthrough)."
            )
        if self.proxy_protocol is not None:
            raise InvalidError(
                "The header of the PROXY protocol would be sent within TLS, where no server expects it: leave out "
                "https:// or proxy_protocol (--proxy-protocol)."
            )

    def bind_message(self, lease: int, ticket: bytes, client_id: bytes, *, again: bool) -> BindV2:
        """Return the message that requests these options; the arguments are as in ``messages.BindV2``."""
        return BindV2(
            client_id=client_id,
            again=again,
            lease=lease,
            unencrypted=self.unencrypted,
            h2=self.h2,
            ticket=ticket,
            name=self.name or "",
            tcp_port=self.tcp_port or 0,
            pool=self.pool,
            passthrough=self.tls == "passthrough",
            proxy_protocol=PROXY_PROTOCOLS[self.proxy_protocol],
            allow=list(self.allow),
            deny=list(self.deny),
            domain=self.domain or "",
        )


def _networks(what: str, networks: Sequence[str]) -> tuple[str, ...]:
    if isinstance(networks, str):
        raise InvalidError(f"{what} should be a list of networks, such as {what}=[{networks!r}].")
    parsed = []
    for each in networks:
        try:
            parsed.append(str(ip_network(each)))
        except ValueError as error:
            raise InvalidError(
                f"{what}: {short_repr(str(each))} is not a network such as 203.0.113.0/24 ({error})."
            ) from None
    if len(parsed) > MAX_NETWORKS:
        raise InvalidError(f"{what} takes up to {MAX_NETWORKS} networks.")
    return tuple(parsed)
