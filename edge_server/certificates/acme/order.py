"""ACME orders, each from its creation to the download of the certificate (RFC 8555 section 7.4).

Blocks: orders run in threads, and raise AcmeError for every external failure.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

import requests
from acme import challenges, client, crypto_util, errors, messages
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from josepy.errors import Error as JoseError

from edge_server.certificates.acme.account import Account
from edge_server.certificates.acme.dns01 import zone_of
from edge_server.certificates.acme.errors import AcmeError, OrderStoppedError, printable
from edge_server.certificates.acme.http_client import AcmeHttpClient
from edge_server.certificates.acme.settings import DNS, HTTP, TLS_ALPN
from edge_server.certificates.acme.store import IssuedCertificate
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from josepy.jwk import JWK

    from edge_server.certificates.acme.challenges import ChallengeStore
    from edge_server.certificates.acme.settings import AcmeSettings

logger = logging.getLogger(__name__)

MAX_POLL_INTERVAL: Final = 30.0
"""Seconds between two polls, whatever Retry-After says: an order has a deadline of its own."""
_LABEL: Final = "_acme-challenge."


class _TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    """The response to :class:`_TlsAlpn`."""

    typ: ClassVar[str] = TLS_ALPN


@challenges.Challenge.register
class _TlsAlpn(challenges.KeyAuthorizationChallenge):
    """The challenge of RFC 8737, which the library does not support since its version 5."""

    typ: ClassVar[str] = TLS_ALPN  # type: ignore[misc]  # the library says it is one of an instance
    response_cls: ClassVar[type[challenges.KeyAuthorizationChallengeResponse]] = _TlsAlpnResponse  # type: ignore[misc]  # likewise

    def validation(self, account_key: JWK, **_: Any) -> str:
        """Return the key authorization."""
        return self.key_authorization(account_key)


class OrderClient:
    """Orders at one ACME server, in any number of threads."""

    def __init__(
        self,
        settings: AcmeSettings,
        directory: Path,
        challenge_store: ChallengeStore,
        is_stopping: Callable[[float], bool],
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: of ACME.
            directory: where the account is stored.
            challenge_store: takes the challenge responses.
            is_stopping: waits for a number of seconds or until the edge stops, and returns True if it
                stops.
        """
        self._settings = settings
        self._account = Account(directory, settings)
        self._challenges = challenge_store
        self._is_stopping = is_stopping

    def obtain(self, names: Sequence[str], challenge: str) -> IssuedCertificate:
        """Return a new certificate with a new key for these names. The challenge responses are removed afterwards.
        Raises AcmeError."""
        with self._session() as acme:
            return self._obtain(acme, names, challenge)

    def renewal_time(self, issued: IssuedCertificate) -> float | None:
        """Return the renewal time that the server suggests (RFC 9773) in seconds since the epoch; None without a
        suggestion. Raises AcmeError."""
        with self._session(signed_in=False) as acme:
            if "renewalInfo" not in acme.directory.to_partial_json():
                return None
            when, _ = acme.renewal_time(issued.chain)
            return None if when is None else when.timestamp()

    @contextlib.contextmanager
    def _session(self, *, signed_in: bool = True) -> Iterator[client.ClientV2]:
        network = AcmeHttpClient(
            self._account.key, timeout=self._settings.timings.network, ca=self._settings.ca, check=self._check
        )
        try:
            acme = client.ClientV2(client.ClientV2.get_directory(self._settings.directory, network), network)
            if signed_in:
                self._account.sign_in(acme)
            yield acme
        except messages.Error as error:
            raise self._refusal(error, network.retry_after) from None
        except errors.ValidationError as error:
            raise AcmeError(_validation_error(error.failed_authzrs)) from None
        except ConfigError as error:  # a file with a secret has changed since the start
            raise AcmeError(str(error)) from None
        except errors.ARIError as error:
            raise AcmeError(f"The ACME server sent no valid renewal time: {printable(error.__cause__)}.") from None
        except (errors.Error, requests.RequestException, JoseError, OSError, ValueError, KeyError) as error:
            text = printable(_root_cause(error)) or type(error).__name__
            raise AcmeError(
                f"{self._settings.directory} sent no valid response: {text}.", network.retry_after
            ) from None
        except (TypeError, AttributeError):
            # The library raises these for responses with missing fields.
            logger.debug("a response of the ACME server could not be parsed", exc_info=True)
            raise AcmeError(f"{self._settings.directory} sent no valid response: a field is missing.") from None
        finally:
            network.close()

    def _refusal(self, error: messages.Error, retry_after: float) -> AcmeError:
        what = printable(error.detail or error.description or error.typ)
        if error.code == "accountDoesNotExist":
            self._account.forget()
            return AcmeError(
                f"The ACME server does not know the account ({what}); the next try creates one.", retry_after
            )
        if error.code == "unauthorized":
            # Sent for accounts that were deactivated or revoked, by either side.
            return AcmeError(
                f"The ACME server rejects the account: {what}. {self._account.replacement_hint}", retry_after
            )
        if error.code == "rateLimited":
            return AcmeError(f"The ACME server applied a rate limit: {what}.", retry_after)
        return AcmeError(f"The ACME server refused: {what}.", retry_after)

    def _check(self) -> None:
        if self._is_stopping(0.0):
            raise OrderStoppedError

    def _obtain(self, acme: client.ClientV2, names: Sequence[str], challenge: str) -> IssuedCertificate:
        deadline = time.monotonic() + self._settings.timings.order
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        order = acme.new_order(crypto_util.make_csr(key, list(names)))
        with contextlib.ExitStack() as cleanup:
            bodies = [
                self._publish_response(cleanup, each, challenge)
                for each in order.authorizations
                if each.body.status != messages.STATUS_VALID
            ]
            if challenge == DNS and bodies and self._is_stopping(self._settings.dns_wait):
                raise OrderStoppedError
            for body in bodies:
                acme.answer_challenge(body, body.chall.response(acme.net.key))
            self._wait(acme, order, deadline)
        return IssuedCertificate.from_pem(self._finalize(acme, order, deadline), key, names)

    def _publish_response(
        self, cleanup: contextlib.ExitStack, authorization: messages.AuthorizationResource, challenge: str
    ) -> messages.ChallengeBody:
        """Publish the challenge response for one name."""
        name = authorization.body.identifier.value
        body = next((each for each in authorization.body.challenges if each.chall.typ == challenge), None)
        if body is None:
            offered = ", ".join(printable(each.chall.typ) for each in authorization.body.challenges)
            raise AcmeError(f"The ACME server does not offer {challenge} for {name}, only {offered}.")
        key = self._account.key
        if challenge == TLS_ALPN:
            cleanup.callback(self._challenges.remove, name)
            self._challenges.add_tls_alpn(name, body.chall.key_authorization(key))
        elif challenge == HTTP:
            token = body.chall.encode("token")
            cleanup.callback(self._challenges.remove, token)
            self._challenges.add_http(token, body.chall.key_authorization(key))
        else:
            zone = zone_of(self._settings, self._is_stopping)
            record, value = _LABEL + name, body.chall.validation(key)
            # Register the removal first: a failure half way may leave a record behind.
            cleanup.callback(self._clear, zone.clear, record, value)
            zone.set(record, value)
        return body

    @staticmethod
    def _clear(clear: Callable[[str, str], None], record: str, value: str) -> None:
        try:
            clear(record, value)
        except AcmeError as error:
            logger.warning("a TXT record of %s could not be removed: %s", record, error.reason)

    def _finalize(self, acme: client.ClientV2, order: messages.OrderResource, deadline: float) -> bytes:
        """Finalize the order and download the certificate with its chain (RFC 8555 section 7.4). The library would
        sleep here even while the edge stops."""
        nonces = acme.directory["newNonce"]
        pause = 0.0
        while True:
            if pause and self._is_stopping(pause):
                raise OrderStoppedError
            pause = self._settings.timings.poll
            status = order.body.status
            if status == messages.STATUS_VALID and order.body.certificate is not None:
                return bytes(acme.net.post(order.body.certificate, None, new_nonce_url=nonces).content)
            if status == messages.STATUS_INVALID:
                error = order.body.error
                why = printable(error.detail) if error else "it gave no reason"
                raise AcmeError(f"The ACME server refused to sign the certificate: {why}.")
            if time.monotonic() > deadline:
                raise AcmeError("The ACME server did not sign the certificate in time.")
            if status in (messages.STATUS_PENDING, messages.STATUS_READY):
                try:
                    order = acme.begin_finalization(order)
                    continue
                except messages.Error as error:
                    if error.code != "orderNotReady":
                        raise
            response = acme.net.post(order.uri, None, new_nonce_url=nonces)
            order = order.update(body=messages.Order.from_json(response.json()))
            pause = max(pause, _retry_after(response))

    def _wait(self, acme: client.ClientV2, order: messages.OrderResource, deadline: float) -> None:
        """Poll until every name is validated. Raises AcmeError and errors.ValidationError."""
        pending = list(order.authorizations)
        while pending:
            still_pending, pause = [], self._settings.timings.poll
            for each in pending:
                authorization, response = acme.poll(each)
                if authorization.body.status == messages.STATUS_PENDING:
                    still_pending.append(each)
                    pause = max(pause, _retry_after(response))
                elif authorization.body.status != messages.STATUS_VALID:
                    raise errors.ValidationError([authorization])
            pending = still_pending
            if pending:
                if time.monotonic() > deadline:
                    name = pending[0].body.identifier.value
                    raise AcmeError(f"The ACME server did not validate {name} in time.")
                if self._is_stopping(pause):
                    raise OrderStoppedError


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), MAX_POLL_INTERVAL) if text.isascii() and text.isdigit() else 0.0


def _validation_error(failed: Sequence[messages.AuthorizationResource]) -> str:
    for authorization in failed:
        name = authorization.body.identifier.value
        for each in authorization.body.challenges:
            if each.error is not None:
                return f"The ACME server could not validate {name}: {printable(each.error.detail or each.error)}"
        return f"The ACME server reports {name} as {printable(authorization.body.status.name)} without a reason."
    return "The ACME server refused without a reason."


def _root_cause(error: BaseException) -> BaseException:
    """Return the root cause of one of ``requests``' nested errors."""
    while error.__context__ is not None and isinstance(error, requests.RequestException | OSError):
        error = error.__context__
    return error
