"""Execution of orders: each in a thread of its own, with the network, the challenges and the files."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from edge_server.certificates.acme.challenges import ChallengeStore
from edge_server.certificates.acme.errors import AcmeError
from quictunnel.shared.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_server.certificates.acme.order import OrderClient
    from edge_server.certificates.acme.quota_file import QuotaFile
    from edge_server.certificates.acme.settings import AcmeSettings
    from edge_server.certificates.acme.store import CertificateFiles, IssuedCertificate

    T = TypeVar("T")

logger = logging.getLogger(__name__)

STOP_TIMEOUT: Final = 3.0
"""Seconds for orders to clean up when the edge stops."""


class OrderWorker:
    """Runs orders at one ACME server. All public methods are for the event loop's thread, and none blocks it."""

    def __init__(
        self, settings: AcmeSettings, directory: Path, certificate_files: CertificateFiles, quota_file: QuotaFile
    ) -> None:
        """Start nothing yet.

        Args:
            settings: of ACME.
            directory: for the account; created when it is needed.
            certificate_files: takes the certificates that were issued.
            quota_file: written before each order.
        """
        self.challenges = ChallengeStore()
        """Challenge responses for the listeners."""
        self._settings = settings
        self._directory = directory
        self._certificate_files = certificate_files
        self._quota_file = quota_file
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._client_lock = threading.Lock()
        """Serialises orders that start together, so that they share the one account and its key."""
        self._acme_client: OrderClient | None = None

    @property
    def is_stopping(self) -> bool:
        """True after :meth:`stop`."""
        return self._stopping.is_set()

    def start_order(
        self,
        names: Sequence[str],
        on_done: Callable[[IssuedCertificate | AcmeError], None],
        *,
        is_own: bool,
    ) -> None:
        """Order a certificate and store it.

        Args:
            names: host names of the certificate.
            on_done: called once on the event loop with the certificate or the reason of the failure.
            is_own: True for the edge's own names, which may be validated by dns-01.
        """
        challenge = self._settings.challenge if is_own else self._settings.client_challenge
        no_thread: IssuedCertificate | AcmeError = AcmeError("No thread could be started.")
        self._start(functools.partial(self._order, names, challenge), on_done, no_thread)

    def start_renewal_info(self, issued: IssuedCertificate, on_done: Callable[[float | None], None]) -> None:
        """Ask for the renewal time that the server suggests. ``on_done`` is called once on the event loop with
        seconds since the epoch, or None without a suggestion."""
        self._start(functools.partial(self._request_renewal_info, issued), on_done, None)

    def stop(self) -> None:
        """Abort the orders in progress, and each later one at its start."""
        self._stopping.set()

    async def join(self) -> None:
        """Wait until the orders have cleaned up, at most :data:`STOP_TIMEOUT` seconds."""
        deadline = time.monotonic() + STOP_TIMEOUT
        for thread in tuple(self._threads):
            # A thread that still waits for the network ends with the process.
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    def _start(self, work: Callable[[], T], on_done: Callable[[T], None], no_thread: T) -> None:
        """Run ``work`` in a thread and pass its result on; ``no_thread`` if the system has no more threads."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            result = work()
            with contextlib.suppress(RuntimeError):  # the loop is closed: the result is not needed
                loop.call_soon_threadsafe(on_done, result)

        # No thread pool: a thread that hangs in the network must not delay the end of the process.
        thread = threading.Thread(target=run, name="acme", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            loop.call_soon(on_done, no_thread)
            return
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)

    # In the threads.

    def _order(self, names: Sequence[str], challenge: str) -> IssuedCertificate | AcmeError:
        try:
            self._quota_file.save()
        except OSError as error:
            logger.error("the quota of orders could not be written: %s", error.strerror or error)
        try:
            issued = self._client().obtain(names, challenge)
        except AcmeError as error:
            return error
        except Exception as error:  # a fault of this program or the library: logged, and retried like others
            logger.exception("a certificate order failed")
            return AcmeError(f"Internal error: {type(error).__name__}.")
        try:
            self._certificate_files.save(issued)
        except OSError as error:
            logger.error("the certificate for %s could not be stored: %s", names[0], error.strerror or error)
        return issued

    def _request_renewal_info(self, issued: IssuedCertificate) -> float | None:
        try:
            return self._client().renewal_time(issued)
        except AcmeError as error:
            logger.debug("no suggested renewal time for %s: %s", issued.names[0], error.reason)
        except Exception:  # as above
            logger.exception("the request for a renewal time failed")
        return None

    def _client(self) -> OrderClient:
        """Return the ACME client, and load its library on first use."""
        with self._client_lock:
            if self._acme_client is None:
                from edge_server.certificates.acme.order import OrderClient  # noqa: PLC0415 - an optional package, and half a second

                try:
                    make_directory(self._directory)
                except OSError as error:
                    raise AcmeError(f"{self._directory} cannot be created: {error.strerror or error}.") from None
                self._acme_client = OrderClient(
                    self._settings, self._directory, self.challenges, self._stopping.wait
                )
            return self._acme_client
