"""``open()`` and ``aopen()``: a tunnel that stays open until ``close()``, for programs in which ``with`` does
not fit."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from quictunnel.forwarding import forward
from quictunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from quictunnel.client import Client
    from quictunnel.inspect.request_queue import RequestSummary


class ForwardArguments(TypedDict, total=False):
    """The keyword arguments of :class:`~quictunnel.forwarding.forward`."""

    unencrypted: bool
    h2_enabled: bool
    name: str | None
    domain: str | None
    tcp_port: int | None
    pool: bool
    tls: str
    proxy_protocol: str | None
    allow: Sequence[str]
    deny: Sequence[str]
    ticket: str | os.PathLike[str] | None
    wait: float | bool
    inspect: bool
    inspect_address: str | None
    on_request: Callable[[RequestSummary], object] | None
    verify_origin: bool
    origin_ca: str | os.PathLike[str] | None
    client: Client | None


class OpenTunnel(Tunnel):
    """A :class:`Tunnel` that stays open until :meth:`close` is called or the process exits.

    It is also a context manager, sync and async. An open one that is collected as garbage is closed, with a
    ResourceWarning."""

    __slots__ = ("__weakref__", "_opener", "_process")

    _opener: list[forward]
    """The object that has opened the tunnel; empty once it is closed. A list, whose ``pop`` is atomic."""
    _process: int

    @classmethod
    def of(cls, tunnel: Tunnel, opener: forward) -> Self:
        """Return the open tunnel with the addresses of ``tunnel``, which ``opener`` has opened."""
        made = cls(tunnel.host, tunnel.port, tunnel.unencrypted_host, tunnel.unencrypted_port)
        made.adopt(tunnel)
        object.__setattr__(made, "_opener", [opener])
        object.__setattr__(made, "_process", os.getpid())
        _open_tunnels.add(made)
        return made

    @property
    def is_closed(self) -> bool:
        """True once :meth:`close` was called. The name and the figures can still be read then."""
        return not getattr(self, "_opener", None)

    def close(self) -> None:
        """Close the public port now; active visitors get a few seconds to finish. May be called again.

        Blocks until then; when interrupted, the port is closed nevertheless. May be called from any thread, but
        not by a subscriber of the client."""
        opener = self._take()
        if opener is not None:
            opener.__exit__(None, None, None)

    async def aclose(self) -> None:
        """Close the tunnel as :meth:`close` does, without blocking the event loop. When cancelled, the port is
        closed nevertheless, and visitors are reset."""
        opener = self._take()
        if opener is not None:
            await opener.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self.is_closed or self._process != os.getpid():
            return  # a copy, or the copy of a forked child
        warnings.warn(
            f"the tunnel {self.url} is closed because nothing refers to it any more: keep what quictunnel.open() "
            "returns, and close() it",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )
        opener = self._opener.pop()
        # On another thread, because closing waits for the client's thread, on which this may be running.
        threading.Thread(target=opener.__exit__, args=(None, None, None), daemon=True).start()

    def _take(self) -> forward | None:
        _open_tunnels.discard(self)
        try:
            return self._opener.pop()
        except (AttributeError, IndexError):  # a copy has no opener
            return None


def open(port: int | str, **options: Unpack[ForwardArguments]) -> OpenTunnel:  # noqa: A001 - quictunnel.open
    """Open a tunnel and return it: it stays open until its :meth:`~OpenTunnel.close`, or until the process exits.

    ::

        tunnel = quictunnel.open(8000)
        print(tunnel.url)
        ...
        tunnel.close()

    Arguments and errors are those of :class:`~quictunnel.forwarding.forward`. Blocks until the tunnel is open.
    When interrupted, everything is released.
    """
    opener = forward(port, **options)
    return OpenTunnel.of(opener.__enter__(), opener)


async def aopen(port: int | str, **options: Unpack[ForwardArguments]) -> OpenTunnel:
    """Open a tunnel as :func:`open` does, without blocking the event loop. Close it with ``await
    tunnel.aclose()``.

    When cancelled, everything is released.
    """
    opener = forward(port, **options)
    return OpenTunnel.of(await opener.__aenter__(), opener)


_open_tunnels: weakref.WeakSet[OpenTunnel] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    """Close what is open. Runs before the clients close their connections (``atexit`` is last in, first out)."""
    for tunnel in tuple(_open_tunnels):
        if tunnel._process == os.getpid():  # noqa: SLF001 - the same module
            tunnel.close()
