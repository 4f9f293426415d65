# SPDX-License-Identifier: BSD-2-Clause
"""Plivo for tests: its calls, its webhooks and its signatures (docs/reference/carriers.md §4.4, §4.5,
§9.3).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3

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
)

AUTH_ID = "MAXXXXXXXXXXXXXXXXXX"
AUTH_TOKEN = "plivo-auth-token"


@dataclass(slots=True)
class PlivoCall:
    """An outbound call. `uuid`: CallUUID. `state`: queued, ringing, in-progress or over."""

    uuid: str
    request_uuid: str
    body: dict[str, Any]
    state: str = "ringing"
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    transfers: list[dict[str, Any]] = field(default_factory=list)
    digits: list[dict[str, Any]] = field(default_factory=list)


class PlivoServer(RestServer):
    """An account at Plivo. `calls`: outbound calls by CallUUID. `queueing`: whether new calls are queued.

    `own_request_ids`: a request's id is not its call's, as documented; else they are one, as observed.
    """

    def __init__(
        self,
        port: AgentPort | None = None,
        *,
        via: str | None = None,
        auth_id: str = AUTH_ID,
        auth_token: str = AUTH_TOKEN,
    ) -> None:
        super().__init__(port, via=via)
        self.auth_id = auth_id
        self.auth_token = auth_token
        self.queueing = False
        self.own_request_ids = False
        self.calls: dict[str, PlivoCall] = {}

    @property
    def api_url(self) -> str:
        return f"{self.root}/v1"

    def routes(self) -> Sequence[Route]:
        account = "/v1/Account/{account}"
        return [
            ("POST", f"{account}/Call/", "dial", self._dial),
            ("GET", f"{account}/Call/", "list", self._list),
            ("GET", account + "/Call/{uuid}/", "fetch", self._fetch),
            ("DELETE", account + "/Call/{uuid}/", "hangup", self._hang_up),
            ("DELETE", account + "/Request/{uuid}/", "cancel", self._cancel),
            ("POST", account + "/Call/{uuid}/", "transfer", self._transfer),
            ("POST", account + "/Call/{uuid}/DTMF/", "dtmf", self._dtmf),
        ]

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        body = {"api_id": str(uuid.uuid4()), "error": text or "the request failed"}
        return web.json_response(body, status=status, headers=headers)

    def unauthorized(self, request: web.Request) -> web.Response | None:
        mine = request.match_info.get("account") == self.auth_id
        right = login(request) == (self.auth_id, self.auth_token) and mine
        return None if right else self.error(401, None, "authentication failed")

    def _dial(self, request: web.Request, seen: Seen) -> web.Response:
        body = seen.body
        for name in ("from", "to", "answer_url"):
            if not isinstance(body, dict) or not body.get(name):
                return self.error(400, None, f"{name} parameter not present")
        if not body["to"].lstrip("+").isdigit() and not body["to"].startswith("sip:"):
            return self.error(400, None, f"{body['to']} is not a valid phone number")
        call_id = str(uuid.uuid4())
        request_id = str(uuid.uuid4()) if self.own_request_ids else call_id
        call = PlivoCall(call_id, request_id, body, "queued" if self.queueing else "ringing")
        self.calls[call_id] = call
        answer = {"api_id": str(uuid.uuid4()), "message": "call fired", "request_uuid": request_id}
        return web.json_response(answer, status=201)

    def _live(self, request: web.Request) -> PlivoCall | None:
        call = self.calls.get(request.match_info["uuid"])
        return call if call is not None and call.state in ("ringing", "in-progress") else None

    def _list(self, request: web.Request, seen: Seen) -> web.Response:
        status = seen.query.get("status")
        states = {"queued": ("queued",), "live": ("ringing", "in-progress")}.get(status or "", ())
        filters = {"from_number": "from", "to_number": "to"}
        found = [
            call.uuid
            for call in self.calls.values()
            if call.state in states
            and all(
                _bare(call.body[key]) == seen.query[name]
                for name, key in filters.items()
                if name in seen.query
            )
        ]
        return web.json_response({"api_id": str(uuid.uuid4()), "calls": found[: int(seen.query["limit"])]})

    def _fetch(self, request: web.Request, seen: Seen) -> web.Response:
        call = self.calls.get(request.match_info["uuid"])
        queued = seen.query.get("status") == "queued"
        if call is None or call.state == "over" or queued != (call.state == "queued"):
            return self.error(404, None, "call not found")
        body = {
            "api_id": str(uuid.uuid4()),
            "call_uuid": call.uuid,
            "call_status": call.state,
            "direction": "outbound",
            "from": _bare(call.body["from"]),
            "to": _bare(call.body["to"]),
            "caller_name": "",
        }
        began = {} if queued else {"session_start": call.began.strftime("%Y-%m-%d %H:%M:%S.%f")}
        return web.json_response(body | began)

    def _hang_up(self, request: web.Request, seen: Seen) -> web.Response:
        call = self._live(request)
        if call is None:
            return self.error(404, None, "call not found")
        call.state = "over"
        return web.Response(status=204)

    def _cancel(self, request: web.Request, seen: Seen) -> web.Response:
        wanted = request.match_info["uuid"]
        call = next((one for one in self.calls.values() if one.request_uuid == wanted), None)
        if call is None or call.state != "queued":
            return self.error(404, None, "request not found")
        call.state = "over"
        return web.Response(status=204)

    def _transfer(self, request: web.Request, seen: Seen) -> web.Response:
        call = self._live(request)
        if call is None:
            return self.error(404, None, "call not found")
        if seen.body.get("legs", "aleg") != "aleg" or not seen.body.get("aleg_url"):
            return self.error(400, None, "aleg_url parameter not present")
        call.transfers.append(seen.body)
        answer = {"api_id": str(uuid.uuid4()), "call_uuids": [call.uuid], "message": "transfer executed"}
        return web.json_response(answer, status=202)

    def _dtmf(self, request: web.Request, seen: Seen) -> web.Response:
        call = self._live(request)
        if call is None:
            return self.error(404, None, "call not found")
        if not seen.body.get("digits") or seen.body.get("leg", "aleg") not in ("aleg", "bleg", "both"):
            return self.error(400, None, "digits parameter not present")
        call.digits.append(seen.body)
        return web.json_response({"api_id": str(uuid.uuid4()), "message": "digits sent"}, status=202)

    # As the carrier

    def sign(self, method: str, url: str, fields: dict[str, str] | None = None) -> dict[str, str]:
        """Sign with Plivo's own package, which adds to URLs without a query (§9.3)."""
        once = nonce()
        if method == "POST":
            base = construct_post_url(url, dict(fields or {}))
        else:
            base = construct_get_url(url, dict(fields or {}))
        signature = get_signature_v3(self.auth_token.encode(), base.decode(), once).decode()
        return _headers(signature, once)

    def upgrade_headers(self, url: str) -> dict[str, str]:
        """Return the headers of an upgrade to a stream's wss URL, signed by the rule for GET (§4.1)."""
        once = nonce()
        base, _, query = url.partition("?")
        if query:
            decoded = construct_get_url(url.replace("wss://", "https://", 1), {}).decode()
            base = decoded.replace("https://", "wss://", 1) if url.startswith("wss://") else decoded
        digest = hmac.new(self.auth_token.encode(), f"{base}.{once}".encode(), hashlib.sha256).digest()
        return _headers(base64.b64encode(digest).decode(), once)

    async def post(self, url: str, fields: dict[str, str], *, signed: bool = True) -> Answered:
        headers = {"Content-Type": FORM} | (self.sign("POST", url, fields) if signed else {})
        return await self.send("POST", url, headers, form_body(fields))

    async def get(self, url: str, *, signed: bool = True) -> Answered:
        return await self.send("GET", url, self.sign("GET", url) if signed else {})

    def fields(self, call: PlivoCall, event: str, status: str, **more: str) -> dict[str, str]:
        """Return the fields of every webhook of an outbound call; numbers have no +."""
        return {
            "CallUUID": call.uuid,
            "RequestUUID": call.request_uuid,
            "ALegUUID": call.uuid,
            "ALegRequestUUID": call.request_uuid,
            "From": _bare(call.body["from"]),
            "To": _bare(call.body["to"]),
            "Direction": "outbound",
            "Event": event,
            "CallStatus": status,
            **more,
        }

    async def ring(self, call: PlivoCall, *, signed: bool = True) -> Answered:
        call.state = "ringing"
        return await self.post(call.body["ring_url"], self.fields(call, "Ring", "ringing"), signed=signed)

    async def answer(self, call: PlivoCall) -> Placed:
        """Answer the call as the called party; Plivo fetches the document."""
        call.state = "in-progress"
        return await self._ask(call.body["answer_url"], self.fields(call, "StartApp", "in-progress"))

    async def transferred(self, call: PlivoCall) -> Placed:
        """Fetch the document that the last transfer named."""
        return await self._ask(call.transfers[-1]["aleg_url"], self.fields(call, "Redirect", "in-progress"))

    async def machine(self, call: PlivoCall, *, machine: bool = True) -> Answered:
        fields = self.fields(call, "MachineDetection", "in-progress", Machine="true" if machine else "false")
        return await self.post(call.body["machine_detection_url"], fields)

    async def hung_up(
        self,
        call: PlivoCall,
        status: str = "completed",
        *,
        cause: str = "Normal Hangup",
        code: str = "4000",
        signed: bool = True,
    ) -> Answered:
        """Report the end. `status`: completed, busy, failed, timeout, no-answer, cancel. `code`: see §4.5."""
        call.state = "over"
        more = {"HangupCauseName": cause, "HangupCauseCode": code, "HangupSource": "Callee", "Duration": "5"}
        more |= {"HangupCause": "NORMAL_CLEARING", "BillDuration": "60", "TotalCost": "0.01"}
        fields = self.fields(call, "Hangup", status, **more)
        return await self.post(call.body["hangup_url"], fields, signed=signed)

    async def place_call(
        self,
        url: str,
        *,
        to: str = "14155550199",
        sender: str = "14155550100",
        signed: bool = True,
        **more: str,
    ) -> Placed:
        """Place an inbound call to a number whose application has this answer URL."""
        fields = {
            "CallUUID": str(uuid.uuid4()),
            "From": sender,
            "To": to,
            "Direction": "inbound",
            "Event": "StartApp",
            "CallStatus": "ringing",
            "BillRate": "0.0055",
            **more,
        }
        return await self._ask(url, fields, signed=signed)

    async def _ask(self, url: str, fields: dict[str, str], *, signed: bool = True) -> Placed:
        answered = await self.post(url, fields, signed=signed)
        return placed(fields["CallUUID"], answered, fields)


def nonce() -> str:
    return str(uuid.uuid4().int)[:20]


def _headers(signature: str, once: str) -> dict[str, str]:
    return {
        "X-Plivo-Signature-V3": signature,
        "X-Plivo-Signature-Ma-V3": signature,
        "X-Plivo-Signature-V3-Nonce": once,
    }


def _bare(number: str) -> str:
    return number.removeprefix("+")
