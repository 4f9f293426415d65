# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's REST client, Call Control: dial, hang up, transfer, digits (docs/reference/carriers.md §3.5)."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import aiohttp

from gateway.carriers.rest_interface import (
    MAX_CALL_S,
    CarrierFailed,
    CredentialsMissing,
    DialedCall,
    DialRequest,
    base_url_of,
    check_digits,
    path_segment,
    read_id,
)
from gateway.carriers.rest_transport import (
    TIMEOUT_S,
    Error,
    RestAccess,
    RestApi,
    RestTimeouts,
    RestTransport,
)
from gateway.config import CarrierAccount

CALL_ENDED = "90018"
DIGIT_MS = 250
KEY_TIMEOUT_MS = 15_000
VOICE = "female"  # with language en-US, the default of `gather_using_speak`
MIN_CALL_S = 30  # the smallest `time_limit_secs`
MACHINE_DETECTION = {"detect": "detect", "wait_for_end": "greeting_end"}


def _read_error(answer: Mapping[str, Any]) -> Error:
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return (first.get("code"), first.get("title")) if isinstance(first, dict) else (None, None)


API = RestApi("Telnyx", "https://api.telnyx.com/v2", _read_error, frozenset({CALL_ENDED}))


def _stream_parameters(url: str) -> dict[str, Any]:
    """Return the parameters of a call whose stream is opened when it is answered."""
    return {
        "stream_url": url,
        "stream_track": "inbound_track",
        "stream_bidirectional_mode": "rtp",  # left out it is mp3, and the caller hears nothing (§3.3)
        "stream_bidirectional_codec": "PCMU",
        "stream_bidirectional_sampling_rate": 8000,
    }


class TelnyxRest:
    """The REST client of one account at Telnyx. Raises CredentialsMissing.

    `http`: shared, and closed by its owner. Telnyx calls status_callback + "/status" for all events of Call
    Control, including machine detection.
    """

    name = "telnyx"
    repeats_safely = True  # Telnyx ignores a second Dial command with the same `command_id`
    unsupported: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        if account.api_key is None:
            raise CredentialsMissing("calling telnyx's REST takes api_key")
        key = account.api_key.get_secret_value()
        self._connection_id = account.connection_id
        access = RestAccess(base_url_of(account, API.url), f"Bearer {key}", (key,))
        self._transport = RestTransport(API, access, http, RestTimeouts(total_s=timeout_s))

    async def dial(self, request: DialRequest) -> DialedCall:
        """Start an outbound call. The request names the stream, so there is no document."""
        if self._connection_id is None:
            raise CarrierFailed("refused", "calling out through Telnyx takes the account's connection_id")
        body: dict[str, Any] = {
            "connection_id": self._connection_id,
            "to": request.to,
            "from": request.from_number,
            **(_stream_parameters(request.stream_url) if request.stream_url else {}),
            "client_state": base64.b64encode(request.state.encode()).decode(),
            "command_id": f"patchbay-dial-{request.session_id}",
            "timeout_secs": request.ring_s,
            "time_limit_secs": max(request.limit_s, MIN_CALL_S),
            "webhook_url": f"{request.status_callback}/status",
            "webhook_url_method": "POST",
        }
        if request.machine_detection is not None:
            body["answering_machine_detection"] = MACHINE_DETECTION[request.machine_detection]
        answer = await self._transport.send("POST", "/calls", body=body)
        data = answer.get("data")
        call_id = read_id(data.get("call_control_id")) if isinstance(data, dict) else None
        # Telnyx ignores a repeated command. The documents do not say what its answer contains.
        if call_id is None and not (isinstance(data, dict) and data.get("result") == "ok"):
            self._transport.unreadable("the call's call_control_id")
        return DialedCall(call_id)

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """End a call. Return False if it was already over."""
        try:
            await self._command(call_id, "hangup", {})
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
        """Call a number and bridge it, or send the caller's side to a sip: address (SIP REFER)."""
        if to.lower().startswith(("sip:", "sips:")):
            await self._command(call_id, "refer", {"sip_address": to})
        else:
            body: dict[str, Any] = {"to": to}
            if caller_id is not None:
                body["from"] = caller_id
            if time_limit_s is not None:
                body["time_limit_secs"] = min(max(time_limit_s, MIN_CALL_S), MAX_CALL_S)
            await self._command(call_id, "transfer", body)

    async def announce(self, call_id: str, text: str) -> None:
        """Speak a text, and report one key, or that none was pressed: `call.gather.ended`.

        A repetition for the same call is ignored, because its `command_id` is the same.
        """
        body = {
            "payload": text,
            "voice": VOICE,
            "minimum_digits": 1,
            "maximum_digits": 1,
            "maximum_tries": 1,
            "timeout_millis": KEY_TIMEOUT_MS,
            "command_id": "patchbay-announce",
        }
        await self._command(call_id, "gather_using_speak", body)

    async def join(self, call_id: str, other_call_id: str) -> None:
        """Bridge two calls. Each is hung up when the other is over: `park_after_unbridge` is left out."""
        await self._command(call_id, "bridge", {"call_control_id": other_call_id})

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        """Play digits to the far end."""
        check_digits(digits)
        body = {"digits": digits, "duration_millis": DIGIT_MS}
        await self._command(call_id, "send_dtmf", body)

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Return None: Telnyx has no list of calls. Dialing again is safe instead (`repeats_safely`)."""
        return None

    async def _command(self, call_id: str, action: str, body: Mapping[str, Any]) -> None:
        await self._transport.send("POST", f"/calls/{path_segment(call_id)}/actions/{action}", body=body)
