# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's REST: calls out, hanging up, transfers (docs/reference/carriers.md §2.6)."""

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
    checked_digits,
    id_of,
    login_of,
    refuse,
    segment,
)
from gateway.carriers.rest_request import TIMEOUT_S, Error, with_password
from gateway.config import CarrierAccount

API_URL = "https://api.twilio.com/2010-04-01"
INLINE_LIMIT = 4000  # characters of `Twiml`
EVENTS = ("initiated", "ringing", "answered", "completed")  # left out, only the last
FIND_CALLS = 50
NOT_IN_PROGRESS = "21220"  # twilio.com/docs/api/errors/21220: the call is not in a state for this
GONE = ("20404", NOT_IN_PROGRESS)


class TwilioRest:
    """One account at Twilio. `http`: shared, closed by its owner. Raises CredentialsMissing.

    Its webhooks: status_callback + "/status" for the four EVENTS, "/machine" for what answered.
    """

    name = "twilio"
    repeats_safely = False  # §2.6: there is no idempotency key for POST /Calls
    cannot: Mapping[str, str] = MappingProxyType(
        {"dtmf": "Twilio cannot play digits into a call without ending its stream"}
    )

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        sid, _, _ = login_of(account)
        self._calls = f"/Accounts/{segment(sid)}/Calls"
        self._exchange = with_password(
            "Twilio", account, API_URL, http, read_error=_error, gone=GONE, timeout_s=timeout_s
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """Inline TwiML where it is short enough, which saves a request; else the document's URL."""
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
        if request.machine_detection == "detect":  # the document runs meanwhile
            form += [
                ("MachineDetection", "Enable"),
                ("AsyncAmd", "true"),
                ("AsyncAmdStatusCallback", f"{request.status_callback}/machine"),
                ("AsyncAmdStatusCallbackMethod", "POST"),
            ]
        elif request.machine_detection == "wait_for_end":  # the document runs after a machine's greeting
            form.append(("MachineDetection", "DetectMessageEnd"))
        answer = await self._exchange.ask("POST", f"{self._calls}.json", form=form)
        return DialedCall(id_of(answer.get("sid")) or self._exchange.unreadable("the call's sid"))

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """`canceled` leaves a call alone that was answered just now: then it is completed."""
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
        self, call_id: str, to: str, *, document: str | None, document_url: str | None, caller_id: str | None
    ) -> None:
        """Replaces the call's TwiML, which ends its stream; `to` and `caller_id` stand in the document."""
        if document is not None and len(document) <= INLINE_LIMIT:
            await self._update(call_id, [("Twiml", document)])
        elif document_url is not None:
            await self._update(call_id, [("Url", document_url), ("Method", "POST")])
        else:
            detail = f"Twilio takes a document of up to {INLINE_LIMIT} characters, or its URL"
            raise CarrierFailed("refused", detail)

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        checked_digits(digits)
        refuse(self.cannot, "dtmf")

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Not asked by StartTime: a call in Twilio's queue has none yet. `date_created` decides."""
        query = {"To": request.to, "From": request.from_number, "PageSize": str(FIND_CALLS)}
        answer = await self._exchange.ask("GET", f"{self._calls}.json", query=query)
        calls = answer.get("calls")
        if not isinstance(calls, list):
            self._exchange.unreadable("a list of calls")
        found = {
            sid
            for call in calls
            if isinstance(call, dict)
            and call.get("direction") == "outbound-api"
            and _created(call.get("date_created")) >= since - FIND_SLACK_S
            and (sid := id_of(call.get("sid"))) is not None
            and sid not in known
        }
        return DialedCall(found.pop()) if len(found) == 1 else None

    async def _update(self, call_id: str, form: list[tuple[str, str]]) -> dict[str, Any]:
        return await self._exchange.ask("POST", f"{self._calls}/{segment(call_id)}.json", form=form)


def _error(answer: Mapping[str, Any]) -> Error:
    return answer.get("code"), answer.get("message")


def _created(text: object) -> float:
    """Unix seconds of an RFC 2822 date; before all others where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp() if isinstance(text, str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
