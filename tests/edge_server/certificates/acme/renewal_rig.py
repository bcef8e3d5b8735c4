"""A certificate manager without a CA, whose orders a test completes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from edge_server.certificates.acme.certificate_manager import CertificateManager, RenewalPolicy
from edge_server.certificates.acme.quota_file import QuotaFile
from edge_server.certificates.acme.settings import AcmeTimings
from edge_server.certificates.acme.store import CertificateFiles, IssuedCertificate
from edge_server.certificates.context_store import ContextStore
from tests.edge_server.certificates.acme.fake_certificates import issue
from tests.edge_server.certificates.acme.fake_worker import FakeWorker, postpone_advice

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.certificates.acme.errors import AcmeError
    from edge_server.certificates.acme.scheduler import ScheduledCertificate
    from edge_server.certificates.acme.worker import OrderWorker
    from tests.harness.manual_clock import ManualClock

DAY = 86_400.0


class RenewalRig:
    """A manager whose orders a test fulfils itself."""

    def __init__(self, state_dir: Path, clock: ManualClock, own: tuple[str, ...] = ()) -> None:
        self.wanted: set[str] = set()
        self.certificates = ContextStore()
        self.directory = state_dir / "acme"
        self.is_settled = True
        self.timings = AcmeTimings()
        self.worker = FakeWorker()
        self.store = CertificateFiles(self.directory / "certificates")
        self.quota_file = QuotaFile(self.directory / "quota.json")
        self.manager = CertificateManager(
            RenewalPolicy(own=own, is_needed=self.wanted.__contains__),
            self.timings,
            self.certificates,
            cast("OrderWorker", self.worker),
            certificate_files=self.store,
            quota_file=self.quota_file,
            now=clock,
            is_settled=lambda: self.is_settled,
        )
        self.clock = clock

    def want(self, name: str, owner: str = "a") -> bool:
        self.wanted.add(name)
        return self.manager.request(name, owner, alone=False)

    def certificate(self, name: str) -> ScheduledCertificate:
        return self.manager._scheduler.certificates[name]

    def fulfil(self, name: str, outcome: IssuedCertificate | AcmeError | None = None) -> None:
        self.worker.complete(self.manager, name, outcome or issue(name, now=self.clock()))

    def due(self) -> list[str]:
        """Return the names whose orders would begin now. They count, but stay due."""
        self.manager._start_due()
        return self.worker.take_started(self.manager)

    def order_all(self) -> int:
        """Begin and fulfil what may be ordered now; how many that were."""
        count = 0
        while True:
            self.manager._start_due()
            started = list(self.worker.orders)
            if not started:
                return count
            for name in started:
                self.fulfil(name)
                postpone_advice(self.manager, name)
                count += 1
