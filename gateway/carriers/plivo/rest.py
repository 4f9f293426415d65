# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's REST: calls out, hanging up, transfers, digits (docs/reference/carriers.md §4.5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
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

API_URL = "https://api.plivo.com/v1"
FIND_CALLS = 20  # as many as one list holds


class PlivoRest:
    """One account at Plivo. `http`: shared, closed by its owner. Raises CredentialsMissing.

    Its webhooks: status_callback + "/ring", "/hangup", and "/machine" for what answered. `dial` tells a
    request_uuid: it was the CallUUID in captured calls, but is documented as another id (§11), so the call's
    own comes with the webhooks.
    """

    name = "plivo"
    repeats_safely = False  # §4.5: no idempotency key
    cannot: Mapping[str, str] = MappingProxyType(
        {"wait_for_end": "Plivo tells whether a machine answered, but not when its greeting is over"}
    )

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        _, user, _ = login_of(account)
        self._account = f"/Account/{segment(user)}"
        self._exchange = with_password(
            "Plivo", account, API_URL, http, read_error=_error, timeout_s=timeout_s
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """There is no inline document: Plivo asks `answer_url` for it."""
        body: dict[str, Any] = {
            "from": request.from_number,
            "to": request.to,
            "answer_url": request.answer_url,
            "answer_method": "POST",
            "ring_url": f"{request.status_callback}/ring",
            "ring_method": "POST",
            "hangup_url": f"{request.status_callback}/hangup",
            "hangup_method": "POST",
            "ring_timeout": request.ring_s,
            "time_limit": request.limit_s,
        }
        if request.machine_detection is not None:
            refuse(self.cannot, request.machine_detection)
            body["machine_detection"] = "true"
            body["machine_detection_url"] = f"{request.status_callback}/machine"  # so the call goes on
            body["machine_detection_method"] = "POST"
        answer = await self._exchange.ask("POST", f"{self._account}/Call/", body=body)
        request_id = id_of(answer.get("request_uuid")) or self._exchange.unreadable("a request_uuid")
        return DialedCall(None, request_id)

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """`call_id`: the CallUUID, or before any webhook told it, the request_uuid with `answered` false."""
        ended = False
        if not answered:  # it may wait in Plivo's queue, where it is a request and no call
            ended = await self._delete(f"/Request/{segment(call_id)}/")
        return ended or await self._delete(f"/Call/{segment(call_id)}/")

    async def transfer(
        self, call_id: str, to: str, *, document: str | None, document_url: str | None, caller_id: str | None
    ) -> None:
        """Plivo asks `document_url` for XML that says where to. Comes before the socket closes (§4.5)."""
        if document_url is None:
            raise CarrierFailed("refused", "Plivo transfers a call by the URL of a document alone")
        body = {"legs": "aleg", "aleg_url": document_url, "aleg_method": "POST"}
        await self._exchange.ask("POST", f"{self._account}/Call/{segment(call_id)}/", body=body)

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        body = {"digits": checked_digits(digits), "leg": "aleg"}
        await self._exchange.ask("POST", f"{self._account}/Call/{segment(call_id)}/DTMF/", body=body)

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Looks among the calls that wait, and those that ring or run."""
        found: set[str] = set()
        for status in ("queued", "live"):
            for uuid in await self._list(status, request):
                if uuid not in known and await self._is_it(uuid, status, request, since):
                    found.add(uuid)
        return DialedCall(found.pop()) if len(found) == 1 else None

    async def _list(self, status: str, request: DialRequest) -> list[str]:
        query = {"status": status, "limit": str(FIND_CALLS), "offset": "0"}
        if status == "live":
            query |= {
                "call_direction": "outbound",
                "from_number": _bare(request.from_number),
                "to_number": _bare(request.to),
            }
        answer = await self._exchange.ask("GET", f"{self._account}/Call/", query=query)
        uuids = answer.get("calls")
        if not isinstance(uuids, list):
            self._exchange.unreadable("a list of calls")
        return [uuid for uuid in uuids[:FIND_CALLS] if id_of(uuid) is not None]

    async def _is_it(self, uuid: str, status: str, request: DialRequest, since: float) -> bool:
        path = f"{self._account}/Call/{segment(uuid)}/"
        try:
            call = await self._exchange.ask("GET", path, query={"status": status})
        except CarrierFailed as failure:
            if failure.gone:  # it went on since the list was made
                return False
            raise
        began = _unix(call.get("session_start"))
        return (
            _bare(call.get("to")) == _bare(request.to)
            and _bare(call.get("from")) == _bare(request.from_number)
            and call.get("direction") == "outbound"
            and (began is None or began >= since - FIND_SLACK_S)  # one that waits has not begun
        )

    async def _delete(self, path: str) -> bool:
        try:
            await self._exchange.ask("DELETE", self._account + path)
        except CarrierFailed as failure:
            if failure.gone:
                return False
            raise
        return True


def _bare(number: object) -> str:
    """A number as Plivo prints it: without its + (§4.4)."""
    return number.removeprefix("+") if isinstance(number, str) else ""


def _unix(text: object) -> float | None:
    """Unix seconds of Plivo's times, which are UTC where they name no zone."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _error(answer: Mapping[str, Any]) -> Error:
    return answer.get("error_code"), answer.get("error")
