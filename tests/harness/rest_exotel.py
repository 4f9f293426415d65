# SPDX-License-Identifier: BSD-2-Clause
"""Exotel for tests: its connect call, its callbacks and its applet's question (docs/reference/carriers.md
§5.3, §5.4).
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from aiohttp import web

from tests.harness.agent import AgentPort
from tests.harness.rest_server import (
    FORM,
    Answered,
    Document,
    Placed,
    RestServer,
    Route,
    Seen,
    form_body,
    login,
)

ACCOUNT = "acme1"
API_KEY = "exotel-api-key"
API_TOKEN = "exotel-api-token"


@dataclass(slots=True)
class ExotelCall:
    """An outbound call. `form`: its request."""

    sid: str
    form: Seen
    status: str = "in-progress"

    @property
    def stream_url(self) -> str:
        return self.form.one("StreamUrl") or ""


class ExotelServer(RestServer):
    """An account at Exotel. `calls`: outbound calls by Sid. It signs nothing (§9.5)."""

    def __init__(
        self,
        port: AgentPort | None = None,
        *,
        via: str | None = None,
        account: str = ACCOUNT,
        api_key: str = API_KEY,
        api_token: str = API_TOKEN,
    ) -> None:
        super().__init__(port, via=via)
        self.account = account
        self._login = (api_key, api_token)
        self.calls: dict[str, ExotelCall] = {}

    @property
    def api_url(self) -> str:
        return f"{self.root}/v1"

    def routes(self) -> Sequence[Route]:
        return [("POST", "/v1/Accounts/{account}/Calls/connect.json", "dial", self._connect)]

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        told: dict[str, Any] = {"Status": status, "Message": text or "The request failed"}
        if code is not None:
            told["Code"] = code
        return web.json_response({"RestException": told}, status=status, headers=headers)

    def unauthorized(self, request: web.Request) -> web.Response | None:
        if login(request) != self._login:
            return self.error(401, "UNAUTHORIZED", "Authentication failed. Invalid API Key or Token.")
        if request.match_info.get("account") != self.account:
            return self.error(401, "INVALID_ACCOUNT_SID", "Account SID does not match credentials.")
        return None

    def _connect(self, request: web.Request, seen: Seen) -> web.Response:
        for name in ("From", "CallerId"):
            if not seen.one(name):
                return self.error(400, 34001, f"Mandatory Parameter missing {name}")
        url = seen.one("StreamUrl")
        if not url and not seen.one("Url"):
            return self.error(400, 34001, "Mandatory Parameter missing Url")
        if url and (len(url) > 600 or not url.startswith(("wss://", "ws://"))):
            return self.error(400, 34001, "Invalid Parameter StreamUrl")
        if len(seen.one("StreamName") or "") > 32 or len(seen.one("CustomField") or "") > 128:
            return self.error(400, 34001, "Invalid Parameter length")
        if set(seen.all("StatusCallbackEvents[]")) - {"answered", "terminal", "ringing"}:
            return self.error(400, 34001, "Invalid Parameter StatusCallbackEvents")
        call = ExotelCall(uuid.uuid4().hex, seen)
        self.calls[call.sid] = call
        now = _now()
        answer = {
            "Sid": call.sid,
            "ParentCallSid": None,
            "DateCreated": now,
            "DateUpdated": now,
            "AccountSid": self.account,
            "To": seen.one("CallerId"),
            "From": _national(seen.one("From") or ""),
            "PhoneNumberSid": seen.one("CallerId"),
            "Status": "in-progress",
            "StartTime": now,
            "EndTime": None,
            "Duration": None,
            "Price": None,
            "Direction": "outbound-api",
            "AnsweredBy": None,
            "ForwardedFrom": None,
            "CallerName": None,
            "Uri": f"/v1/Accounts/{self.account}/Calls/{call.sid}.json",
            "RecordingUrl": None,
        }
        return web.json_response({"Call": answer})

    # As the carrier

    def upgrade_headers(self, url: str) -> dict[str, str]:
        """Return Basic authentication if the stream's URL has user and password (§5.1)."""
        parts = urlsplit(url)
        if parts.username is None:
            return {}
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    async def callback(self, call: ExotelCall, event: str, status: str, **more: str) -> Answered | None:
        """Send a callback, if the call's request asked for it. `event`: ringing, answered or terminal."""
        call.status = status
        url = call.form.one("StatusCallback")
        if url is None or event not in (call.form.all("StatusCallbackEvents[]") or ["terminal"]):
            return None
        fields = {
            "CallSid": call.sid,
            "EventType": event,
            "Status": status,
            "DateCreated": _now(),
            "DateUpdated": _now(),
            "From": _national(call.form.one("From") or ""),
            "To": call.form.one("CallerId") or "",
            "PhoneNumberSid": call.form.one("CallerId") or "",
            "Direction": "outbound-api",
            **more,
        }
        if custom := call.form.one("CustomField"):
            fields["CustomField"] = custom
        return await self.post(url, fields)

    async def post(self, url: str, fields: dict[str, str]) -> Answered:
        return await self.send("POST", url, self._headers(url), form_body(fields))

    async def place_call(
        self,
        url: str,
        *,
        to: str = "08047491899",
        sender: str = "09876543210",
        method: str = "GET",
        **more: str,
    ) -> Placed:
        """Place an inbound call to an ExoPhone whose Voicebot applet has this https URL."""
        fields = {
            "CallSid": uuid.uuid4().hex,
            "CallFrom": sender,
            "CallTo": to,
            "Direction": "incoming",
            "CallType": "call-attempt",
            "Created": _now(),
            **more,
        }
        headers = self._headers(url) | {"Exotel-Version": "1.0"}
        if method == "POST":
            answered = await self.send("POST", url, headers, form_body(fields))
        else:
            joined = f"{url}{'&' if '?' in url else '?'}{urlencode(fields)}"
            del headers["Content-Type"]
            answered = await self.send("GET", joined, headers)
        document = None
        if answered.status == 200 and isinstance(answered.json.get("url"), str):
            document = Document(answered.text, stream_url=answered.json["url"])
        return Placed(fields["CallSid"], answered, document, fields)

    def _headers(self, url: str) -> dict[str, str]:
        return {"Content-Type": FORM, **self.upgrade_headers(url)}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _national(number: str) -> str:
    """Return a number as Exotel prints Indian ones (§5.2)."""
    return f"0{number.removeprefix('+91')}" if number.startswith("+91") else number
