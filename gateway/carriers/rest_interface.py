# SPDX-License-Identifier: BSD-2-Clause
"""The interface of a carrier's REST client (`CarrierRest`) and its one exception (`CarrierFailed`).

The clients are in carriers/NAME/rest.py. How one request is sent is in rest_transport.py.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import quote, urlsplit

from gateway.config import CarrierAccount

FailureKind = Literal["refused", "rate_limited", "unreachable", "timeout", "broken"]
MachineDetection = Literal["detect", "wait_for_end"]

MAX_CALL_S = 14_400  # every carrier accepts it (docs/reference/carriers.md §1, "Max session")
MIN_RING_S, MAX_RING_S = 5, 600  # docs/reference/carriers.md §2.6, §3.5
FIND_SLACK_S = 5.0  # clocks differ, and carriers cut times to whole seconds

_ID = re.compile(r"[!-~]{1,512}")
_DIGITS = re.compile(r"[0-9A-D*#wW]{1,32}")  # docs/reference/carriers.md §2.6, §3.5


class CarrierFailed(Exception):  # noqa: N818 - named after what happened
    """The carrier did not carry out a request.

    `kind`: "refused" (the carrier said no), "rate_limited" (try later), "unreachable" (no connection, or it
    broke), "timeout", or "broken" (the carrier failed, or its answer cannot be read). `detail`: one sentence
    for the caller of the API, without secrets, telephone numbers or tokens. `status`: the HTTP status if
    there was an answer. `code`: the carrier's own error code. `retry_after_s`: seconds, if the carrier named
    them. `uncertain`: whether the request may have been carried out all the same. `gone`: whether it failed
    because the call is over or does not belong to the account.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        uncertain: bool = False,
        gone: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind: FailureKind = kind
        self.detail = detail
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.uncertain = uncertain
        self.gone = gone


class CredentialsMissing(ValueError):  # noqa: N818 - named after what happened
    """The account's configuration lacks the credentials for the carrier's REST API.

    `str()` names the keys.
    """


@dataclass(frozen=True, slots=True)
class DialRequest:
    """An outbound call, with everything that any carrier needs for one.

    `to`: E.164, or a SIP address. `from_number`: E.164. `answer_url`: https URL of the document.
    `stream_url`: complete wss URL. `document`: the document's text, for carriers that accept it in place of a
    URL. `status_callback`: absolute URL without a query; the carrier's client appends "/status", "/ring",
    "/hangup" or "/machine".
    `ring_timeout_s`, `time_limit_s`: seconds. `client_state`: text that the carrier repeats in its
    callbacks if it can; None stands for the session's id.
    """

    to: str
    from_number: str
    answer_url: str
    stream_url: str
    document: str | None
    status_callback: str
    ring_timeout_s: int
    time_limit_s: int
    session_id: str
    machine_detection: MachineDetection | None = None
    client_state: str | None = None

    @property
    def ring_s(self) -> int:
        """Seconds to ring, within the limits that all carriers accept."""
        return min(max(self.ring_timeout_s, MIN_RING_S), MAX_RING_S)

    @property
    def limit_s(self) -> int:
        """Seconds that the call may last, within the limits that all carriers accept."""
        return min(max(self.time_limit_s, 1), MAX_CALL_S)

    @property
    def state(self) -> str:
        """The text that the carrier repeats in its callbacks."""
        return self.session_id if self.client_state is None else self.client_state


@dataclass(frozen=True, slots=True)
class DialedCall:
    """A call that the carrier has accepted.

    `call_id`: None if only the callbacks will contain it. `request_id`: the id of the request, if the carrier
    distinguishes it from the call's id (Plivo).
    """

    call_id: str | None
    request_id: str | None = None


class CarrierRest(Protocol):
    """The REST client of one account at a carrier.

    Every method raises CarrierFailed, and sends its request once: retries are the caller's decision.

    `unsupported`: the operations that the carrier lacks ("hangup", "transfer", "dtmf", "machine_detection",
    "wait_for_end", "sip": a call to a SIP address), each with the reason. Such an operation is refused with
    that reason, and nothing is sent.
    `repeats_safely`: whether the same DialRequest, dialed again after an uncertain failure, makes one call.
    """

    name: str
    unsupported: Mapping[str, str]
    repeats_safely: bool

    async def dial(self, request: DialRequest) -> DialedCall:
        """Start an outbound call."""

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """End a call. Return False if it was already over. `answered`: False if it is queued or ringing."""

    async def transfer(
        self,
        call_id: str,
        to: str,
        *,
        document: str | None,
        document_url: str | None,
        caller_id: str | None,
        time_limit_s: int | None = None,
    ) -> None:
        """Send the call to a number or sip: address.

        Carriers with a transfer request use `to`, `caller_id` and `time_limit_s`, the seconds that the new
        call may last; the others use `document` or `document_url`.
        """

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        """Play digits to the far end: 1 to 32 of 0-9, A-D, *, #, and w or W to wait."""

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Look for the call that an uncertain `dial` may have made since the Unix time `since`.

        `known`: call ids of other sessions. Return None if no call, or more than one, matches, or if the
        carrier has no list of calls; so None does not prove that there is no call.
        """


@runtime_checkable
class JoiningRest(Protocol):
    """The further requests of a carrier whose calls are joined by request, not by documents."""

    async def announce(self, call_id: str, text: str) -> None:
        """Speak a text to an answered call, and report the key that is pressed (`CallbackEvent.key`)."""

    async def join(self, call_id: str, other_call_id: str) -> None:
        """Join a call with another one of the account; when one is over, so is the other."""


def base_url_of(account: CarrierAccount, default: str) -> str:
    """Return the URL of the account's REST API: `api_url`, with `default`'s path if it names only a host."""
    if account.api_url is None:
        return default
    return account.api_url if urlsplit(account.api_url).path else account.api_url + urlsplit(default).path


@dataclass(frozen=True, slots=True)
class RestLogin:
    """The credentials of an account for a REST API with Basic authentication. `account_id`: used in paths."""

    account_id: str
    user: str
    password: str


def login_of(account: CarrierAccount, *, required: str = "account") -> RestLogin:
    """Return the account's credentials for Basic authentication.

    `required`: the configuration key that the error message asks for. Raises CredentialsMissing.
    """
    account_id, user = account.account or account.auth_id, account.auth_id or account.account
    if account_id is None or user is None or not account.auth_tokens:
        raise CredentialsMissing(f"calling {account.carrier}'s REST takes {required} and auth_tokens")
    return RestLogin(account_id, user, account.auth_tokens[0].get_secret_value())


def basic_authorization(user: str, password: str) -> str:
    """Return the value of the `Authorization` header (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def path_segment(identifier: str) -> str:
    """Return a carrier's id, encoded for a URL's path. Raises CarrierFailed if it cannot be an id."""
    if read_id(identifier) is None:
        raise CarrierFailed("refused", "the call has no id that could be asked for")
    return quote(identifier, safe="")


def read_id(value: object) -> str | None:
    """Return an id from a carrier's answer, or None if the value cannot be an id."""
    return value if isinstance(value, str) and _ID.fullmatch(value) and value.strip(".") else None


def check_digits(digits: str) -> None:
    """Raise CarrierFailed unless `digits` can be sent as DTMF."""
    if not _DIGITS.fullmatch(digits):
        raise CarrierFailed("refused", "digits are 1 to 32 of 0-9, A-D, *, #, w and W")


def check_supported(unsupported: Mapping[str, str], operation: str) -> None:
    """Raise CarrierFailed if the carrier lacks the operation."""
    if operation in unsupported:
        raise CarrierFailed("refused", unsupported[operation])
