# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's REST client: dial, hang up, transfer (docs/reference/carriers.md §2.6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

import aiohttp

from gateway.carriers.rest_interface import (
    FIND_SLACK_S,
    CarrierFailed,
    DialedCall,
    DialRequest,
    check_digits,
    check_supported,
    login_of,
    path_segment,
    read_id,
)
from gateway.carriers.rest_transport import (
    TIMEOUT_S,
    Error,
    RestApi,
    RestTimeouts,
    RestTransport,
    password_access,
)
from gateway.config import CarrierAccount

INLINE_LIMIT = 4000  # characters of `Twiml`
EVENTS = ("initiated", "ringing", "answered", "completed")  # left out, only the last
FIND_CALLS = 50
GONE_CODES = frozenset({"20404", "21220"})
"""Not found, and not in progress any more (twilio.com/docs/api/errors)."""


def _read_error(answer: Mapping[str, Any]) -> Error:
    return answer.get("code"), answer.get("message")


API = RestApi("Twilio", "https://api.twilio.com/2010-04-01", _read_error, GONE_CODES)


class TwilioRest:
    """The REST client of one account at Twilio. Raises CredentialsMissing.

    `http`: shared, and closed by its owner. Twilio calls status_callback + "/status" for the four EVENTS, and
    "/machine" with the result of machine detection.
    """

    name = "twilio"
    repeats_safely = False  # §2.6: POST /Calls has no idempotency key
    unsupported: Mapping[str, str] = MappingProxyType(
        {"dtmf": "Twilio cannot play digits into a call without ending its stream"}
    )

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        login = login_of(account)
        self._calls = f"/Accounts/{path_segment(login.account_id)}/Calls"
        self._transport = RestTransport(
            API, password_access(API, account, login), http, RestTimeouts(total_s=timeout_s)
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """Start an outbound call.

        The document is sent inline if it is short enough, which saves a request.
        """
        form = [("To", request.to), ("From", request.from_number)]
        if request.document is not None and len(request.document) <= INLINE_LIMIT:
            form.append(("Twiml", request.document))
        else:
            form += [("Url", request.answer_url), ("Method", "POST")]
        form += [
            ("Timeout", str(request.ring_s)),
            ("TimeLimit", str(request.limit_s)),
            ("StatusCallback", f"{request.status_callback}/status"),
            ("StatusCallbackMethod", "POST"),
            *(("StatusCallbackEvent", event) for event in EVENTS),
        ]
        if request.machine_detection == "detect":  # asynchronous: the document runs meanwhile
            form += [
                ("MachineDetection", "Enable"),
                ("AsyncAmd", "true"),
                ("AsyncAmdStatusCallback", f"{request.status_callback}/machine"),
                ("AsyncAmdStatusCallbackMethod", "POST"),
            ]
        elif request.machine_detection == "wait_for_end":  # the document runs after a machine's greeting
            form.append(("MachineDetection", "DetectMessageEnd"))
        answer = await self._transport.send("POST", f"{self._calls}.json", form=form)
        return DialedCall(read_id(answer.get("sid")) or self._transport.unreadable("the call's sid"))

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """End a call. Return False if it was already over.

        `canceled` has no effect on a call that was answered in the meantime; then it is set to `completed`.
        """
        try:
            if not answered:
                answer = await self._update(call_id, [("Status", "canceled")])
                if answer.get("status") != "in-progress":
                    return True
            await self._update(call_id, [("Status", "completed")])
        except CarrierFailed as failure:
            if failure.gone:
                return False
            raise
        return True

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
        """Replace the call's TwiML, which ends its stream.

        `to` and `caller_id` are in the document already.
        """
        if document is not None and len(document) <= INLINE_LIMIT:
            await self._update(call_id, [("Twiml", document)])
        elif document_url is not None:
            await self._update(call_id, [("Url", document_url), ("Method", "POST")])
        else:
            detail = f"Twilio takes a document of up to {INLINE_LIMIT} characters, or its URL"
            raise CarrierFailed("refused", detail)

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        """Raise CarrierFailed: Twilio has no such request."""
        check_digits(digits)
        check_supported(self.unsupported, "dtmf")

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Look for the call in the list of calls, by its creation: a queued call has no StartTime yet."""
        query = {"To": request.to, "From": request.from_number, "PageSize": str(FIND_CALLS)}
        answer = await self._transport.send("GET", f"{self._calls}.json", query=query)
        calls = answer.get("calls")
        if not isinstance(calls, list):
            self._transport.unreadable("a list of calls")
        call_ids = {
            sid
            for call in calls
            if isinstance(call, dict)
            and call.get("direction") == "outbound-api"
            and _created(call.get("date_created")) >= since - FIND_SLACK_S
            and (sid := read_id(call.get("sid"))) is not None
            and sid not in known
        }
        return DialedCall(call_ids.pop()) if len(call_ids) == 1 else None

    async def _update(self, call_id: str, form: list[tuple[str, str]]) -> dict[str, Any]:
        return await self._transport.send("POST", f"{self._calls}/{path_segment(call_id)}.json", form=form)


def _created(text: object) -> float:
    """Return Unix seconds from an RFC 2822 date, or 0 if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp() if isinstance(text, str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
