# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier's REST can be asked for, whichever carrier it is, and how it may fail.

The four carriers stand in modules of their own (twilio_rest.py, telnyx_rest.py, plivo_rest.py,
exotel_rest.py), named in registry.py; how one request is exchanged stands in http_rest.py.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import quote, urlsplit

from gateway.config import CarrierAccount

Kind = Literal["refused", "rate_limited", "unreachable", "timeout", "broken"]
MachineDetection = Literal["detect", "wait_for_end"]

LONGEST_CALL_S = 14_400  # all four take it (docs/reference/carriers.md §1, "Max session")
SHORTEST_RING_S, LONGEST_RING_S = 5, 600  # docs/reference/carriers.md §2.6, §3.5
FIND_SLACK_S = 5.0  # clocks differ, and carriers cut times to whole seconds

_ID = re.compile(r"[!-~]{1,512}")
_DIGITS = re.compile(r"[0-9A-D*#wW]{1,32}")  # docs/reference/carriers.md §2.6, §3.5


class CarrierFailed(Exception):  # noqa: N818 - named after what happened
    """The carrier did not do what it was asked.

    `kind`: "refused" (it said no), "rate_limited" (not now), "unreachable" (no connection, or it broke),
    "timeout", "broken" (it failed, or answered what nobody can read). `words`: one sentence for whoever
    asked, without secrets, numbers or tokens. `status`: the HTTP status, where there was one. `code`: the
    carrier's own error code. `retry_after_s`: seconds, where the carrier named them. `uncertain`: whether
    the request may have been carried out all the same. `gone`: whether it failed because the call is over,
    or is none of the account's.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        uncertain: bool = False,
        gone: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind: Kind = kind
        self.detail = detail
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.uncertain = uncertain
        self.gone = gone


class CredentialsMissing(ValueError):  # noqa: N818 - named after what happened
    """The account has nothing to call the carrier's REST with. The words name the settings."""


@dataclass(frozen=True, slots=True)
class DialRequest:
    """A call out, as any carrier may need it.

    `to`, `from_number`: E.164. `answer_url`: https URL of the document. `stream_url`: complete wss URL.
    `document`: the carrier's XML itself, where it takes that instead of a URL. `status_callback`: absolute
    URL without a query; "/status", "/ring", "/hangup" or "/machine" is put behind it, as the carrier's class
    says. `ring_timeout_s`, `time_limit_s`: seconds. `client_state`: text that
    the carrier gives back in its webhooks where it can; left out, the session's id.
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
        """Seconds to ring, within what carriers take."""
        return min(max(self.ring_timeout_s, SHORTEST_RING_S), LONGEST_RING_S)

    @property
    def limit_s(self) -> int:
        """Seconds that the call may last, within what carriers take."""
        return min(max(self.time_limit_s, 1), LONGEST_CALL_S)

    @property
    def state(self) -> str:
        return self.session_id if self.client_state is None else self.client_state


@dataclass(frozen=True, slots=True)
class DialedCall:
    """A call that the carrier has taken on. `call_id`: None where only its webhooks will tell.

    `request_id`: the id of the request, where the carrier tells that and the call apart (Plivo).
    """

    call_id: str | None
    request_id: str | None = None


class CarrierRest(Protocol):
    """One account at a carrier. All methods raise CarrierFailed, and no method tries anything again.

    `cannot`: what this carrier has no way to do ("hangup", "transfer", "dtmf", "machine_detection",
    "wait_for_end") and why; asked for all the same, it is refused without asking the carrier.
    `repeats_safely`: whether the same DialRequest, dialled again after an uncertain failure, makes one call.
    """

    name: str
    cannot: Mapping[str, str]
    repeats_safely: bool

    async def dial(self, request: DialRequest) -> DialedCall: ...

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """Ends a call; False: it was over already. `answered` false: it rings or waits in line."""

    async def transfer(
        self, call_id: str, to: str, *, document: str | None, document_url: str | None, caller_id: str | None
    ) -> None:
        """Sends the call elsewhere: by its number or sip: address `to`, or by a document, as carriers go."""

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        """Plays digits to the far end: 1 to 32 of 0-9, A-D, *, #, and w or W to wait."""

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """The call that an uncertain `dial` made, asked for since Unix second `since`.

        `known`: call ids that are other sessions'. None: there is none, or more than one that could be it,
        or the carrier cannot tell; so it is no proof that there is none.
        """


def base_of(account: CarrierAccount, default: str) -> str:
    """Where the account's REST is: `api_url`, with the usual path behind it where it names a host alone."""
    if account.api_url is None:
        return default
    return account.api_url if urlsplit(account.api_url).path else account.api_url + urlsplit(default).path


def login_of(account: CarrierAccount) -> tuple[str, str, str]:
    """The account's id, and user and password for its REST. Raises CredentialsMissing."""
    name, user = account.account or account.auth_id, account.auth_id or account.account
    if name is None or user is None or not account.auth_tokens:
        needs = "auth_id" if account.carrier == "plivo" else "account"
        raise CredentialsMissing(f"calling {account.carrier}'s REST takes {needs} and auth_tokens")
    return name, user, account.auth_tokens[0].get_secret_value()


def basic(user: str, password: str) -> str:
    """The `Authorization` header of RFC 7617."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def segment(identifier: str) -> str:
    """A carrier's id as a part of a path. Raises CarrierFailed for what can be no id."""
    if not _ID.fullmatch(identifier) or not identifier.strip("."):
        raise CarrierFailed("refused", "the call has no id that could be asked for")
    return quote(identifier, safe="")


def id_of(value: object) -> str | None:
    """An id from an answer, if it is one."""
    return value if isinstance(value, str) and _ID.fullmatch(value) and value.strip(".") else None


def checked_digits(digits: str) -> str:
    """The digits. Raises CarrierFailed where there are others among them, none, or too many."""
    if not _DIGITS.fullmatch(digits):
        raise CarrierFailed("refused", "digits are 1 to 32 of 0-9, A-D, *, #, w and W")
    return digits


def refuse(cannot: Mapping[str, str], wanted: str) -> None:
    """Raises CarrierFailed where this is what the carrier cannot do."""
    if wanted in cannot:
        raise CarrierFailed("refused", cannot[wanted])
