"""Tests of the worker by itself: an order in a thread, its result on the event loop, and how it stops."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from edge_server.certificates.acme.errors import AcmeError, OrderStoppedError
from edge_server.certificates.acme.quota import Quota
from edge_server.certificates.acme.quota_file import QuotaFile
from edge_server.certificates.acme.settings import HTTP, TLS_ALPN, AcmeSettings
from edge_server.certificates.acme.store import CertificateFiles, IssuedCertificate
from edge_server.certificates.acme.worker import OrderWorker
from tests.edge_server.certificates.acme.fake_certificates import issue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAME = "a.example.com"
PATIENCE = 10.0


class FakeOrders:
    """An ACME client whose orders call a function of the test."""

    def __init__(self, obtain: Callable[[], IssuedCertificate]) -> None:
        self._obtain = obtain
        self.challenges: list[str] = []

    def obtain(self, _: Sequence[str], challenge: str) -> IssuedCertificate:
        self.challenges.append(challenge)
        return self._obtain()

    def renewal_time(self, _: IssuedCertificate) -> float | None:
        self._obtain()
        return 5.0


class WorkerRig:
    def __init__(self, directory: Path) -> None:
        self.files = CertificateFiles(directory / "certificates")
        self.quota_file = QuotaFile(directory / "quota.json")
        settings = AcmeSettings(email="you@example.com", challenge=HTTP)
        self.worker = OrderWorker(settings, directory, self.files, self.quota_file)

    def use(self, obtain: Callable[[], IssuedCertificate]) -> FakeOrders:
        orders = FakeOrders(obtain)
        self.worker._acme_client = cast("Any", orders)
        return orders

    async def order(self, *, is_own: bool = False) -> IssuedCertificate | AcmeError:
        done: asyncio.Future[IssuedCertificate | AcmeError] = asyncio.get_running_loop().create_future()
        self.worker.start_order((NAME,), done.set_result, is_own=is_own)
        return await asyncio.wait_for(done, PATIENCE)


@pytest.fixture
def rig(tmp_path: Path) -> WorkerRig:
    return WorkerRig(tmp_path / "acme")


async def test_quota_is_written_before_the_order_and_the_certificate_after(rig: WorkerRig):
    quota = Quota()
    quota.begin(NAME, "t", is_new=True, now=1.0)
    rig.quota_file.update(quota.state)
    seen: list[Any] = []

    def obtain() -> IssuedCertificate:
        seen.append((rig.quota_file.read(), threading.current_thread().daemon))
        return issue(NAME, now=time.time())

    rig.use(obtain)
    found = await rig.order()
    assert seen == [(quota.state, True)]
    assert list(rig.files.load()) == [found]


async def test_challenge_depends_on_whose_name_it_is(rig: WorkerRig, tmp_path: Path):
    orders = rig.use(lambda: issue(NAME, now=time.time()))
    await rig.order()
    rig.worker._settings = AcmeSettings(email="you@example.com", challenge="dns-01")
    await rig.order()
    await rig.order(is_own=True)
    assert orders.challenges == [HTTP, TLS_ALPN, "dns-01"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AcmeError("no", 7.0), "no"),
        (OrderStoppedError(), "The edge is stopping."),
        (ZeroDivisionError(), "Internal error: ZeroDivisionError."),
    ],
)
async def test_every_failure_is_reported_once(rig: WorkerRig, error: Exception, reason: str):
    def obtain() -> IssuedCertificate:
        raise error

    rig.use(obtain)
    found = await rig.order()
    assert isinstance(found, AcmeError)
    assert found.reason == reason
    renewal_info: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
    rig.worker.start_renewal_info(issue(NAME, now=time.time()), renewal_info.set_result)
    assert await asyncio.wait_for(renewal_info, PATIENCE) is None


async def test_certificate_is_used_although_it_cannot_be_stored(
    rig: WorkerRig, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "certificates").write_bytes(b"")
    rig.use(lambda: issue(NAME, now=time.time()))
    assert isinstance(await rig.order(), IssuedCertificate)
    assert f"the certificate for {NAME} could not be stored" in caplog.text


async def test_system_without_threads_fails_the_order(rig: WorkerRig, monkeypatch: pytest.MonkeyPatch):
    rig.use(lambda: issue(NAME, now=time.time()))

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        found = await rig.order()
    assert isinstance(found, AcmeError)
    assert isinstance(await rig.order(), IssuedCertificate)


async def test_stop_aborts_an_order_and_join_waits_for_its_clean_up(rig: WorkerRig):
    cleaned: list[bool] = []

    def obtain() -> IssuedCertificate:
        assert rig.worker._stopping.wait(PATIENCE)
        time.sleep(0.05)
        cleaned.append(True)
        raise OrderStoppedError

    rig.use(obtain)
    order = asyncio.create_task(rig.order())
    await asyncio.sleep(0)
    rig.worker.stop()
    await rig.worker.join()
    assert cleaned == [True]
    assert isinstance(await order, OrderStoppedError)


async def test_join_can_be_cancelled(rig: WorkerRig):
    release = threading.Event()

    def obtain() -> IssuedCertificate:
        assert release.wait(PATIENCE)
        raise OrderStoppedError

    rig.use(obtain)
    order = asyncio.create_task(rig.order())
    await asyncio.sleep(0)
    joining = asyncio.create_task(rig.worker.join())
    await asyncio.sleep(0.01)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    release.set()
    assert isinstance(await order, OrderStoppedError)
