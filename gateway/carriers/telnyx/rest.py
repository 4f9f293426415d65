# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's REST, Call Control: calls out, hanging up, transfers, digits (docs/reference/carriers.md §3.5)."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import aiohttp

from gateway.carriers.rest_interface import (
    CarrierFailed,
    CredentialsMissing,
    DialedCall,
    DialRequest,
    base_of,
    checked_digits,
    id_of,
    segment,
)
from gateway.carriers.rest_request import TIMEOUT_S, Error, RestRequest
from gateway.config import CarrierAccount

API_URL = "https://api.telnyx.com/v2"
CALL_ENDED = "90018"
DIGIT_MS = 250
SHORTEST_CALL_S = 30  # `time_limit_secs` begins here
MACHINE_DETECTION = {"detect": "detect", "wait_for_end": "greeting_end"}


class TelnyxRest:
    """One account at Telnyx. `http`: shared, closed by its owner. Raises CredentialsMissing.

    Its webhooks: status_callback + "/status" for all events of Call Control, the machine's too.
    """

    name = "telnyx"
    repeats_safely = True  # `command_id`: Telnyx ignores other Dial commands with the same one
    cannot: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        if account.api_key is None:
            raise CredentialsMissing("calling telnyx's REST takes api_key")
        key = account.api_key.get_secret_value()
        self._connection_id = account.connection_id
        self._exchange = RestRequest(
            "Telnyx",
            base_of(account, API_URL),
            http,
            f"Bearer {key}",
            secrets=[key],
            read_error=_error,
            gone=(CALL_ENDED,),
            timeout_s=timeout_s,
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """The stream is a part of the request, so there is no document."""
        if self._connection_id is None:
            raise CarrierFailed("refused", "calling out through Telnyx takes the account's connection_id")
        body: dict[str, Any] = {
            "connection_id": self._connection_id,
            "to": request.to,
            "from": request.from_number,
            "stream_url": request.stream_url,
            "stream_track": "inbound_track",
            "stream_bidirectional_mode": "rtp",  # left out it is mp3, and the caller hears nothing (§3.3)
            "stream_bidirectional_codec": "PCMU",
            "stream_bidirectional_sampling_rate": 8000,
            "client_state": base64.b64encode(request.state.encode()).decode(),
            "command_id": _command("dial", request.session_id),
            "timeout_secs": request.ring_s,
            "time_limit_secs": max(request.limit_s, SHORTEST_CALL_S),
            "webhook_url": f"{request.status_callback}/status",
            "webhook_url_method": "POST",
        }
        if request.machine_detection is not None:
            body["answering_machine_detection"] = MACHINE_DETECTION[request.machine_detection]
        answer = await self._exchange.ask("POST", "/calls", body=body)
        data = answer.get("data")
        told = id_of(data.get("call_control_id")) if isinstance(data, dict) else None
        # A repeated command is ignored, as documented, without a word on what its answer holds.
        if told is None and not (isinstance(data, dict) and data.get("result") == "ok"):
            self._exchange.unreadable("the call's call_control_id")
        return DialedCall(told)

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        try:
            await self._command(call_id, "hangup", {})
        except CarrierFailed as failure:
            if failure.gone:
                return False
            raise
        return True

    async def transfer(
        self, call_id: str, to: str, *, document: str | None, document_url: str | None, caller_id: str | None
    ) -> None:
        """A number is called and bridged; a sip: address is told to the caller's side (SIP REFER)."""
        if to.lower().startswith(("sip:", "sips:")):
            await self._command(call_id, "refer", {"sip_address": to})
        else:
            sender = {} if caller_id is None else {"from": caller_id}
            await self._command(call_id, "transfer", {"to": to, **sender})

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        body = {"digits": checked_digits(digits), "duration_millis": DIGIT_MS}
        await self._command(call_id, "send_dtmf", body)

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Telnyx has no list to look in; dialling again is safe instead."""
        return None

    async def _command(self, call_id: str, action: str, body: Mapping[str, Any]) -> None:
        await self._exchange.ask("POST", f"/calls/{segment(call_id)}/actions/{action}", body=body)


def _command(action: str, session_id: str) -> str:
    """One id for one intention of one session, however often it is said."""
    return f"patchbay-{action}-{session_id}"


def _error(answer: Mapping[str, Any]) -> Error:
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return (first.get("code"), first.get("title")) if isinstance(first, dict) else (None, None)
