"""One certificate from an ACME server, from the order to the download (RFC 8555 section 7.4).

Blocks: it is called in a thread, and raises Problem for everything that can go wrong outside.
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
from edge_server.certificates.acme.errors import AcmeError, OrderStoppedError, said
from edge_server.certificates.acme.http_client import Network
from edge_server.certificates.acme.settings import DNS, HTTP, TLS_ALPN
from edge_server.certificates.acme.store import Issued
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from josepy.jwk import JWK

    from edge_server.certificates.acme.challenges import ChallengeStore
    from edge_server.certificates.acme.settings import AcmeSettings

logger = logging.getLogger(__name__)

MAX_POLL: Final = 30.0
"""Seconds between two looks, whatever the server says in Retry-After: an order has a deadline of its own."""
_LABEL: Final = "_acme-challenge."


class _TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    typ: ClassVar[str] = TLS_ALPN


@challenges.Challenge.register
class _TlsAlpn(challenges.KeyAuthorizationChallenge):
    """RFC 8737, which the library does not know since its version 5."""

    typ: ClassVar[str] = TLS_ALPN  # type: ignore[misc]  # the library says it is one of an instance
    response_cls: ClassVar[type[challenges.KeyAuthorizationChallengeResponse]] = _TlsAlpnResponse  # type: ignore[misc]  # likewise

    def validation(self, account_key: JWK, **_: Any) -> str:
        return self.key_authorization(account_key)


class Orders:
    """What one ACME server is asked for, in any number of threads."""

    def __init__(
        self,
        settings: AcmeSettings,
        directory: Path,
        answers: ChallengeStore,
        is_stopping: Callable[[float], bool],
    ) -> None:
        """``directory``: where the account is kept. ``is_stopping`` waits for so many seconds, or until the edge
        stops, and says whether it does."""
        self._settings = settings
        self._account = Account(directory, settings)
        self._answers = answers
        self._is_stopping = is_stopping

    def obtain(self, names: Sequence[str], challenge: str) -> Issued:
        """A certificate for these names, with a new key. Raises Problem; whatever was put up as a proof is taken
        down again."""
        with self._talking() as acme:
            return self._obtain(acme, names, challenge)

    def renewal_time(self, issued: Issued) -> float | None:
        """When the server advises to renew (RFC 9773): seconds since the epoch, None when it does not say. Raises
        Problem."""
        with self._talking(signed_in=False) as acme:
            if "renewalInfo" not in acme.directory.to_partial_json():
                return None
            when, _ = acme.renewal_time(issued.chain)
            return None if when is None else when.timestamp()

    @contextlib.contextmanager
    def _talking(self, *, signed_in: bool = True) -> Iterator[client.ClientV2]:
        network = Network(
            self._account.key, timeout=self._settings.pace.network, ca=self._settings.ca, check=self._check
        )
        try:
            acme = client.ClientV2(client.ClientV2.get_directory(self._settings.directory, network), network)
            if signed_in:
                self._account.sign_in(acme)
            yield acme
        except messages.Error as error:
            raise self._refused(error, network.retry_after) from None
        except errors.ValidationError as error:
            raise AcmeError(_why_invalid(error.failed_authzrs)) from None
        except ConfigError as error:  # a file with a secret that is not what it was at the start
            raise AcmeError(str(error)) from None
        except errors.ARIError as error:
            raise AcmeError(f"The ACME server gives no renewal time: {said(error.__cause__)}.") from None
        except (errors.Error, requests.RequestException, JoseError, OSError, ValueError, KeyError) as error:
            words = said(_innermost(error)) or type(error).__name__
            raise AcmeError(
                f"{self._settings.directory} does not answer as it should: {words}.", network.retry_after
            ) from None
        except (TypeError, AttributeError):
            # What the library says of answers that lack something.
            logger.debug("an answer of the ACME server could not be read", exc_info=True)
            raise AcmeError(
                f"{self._settings.directory} does not answer as it should: something is missing."
            ) from None
        finally:
            network.close()

    def _refused(self, error: messages.Error, retry_after: float) -> AcmeError:
        what = said(error.detail or error.description or error.typ)
        if error.code == "accountDoesNotExist":
            self._account.forget()
            return AcmeError(
                f"The ACME server does not know the account ({what}); the next try makes one.", retry_after
            )
        if error.code == "unauthorized":
            # It says so of accounts that were deactivated or revoked; which one wanted that is not ours to know.
            return AcmeError(
                f"The ACME server does not let the account in: {what}. {self._account.remedy}", retry_after
            )
        if error.code == "rateLimited":
            return AcmeError(f"The ACME server wants to be asked less often: {what}.", retry_after)
        return AcmeError(f"The ACME server refused: {what}.", retry_after)

    def _check(self) -> None:
        if self._is_stopping(0.0):
            raise OrderStoppedError

    def _obtain(self, acme: client.ClientV2, names: Sequence[str], challenge: str) -> Issued:
        deadline = time.monotonic() + self._settings.pace.order
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        order = acme.new_order(crypto_util.make_csr(key, list(names)))
        with contextlib.ExitStack() as proofs:
            bodies = [
                self._prove(proofs, each, challenge)
                for each in order.authorizations
                if each.body.status != messages.STATUS_VALID
            ]
            if challenge == DNS and bodies and self._is_stopping(self._settings.dns_wait):
                raise OrderStoppedError
            for body in bodies:
                acme.answer_challenge(body, body.chall.response(acme.net.key))
            self._wait(acme, order, deadline)
        return Issued.of(self._finalize(acme, order, deadline), key, names)

    def _prove(
        self, proofs: contextlib.ExitStack, authorization: messages.AuthorizationResource, challenge: str
    ) -> messages.ChallengeBody:
        """Put up what the server wants to see for one name."""
        name = authorization.body.identifier.value
        body = next((each for each in authorization.body.challenges if each.chall.typ == challenge), None)
        if body is None:
            offered = ", ".join(said(each.chall.typ) for each in authorization.body.challenges)
            raise AcmeError(f"The ACME server does not take {challenge} for {name}, but {offered}.")
        key = self._account.key
        if challenge == TLS_ALPN:
            proofs.callback(self._answers.forget, name)
            self._answers.prove_by_tls(name, body.chall.key_authorization(key))
        elif challenge == HTTP:
            token = body.chall.encode("token")
            proofs.callback(self._answers.forget, token)
            self._answers.prove_by_http(token, body.chall.key_authorization(key))
        else:
            zone = zone_of(self._settings, self._is_stopping)
            record, value = _LABEL + name, body.chall.validation(key)
            # First what undoes it, because what fails half way may have left something behind.
            proofs.callback(self._clear, zone.clear, record, value)
            zone.set(record, value)
        return body

    @staticmethod
    def _clear(clear: Callable[[str, str], None], record: str, value: str) -> None:
        try:
            clear(record, value)
        except AcmeError as problem:
            logger.warning("a TXT record of %s may be left over: %s", record, problem.reason)

    def _finalize(self, acme: client.ClientV2, order: messages.OrderResource, deadline: float) -> bytes:
        """Have the certificate signed, and fetch it with its chain (RFC 8555 section 7.4). The library would sleep
        in here, whatever becomes of the edge."""
        nonces = acme.directory["newNonce"]
        pause = 0.0
        while True:
            if pause and self._is_stopping(pause):
                raise OrderStoppedError
            pause = self._settings.pace.poll
            status = order.body.status
            if status == messages.STATUS_VALID and order.body.certificate is not None:
                return bytes(acme.net.post(order.body.certificate, None, new_nonce_url=nonces).content)
            if status == messages.STATUS_INVALID:
                error = order.body.error
                why = said(error.detail) if error else "it does not say why"
                raise AcmeError(f"The ACME server does not sign the certificate: {why}.")
            if time.monotonic() > deadline:
                raise AcmeError("The ACME server did not sign the certificate in time.")
            if status in (messages.STATUS_PENDING, messages.STATUS_READY):
                try:
                    order = acme.begin_finalization(order)
                    continue
                except messages.Error as error:
                    if error.code != "orderNotReady":
                        raise
            answer = acme.net.post(order.uri, None, new_nonce_url=nonces)
            order = order.update(body=messages.Order.from_json(answer.json()))
            pause = max(pause, _asked_to_wait(answer))

    def _wait(self, acme: client.ClientV2, order: messages.OrderResource, deadline: float) -> None:
        """Until every name is proved. Raises Problem, and errors.ValidationError."""
        pending = list(order.authorizations)
        while pending:
            looked, pause = [], self._settings.pace.poll
            for each in pending:
                authorization, answer = acme.poll(each)
                if authorization.body.status == messages.STATUS_PENDING:
                    looked.append(each)
                    pause = max(pause, _asked_to_wait(answer))
                elif authorization.body.status != messages.STATUS_VALID:
                    raise errors.ValidationError([authorization])
            pending = looked
            if pending:
                if time.monotonic() > deadline:
                    name = pending[0].body.identifier.value
                    raise AcmeError(f"The ACME server did not say in time whether {name} is proved.")
                if self._is_stopping(pause):
                    raise OrderStoppedError


def _asked_to_wait(answer: requests.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), MAX_POLL) if text.isascii() and text.isdigit() else 0.0


def _why_invalid(failed: Sequence[messages.AuthorizationResource]) -> str:
    for authorization in failed:
        name = authorization.body.identifier.value
        for each in authorization.body.challenges:
            if each.error is not None:
                return f"The ACME server could not prove {name}: {said(each.error.detail or each.error)}"
        return f"The ACME server says that {name} is {said(authorization.body.status.name)}, and not why."
    return "The ACME server refused, and did not say what."


def _innermost(error: BaseException) -> BaseException:
    """What lies at the bottom of ``requests``' long sentences."""
    while error.__context__ is not None and isinstance(error, requests.RequestException | OSError):
        error = error.__context__
    return error
