# SPDX-License-Identifier: BSD-2-Clause
"""Twilio for tests: its Call resource, its webhooks and its signatures (docs/reference/carriers.md §2.4,
§2.6, §9.1).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import web
from twilio.request_validator import RequestValidator

from tests.harness.agent import AgentPort
from tests.harness.rest_server import (
    FORM,
    Answered,
    Placed,
    RestServer,
    Route,
    Seen,
    form_body,
    login,
    placed,
    read_document,
)

ACCOUNT = "AC" + "0" * 31 + "1"
AUTH_TOKEN = "twilio-auth-token"
OVER = ("completed", "busy", "failed", "no-answer", "canceled")
EVENT_OF = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"} | dict.fromkeys(
    OVER, "completed"
)


@dataclass(slots=True)
class TwilioCall:
    """An outbound call. `resource`: as Twilio shows it. `updates`: forms, in order."""

    resource: dict[str, Any]
    form: Seen
    updates: list[Seen] = field(default_factory=list)
    sequence: int = 0

    @property
    def sid(self) -> str:
        return str(self.resource["sid"])


class TwilioServer(RestServer):
    """An account at Twilio. `calls`: outbound calls by sid, in order."""

    def __init__(
        self,
        port: AgentPort | None = None,
        *,
        via: str | None = None,
        account: str = ACCOUNT,
        auth_token: str = AUTH_TOKEN,
        user: str | None = None,
    ) -> None:
        super().__init__(port, via=via)
        self.account = account
        self.auth_token = auth_token
        self._login = (account if user is None else user, auth_token)
        self.calls: dict[str, TwilioCall] = {}

    @property
    def api_url(self) -> str:
        return f"{self.root}/2010-04-01"

    def routes(self) -> Sequence[Route]:
        calls = "/2010-04-01/Accounts/{account}/Calls"
        return [
            ("POST", f"{calls}.json", "dial", self._create),
            ("GET", f"{calls}.json", "list", self._list),
            ("GET", calls + "/{sid}.json", "fetch", self._fetch),
            ("POST", calls + "/{sid}.json", "update", self._update),
        ]

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        code = 20000 + status if code is None else code
        body = {
            "code": code,
            "message": text or f"Error {code}",
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        }
        return web.json_response(body, status=status, headers=headers)

    def unauthorized(self, request: web.Request) -> web.Response | None:
        if login(request) != self._login:
            return self.error(401, 20003, "Authenticate")
        return None if request.match_info.get("account") == self.account else self._missing(request)

    def _missing(self, request: web.Request) -> web.Response:
        return self.error(404, 20404, f"The requested resource {request.path} was not found")

    def _create(self, request: web.Request, seen: Seen) -> web.Response:
        to, sender = seen.one("To"), seen.one("From")
        if not to:
            return self.error(400, 21201, "No 'To' number is specified")
        if not sender:
            return self.error(400, 21213, "No 'From' number is specified")
        if not to.startswith(("+", "sip:", "client:")):
            return self.error(400, 21211, f"The phone number you are attempting to call, {to}, is not valid.")
        if not seen.one("Url") and not seen.one("Twiml"):
            return self.error(400, 21205, "Url parameter is required.")
        if len(seen.one("Twiml") or "") > 4000:
            return self.error(400, 20001, "Twiml is longer than 4000 characters")
        if set(seen.all("StatusCallbackEvent")) - {"initiated", "ringing", "answered", "completed"}:
            return self.error(400, 21626, "Invalid StatusCallbackEvent")
        if not 1 <= int(seen.one("Timeout") or 60) <= 600:
            return self.error(400, 20001, "Timeout is out of range")
        call = TwilioCall(self._resource(to, sender), seen)
        self.calls[call.sid] = call
        return web.json_response(call.resource, status=201)

    def _resource(self, to: str, sender: str) -> dict[str, Any]:
        sid = f"CA{uuid.uuid4().hex}"
        now = format_datetime(datetime.now(UTC))
        uri = f"/2010-04-01/Accounts/{self.account}/Calls/{sid}"
        empty = (
            "annotation answered_by caller_name duration end_time forwarded_from group_sid parent_call_sid "
            "phone_number_sid price start_time trunk_sid"
        )
        return {
            **dict.fromkeys(empty.split()),
            "sid": sid,
            "account_sid": self.account,
            "api_version": "2010-04-01",
            "to": to,
            "to_formatted": to,
            "from": sender,
            "from_formatted": sender,
            "status": "queued",
            "direction": "outbound-api",
            "date_created": now,
            "date_updated": now,
            "price_unit": "USD",
            "queue_time": "0",
            "uri": f"{uri}.json",
            "subresource_uris": {"streams": f"{uri}/Streams.json"},
        }

    def _list(self, request: web.Request, seen: Seen) -> web.Response:
        filters = {"To": "to", "From": "from", "Status": "status"}
        found = [
            call.resource
            for call in reversed(self.calls.values())
            if all(
                call.resource[key] == seen.query[name] for name, key in filters.items() if name in seen.query
            )
        ]
        size = int(seen.query.get("PageSize", 50))
        page = found[:size]
        uri = f"/2010-04-01/Accounts/{self.account}/Calls.json?PageSize={size}&Page=0"
        body = {
            "calls": page,
            "page": 0,
            "page_size": size,
            "start": 0,
            "end": max(len(page) - 1, 0),
            "uri": uri,
            "first_page_uri": uri,
            "next_page_uri": None,
            "previous_page_uri": None,
        }
        return web.json_response(body)

    def _fetch(self, request: web.Request, seen: Seen) -> web.Response:
        call = self.calls.get(request.match_info["sid"])
        return self._missing(request) if call is None else web.json_response(call.resource)

    def _update(self, request: web.Request, seen: Seen) -> web.Response:
        call = self.calls.get(request.match_info["sid"])
        if call is None:
            return self._missing(request)
        call.updates.append(seen)
        status, now = seen.one("Status"), call.resource["status"]
        if seen.one("Twiml") or seen.one("Url"):
            if now != "in-progress":
                return self.error(400, 21220, "Call is not in-progress. Cannot redirect.")
        elif now in OVER:
            return self._missing(request)
        elif status == "canceled":
            call.resource["status"] = now if now == "in-progress" else "canceled"
        elif status == "completed":
            call.resource["status"] = "completed"
        else:
            return self.error(400, 20001, "Status must be canceled or completed")
        return web.json_response(call.resource)

    # As the carrier

    def sign(self, url: str, fields: dict[str, str] | None = None) -> dict[str, str]:
        signature = RequestValidator(self.auth_token).compute_signature(url, fields or {})
        return {"X-Twilio-Signature": signature}

    def upgrade_headers(self, url: str) -> dict[str, str]:
        """Return the headers of an upgrade to a stream's wss URL."""
        return self.sign(url)

    async def post(self, url: str, fields: dict[str, str], *, signed: bool = True) -> Answered:
        headers = {"Content-Type": FORM, "User-Agent": "TwilioProxy/1.1"}
        headers |= self.sign(url, fields) if signed else {}
        return await self.send("POST", url, headers, form_body(fields))

    async def get(self, url: str, *, signed: bool = True) -> Answered:
        headers = {"User-Agent": "TwilioProxy/1.1", **(self.sign(url) if signed else {})}
        return await self.send("GET", url, headers)

    def fields(self, call: TwilioCall, **more: str) -> dict[str, str]:
        """Return the fields of every webhook of an outbound call."""
        resource = call.resource
        return {
            "CallSid": call.sid,
            "AccountSid": self.account,
            "From": resource["from"],
            "To": resource["to"],
            "Caller": resource["from"],
            "Called": resource["to"],
            "CallStatus": resource["status"],
            "ApiVersion": "2010-04-01",
            "Direction": "outbound-api",
            **more,
        }

    async def progress(
        self, call: TwilioCall, status: str, *, signed: bool = True, **more: str
    ) -> Answered | None:
        """Move the call to a status, and report it if the call's request asked for it."""
        call.resource["status"] = status
        url = call.form.one("StatusCallback")
        if url is None or EVENT_OF[status] not in (call.form.all("StatusCallbackEvent") or ["completed"]):
            return None
        fields = self.fields(
            call,
            CallbackSource="call-progress-events",
            SequenceNumber=str(call.sequence),
            Timestamp=format_datetime(datetime.now(UTC)),
            **({"CallDuration": "5", "Duration": "1"} if status == "completed" else {}),
            **more,
        )
        call.sequence += 1
        return await self.post(url, fields, signed=signed)

    async def machine(self, call: TwilioCall, answered_by: str = "machine_start") -> Answered:
        """Report who answered, while the document is executed."""
        url = call.form.one("AsyncAmdStatusCallback")
        assert url is not None
        fields = {"CallSid": call.sid, "AccountSid": self.account, "AnsweredBy": answered_by}
        return await self.post(url, {**fields, "MachineDetectionDuration": "2140"})

    async def answer(self, call: TwilioCall) -> Placed:
        """Answer the call as the called party; Twilio reads its document, or fetches it."""
        call.resource["status"] = "in-progress"
        fields = self.fields(call)
        if text := call.form.one("Twiml"):
            return Placed(call.sid, Answered(200, "text/xml", text, {}), read_document(text), fields)
        return await self._ask(call.form.one("Url") or "", fields)

    async def place_call(
        self,
        url: str,
        *,
        to: str = "+14155550199",
        sender: str = "+14155550100",
        signed: bool = True,
        **more: str,
    ) -> Placed:
        """Place an inbound call to a number with this voice webhook."""
        fields = {
            "CallSid": f"CA{uuid.uuid4().hex}",
            "AccountSid": self.account,
            "From": sender,
            "To": to,
            "CallStatus": "ringing",
            "ApiVersion": "2010-04-01",
            "Direction": "inbound",
            "FromCountry": "US",
            "ToCountry": "US",
            **more,
        }
        return await self._ask(url, fields, signed=signed)

    async def _ask(self, url: str, fields: dict[str, str], *, signed: bool = True) -> Placed:
        answered = await self.post(url, fields, signed=signed)
        return placed(fields["CallSid"], answered, fields)

    def made_at(self, call: TwilioCall, seconds_ago: float) -> None:
        """Make the call older."""
        at = datetime.fromtimestamp(time.time() - seconds_ago, UTC)
        call.resource["date_created"] = format_datetime(at)
