# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's REST client: dial, which is the only documented request (docs/reference/carriers.md §5.4)."""

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

STREAM_URL_LIMIT = 600
STREAM_NAME_LIMIT = 32
CUSTOM_FIELD_LIMIT = 128
EVENTS = ("ringing", "answered", "terminal")


def _read_error(answer: Mapping[str, Any]) -> Error:
    error = answer.get("RestException")
    return (error.get("Code"), error.get("Message")) if isinstance(error, dict) else (None, None)


API = RestApi("Exotel", "https://api.exotel.com/v1", _read_error)


class ExotelRest:
    """The REST client of one account at Exotel. Raises CredentialsMissing.

    `http`: shared, and closed by its owner. Exotel calls status_callback + "/status" for all EVENTS, with the
    request's state as `CustomField`.
    """

    name = "exotel"
    repeats_safely = False
    unsupported: Mapping[str, str] = MappingProxyType(
        {
            "hangup": "Exotel documents no way to hang up a call: it ends when its stream does",
            "transfer": "Exotel transfers a call only by its flow, once the stream is over",
            "dtmf": "Exotel has no way to send digits",
            "machine_detection": "Exotel does not tell whether a machine answered",
            "sip": "Exotel calls numbers alone",
        }
    )

    def __init__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        login = login_of(account)
        self._userinfo = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"
        # Without .json Exotel answers in XML.
        self._connect = f"/Accounts/{path_segment(login.account_id)}/Calls/connect.json"
        self._transport = RestTransport(
            API, password_access(API, account, login), http, RestTimeouts(total_s=timeout_s)
        )

    async def dial(self, request: DialRequest) -> DialedCall:
        """Start an outbound call.

        In Exotel's words `From` is called, and `CallerId` is the ExoPhone it sees.
        """
        if request.to.lower().startswith(("sip:", "sips:")):
            check_supported(self.unsupported, "sip")
        if len(request.stream_url) > STREAM_URL_LIMIT:
            raise CarrierFailed(
                "refused", f"Exotel takes a stream URL of up to {STREAM_URL_LIMIT} characters"
            )
        if len(request.state) > CUSTOM_FIELD_LIMIT:
            raise CarrierFailed("refused", f"Exotel gives back up to {CUSTOM_FIELD_LIMIT} characters")
        if request.machine_detection is not None:
            check_supported(self.unsupported, "machine_detection")
        form = [
            ("From", request.to),
            ("CallerId", request.from_number),
            ("StreamUrl", request.stream_url),
            ("StreamType", "bidirectional"),
            ("StreamName", request.session_id[:STREAM_NAME_LIMIT]),
            ("TimeOut", str(request.ring_s)),
            ("TimeLimit", str(request.limit_s)),
            ("CustomField", request.state),
            ("StatusCallback", f"{self._with_userinfo(request.status_callback)}/status"),
            *(("StatusCallbackEvents[]", event) for event in EVENTS),
        ]
        answer = await self._transport.send("POST", self._connect, form=form)
        call = answer.get("Call")
        sid = read_id(call.get("Sid")) if isinstance(call, dict) else None
        return DialedCall(sid or self._transport.unreadable("the call's Sid"))

    def _with_userinfo(self, url: str) -> str:
        """Return the URL with the account's credentials: Exotel signs no callback, but sends these (§5.1,
        §9.5).
        """
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{self._userinfo}@{rest}"

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        """Raise CarrierFailed: Exotel has no such request."""
        raise CarrierFailed("refused", self.unsupported["hangup"])

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
        """Raise CarrierFailed: Exotel has no such request."""
        check_supported(self.unsupported, "transfer")

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        """Raise CarrierFailed: Exotel has no such request."""
        check_digits(digits)
        check_supported(self.unsupported, "dtmf")

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        """Return None: no documented list can be searched. The call's StatusCallback reports it."""
        return None
