# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's REST client: dial, hang up, transfer, digits (docs/reference/carriers.md §4.5)."""

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

FIND_CALLS = 20  # the most that one list contains


def _read_error(answer: Mapping[str, Any]) -> Error:
    return answer.get("error_code"), answer.get("error")


API = RestApi("Plivo", "https://api.plivo.com/v1", _read_error)


class PlivoRest:
    """The REST client of one account at Plivo. Raises CredentialsMissing.

    `http`: shared, and closed by its owner. Plivo calls status_callback + "/ring" and "/hangup", and
    "/machine" with the result of machine detection. `dial` returns a request_uuid. In captured calls it was
    the CallUUID, but the documents call it another id (§11), so the call's id is taken from the callbacks.
    """

    name = "plivo"
    repeats_safely = False  # §4.5: no idempotency key
    unsupported: Mapping[str, str] = MappingProxyType(
        {"wait_for_end": "Plivo tells whether a machine answered, but not when its greeting is over"}
    )

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        login = login_of(account, required="auth_id")
        self._account = f"/Account/{path_segment(login.user)}"
        self._transport = RestTransport(
            API, password_access(API, account, login), http, RestTimeouts(total_s=timeout_s)
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """Start an outbound call. Plivo fetches its document from `answer_url`; it accepts none inline."""
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
            check_supported(self.unsupported, request.machine_detection)
            body["machine_detection"] = "true"
            body["machine_detection_url"] = (
                f"{request.status_callback}/machine"  # asynchronous: the call goes on
            )
            body["machine_detection_method"] = "POST"
        answer = await self._transport.send("POST", f"{self._account}/Call/", body=body)
        request_id = read_id(answer.get("request_uuid")) or self._transport.unreadable("a request_uuid")
        return DialedCall(None, request_id)

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """End a call. Return False if it was already over.

        `call_id`: the CallUUID, or the request_uuid with `answered` False while no callback has named the
        CallUUID.
        """
        ended = False
        if not answered:  # it may be in Plivo's queue, where it is a request and no call
            ended = await self._delete(f"/Request/{path_segment(call_id)}/")
        return ended or await self._delete(f"/Call/{path_segment(call_id)}/")

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
        """Have Plivo fetch `document_url`, whose XML names the target.

        Call it before the socket closes (§4.5).
        """
        if document_url is None:
            raise CarrierFailed("refused", "Plivo transfers a call by the URL of a document alone")
        body = {"legs": "aleg", "aleg_url": document_url, "aleg_method": "POST"}
        await self._transport.send("POST", f"{self._account}/Call/{path_segment(call_id)}/", body=body)

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        """Play digits to the far end."""
        check_digits(digits)
        body = {"digits": digits, "leg": "aleg"}
        await self._transport.send("POST", f"{self._account}/Call/{path_segment(call_id)}/DTMF/", body=body)

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Look for the call among the queued calls, and among those that ring or are in progress."""
        call_ids: set[str] = set()
        for status in ("queued", "live"):
            for uuid in await self._list(status, request):
                if uuid not in known and await self._is_call(uuid, status, request, since):
                    call_ids.add(uuid)
        return DialedCall(call_ids.pop()) if len(call_ids) == 1 else None

    async def _list(self, status: str, request: DialRequest) -> list[str]:
        query = {"status": status, "limit": str(FIND_CALLS), "offset": "0"}
        if status == "live":
            query |= {
                "call_direction": "outbound",
                "from_number": _bare(request.from_number),
                "to_number": _bare(request.to),
            }
        answer = await self._transport.send("GET", f"{self._account}/Call/", query=query)
        uuids = answer.get("calls")
        if not isinstance(uuids, list):
            self._transport.unreadable("a list of calls")
        return [uuid for uuid in uuids[:FIND_CALLS] if read_id(uuid) is not None]

    async def _is_call(self, uuid: str, status: str, request: DialRequest, since: float) -> bool:
        path = f"{self._account}/Call/{path_segment(uuid)}/"
        try:
            call = await self._transport.send("GET", path, query={"status": status})
        except CarrierFailed as failure:
            if failure.gone:  # it has another status now than when the list was made
                return False
            raise
        started_at = _unix(call.get("session_start"))
        return (
            _bare(call.get("to")) == _bare(request.to)
            and _bare(call.get("from")) == _bare(request.from_number)
            and call.get("direction") == "outbound"
            and (started_at is None or started_at >= since - FIND_SLACK_S)  # a queued call has not started
        )

    async def _delete(self, path: str) -> bool:
        try:
            await self._transport.send("DELETE", self._account + path)
        except CarrierFailed as failure:
            if failure.gone:
                return False
            raise
        return True


def _bare(number: object) -> str:
    """Return a number as Plivo writes it: without the + (§4.4)."""
    return number.removeprefix("+") if isinstance(number, str) else ""


def _unix(text: object) -> float | None:
    """Return Unix seconds from one of Plivo's times, which are in UTC if they name no zone; else None."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
