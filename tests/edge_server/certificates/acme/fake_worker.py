"""A worker that runs no orders: a test reads what was started, and completes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_server.certificates.acme.certificate_manager import CertificateManager
    from edge_server.certificates.acme.errors import AcmeError
    from edge_server.certificates.acme.store import IssuedCertificate
    from edge_server.certificates.acme.worker import OrderWorker

    OnOrdered = Callable[[IssuedCertificate | AcmeError], None]
    OnRenewalInfo = Callable[[float | None], None]


class FakeWorker:
    """Stands in for :class:`OrderWorker`."""

    def __init__(self) -> None:
        self.orders: dict[str, OnOrdered] = {}
        """Orders in progress by identifier."""
        self.renewal_info: dict[str, OnRenewalInfo] = {}
        """Requests for renewal times in progress by identifier."""
        self.own: list[str] = []
        """Identifiers that were ordered as the edge's own."""
        self.is_stopping = False

    def start_order(self, names: Sequence[str], on_done: OnOrdered, *, is_own: bool) -> None:
        assert names[0] not in self.orders
        self.orders[names[0]] = on_done
        self.own += [names[0]] * is_own

    def start_renewal_info(self, issued: IssuedCertificate, on_done: OnRenewalInfo) -> None:
        self.renewal_info[issued.names[0]] = on_done

    def stop(self) -> None:
        self.is_stopping = True

    async def join(self) -> None:
        pass

    def install(self, manager: CertificateManager) -> None:
        """Replace the worker of a manager."""
        manager._worker = cast("OrderWorker", self)

    def complete(self, manager: CertificateManager, name: str, outcome: IssuedCertificate | AcmeError) -> None:
        """Complete the order for a name, whether it was started or not."""
        on_done = self.orders.pop(name, None)
        if on_done is not None:
            on_done(outcome)
        else:
            manager._on_ordered(manager._scheduler.certificates[name], outcome)

    def take_started(self, manager: CertificateManager) -> list[str]:
        """Return the identifiers of the started orders, and forget them: they are due again."""
        names = list(self.orders)
        for name in (*names, *self.renewal_info):
            manager._scheduler.certificates[name].running = None
        self.orders.clear()
        self.renewal_info.clear()
        return names


def postpone_advice(manager: CertificateManager, name: str) -> None:
    """Make the manager ask for no renewal time of this certificate."""
    manager._scheduler.certificates[name].renewal_info_at = float("inf")
