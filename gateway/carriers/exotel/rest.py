# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's REST: calls out, and nothing else that is documented (docs/reference/carriers.md §5.4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import aiohttp

from gateway.carriers.rest_interface import (
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

API_URL = "https://api.exotel.com/v1"
STREAM_URL_LIMIT = 600
STREAM_NAME_LIMIT = 32
CUSTOM_FIELD_LIMIT = 128
EVENTS = ("ringing", "answered", "terminal")


class ExotelRest:
    """One account at Exotel. `http`: shared, closed by its owner. Raises CredentialsMissing.

    Its webhooks: status_callback + "/status" for all EVENTS, with the state as `CustomField`.
    """

    name = "exotel"
    repeats_safely = False
    cannot: Mapping[str, str] = MappingProxyType(
        {
            "hangup": "Exotel documents no way to hang up a call: it ends when its stream does",
            "transfer": "Exotel transfers a call only by its flow, once the stream is over",
            "dtmf": "Exotel has no way to send digits",
            "machine_detection": "Exotel does not tell whether a machine answered",
        }
    )

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        sid, user, password = login_of(account)
        self._login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        self._connect = f"/Accounts/{segment(sid)}/Calls/connect.json"  # without .json it answers XML
        self._exchange = with_password(
            "Exotel", account, API_URL, http, read_error=_error, timeout_s=timeout_s
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """`From` is who is called, `CallerId` the ExoPhone that they see."""
        if len(request.stream_url) > STREAM_URL_LIMIT:
            raise CarrierFailed(
                "refused", f"Exotel takes a stream URL of up to {STREAM_URL_LIMIT} characters"
            )
        if len(request.state) > CUSTOM_FIELD_LIMIT:
            raise CarrierFailed("refused", f"Exotel gives back up to {CUSTOM_FIELD_LIMIT} characters")
        if request.machine_detection is not None:
            refuse(self.cannot, "machine_detection")
        form = [
            ("From", request.to),
            ("CallerId", request.from_number),
            ("StreamUrl", request.stream_url),
            ("StreamType", "bidirectional"),
            ("StreamName", request.session_id[:STREAM_NAME_LIMIT]),
            ("TimeOut", str(request.ring_s)),
            ("TimeLimit", str(request.limit_s)),
            ("CustomField", request.state),
            ("StatusCallback", f"{self._with_login(request.status_callback)}/status"),
            *(("StatusCallbackEvents[]", event) for event in EVENTS),
        ]
        answer = await self._exchange.ask("POST", self._connect, form=form)
        call = answer.get("Call")
        sid = id_of(call.get("Sid")) if isinstance(call, dict) else None
        return DialedCall(sid or self._exchange.unreadable("the call's Sid"))

    def _with_login(self, url: str) -> str:
        """Exotel signs nothing: what it calls back is proven by the login in the URL (§5.1, §9.5)."""
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{self._login}@{rest}"

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        raise CarrierFailed("refused", self.cannot["hangup"])

    async def transfer(
        self, call_id: str, to: str, *, document: str | None, document_url: str | None, caller_id: str | None
    ) -> None:
        refuse(self.cannot, "transfer")

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        checked_digits(digits)
        refuse(self.cannot, "dtmf")

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """No documented list can be searched for what we gave the call; its StatusCallback tells."""
        return None


def _error(answer: Mapping[str, Any]) -> Error:
    told = answer.get("RestException")
    return (told.get("Code"), told.get("Message")) if isinstance(told, dict) else (None, None)
