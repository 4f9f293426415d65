# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx for tests: Call Control, webhooks, TeXML, and signatures (docs/reference/carriers.md §3.4, §3.5,
§9.2).
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from aiohttp import ClientConnectionError, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.harness.agent import AgentPort
from tests.harness.rest_server import FORM, Answered, Placed, RestServer, Route, Seen, form_body, placed

API_KEY = "KEY0123456789ABCDEF_telnyx"
CONNECTION = "1234567890123456789"
USER = "3E6F995F-0000-4000-8000-000000000001"
MOST_ATTEMPTS = 3  # to tell of an event (docs/reference/carriers.md §3.4)
ACTIONS = {
    "hangup",
    "transfer",
    "refer",
    "send_dtmf",
    "answer",
    "streaming_start",
    "streaming_stop",
    "gather_using_speak",
    "bridge",
}
NEED_ANSWER = ("transfer", "refer", "send_dtmf", "gather_using_speak", "bridge")
DIGITS = re.compile(r"[0-9A-D*#wW]+")
TITLES = {
    "10004": "Missing required parameter",
    "10009": "Authentication failed",
    "10011": "Too many requests",
    "10015": "Invalid value for connection_id (Call Control App ID)",
    "10016": "Phone number must be in +E164 format",
    "90015": "Invalid Call Control ID",
    "90018": "Call has already ended",
    "90034": "Call not answered yet",
}


@dataclass(slots=True)
class TelnyxCall:
    """An outbound call. `body`: its request. `commands`: names and bodies, in order."""

    id: str
    body: dict[str, Any]
    leg_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "bridging"  # then "answered", "ended"
    commands: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class TelnyxServer(RestServer):
    """An account at Telnyx with its own signing key. `calls`: outbound calls by call_control_id."""

    def __init__(
        self,
        port: AgentPort | None = None,
        *,
        via: str | None = None,
        api_key: str = API_KEY,
        connection_id: str = CONNECTION,
    ) -> None:
        super().__init__(port, via=via)
        self._api_key = api_key
        self.connection_id = connection_id
        self._key = Ed25519PrivateKey.generate()
        self.calls: dict[str, TelnyxCall] = {}
        self._by_command: dict[str, TelnyxCall] = {}

    @property
    def api_url(self) -> str:
        return f"{self.root}/v2"

    @property
    def public_key(self) -> str:
        """The public key as the portal shows it."""
        return base64.b64encode(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def routes(self) -> Sequence[Route]:
        return [
            ("POST", "/v2/calls", "dial", self._dial),
            ("POST", "/v2/calls/{id}/actions/{action}", "command", self._command),
        ]

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        told = "10007" if code is None else str(code)
        title = text or TITLES.get(told, "Unexpected error")
        body = {"errors": [{"code": told, "title": title, "detail": f"{title}.", "meta": {}}]}
        return web.json_response(body, status=status, headers=headers)

    def unauthorized(self, request: web.Request) -> web.Response | None:
        wanted = f"Bearer {self._api_key}"
        return None if request.headers.get("Authorization") == wanted else self.error(401, 10009)

    def _dial(self, request: web.Request, seen: Seen) -> web.Response:
        body = seen.body
        if not isinstance(body, dict) or not all(body.get(name) for name in ("connection_id", "to", "from")):
            return self.error(422, 10004)
        if body["connection_id"] != self.connection_id:
            return self.error(422, 10015)
        if not body["to"].startswith(("+", "sip:")):
            return self.error(422, 10016)
        if (
            not 5 <= body.get("timeout_secs", 30) <= 600
            or not 30 <= body.get("time_limit_secs", 14400) <= 14400
        ):
            return self.error(422, 10015, "Invalid value for a time")
        if "client_state" in body:
            base64.b64decode(body["client_state"], validate=True)
        command = body.get("command_id")
        call = self._by_command.get(command) if command else None
        if call is None:
            call = TelnyxCall(f"v3:{base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip('=')}", body)
            self.calls[call.id] = call
            if command:
                self._by_command[command] = call
        data = {
            "call_control_id": call.id,
            "call_leg_id": call.leg_id,
            "call_session_id": call.session_id,
            "is_alive": False,
            "record_type": "call",
        }
        return web.json_response({"data": data})

    def _command(self, request: web.Request, seen: Seen) -> web.Response:
        call, action = self.calls.get(request.match_info["id"]), request.match_info["action"]
        body = seen.body if isinstance(seen.body, dict) else {}
        if action not in ACTIONS:
            return self.error(404, 10005, "Resource not found")
        if call is None:
            return self.error(422, 90015)
        call.commands.append((action, body))
        if call.state == "ended":
            return self.error(422, 90018)
        if action in NEED_ANSWER and call.state != "answered":
            return self.error(422, 90034)
        needed = {
            "transfer": "to",
            "refer": "sip_address",
            "send_dtmf": "digits",
            "gather_using_speak": "payload",
            "bridge": "call_control_id",
        }.get(action)
        if action == "bridge" and body.get("call_control_id") not in self.calls:
            return self.error(422, 90015)
        if needed is not None and not body.get(needed):
            return self.error(422, 10004)
        if action == "send_dtmf" and not DIGITS.fullmatch(body["digits"]):
            return self.error(422, 10015, "Invalid digits")
        if action == "send_dtmf" and not 100 <= body.get("duration_millis", 250) <= 500:
            return self.error(422, 10015, "Invalid duration")
        if action == "hangup":
            call.state = "ended"
        return web.json_response({"data": {"result": "ok"}})

    # As the carrier

    def sign(self, body: bytes, *, at: float | None = None) -> dict[str, str]:
        timestamp = str(int(time.time() if at is None else at))
        signature = self._key.sign(f"{timestamp}|".encode() + body)
        return {
            "telnyx-signature-ed25519": base64.b64encode(signature).decode(),
            "telnyx-timestamp": timestamp,
        }

    def upgrade_headers(self, url: str) -> dict[str, str]:
        """Return no headers: Telnyx signs no upgrade (§3.1)."""
        return {}

    async def event(
        self,
        call: TelnyxCall,
        event_type: str,
        *,
        event_id: str | None = None,
        signed: bool = True,
        **payload: Any,
    ) -> Answered:
        """Send a Call Control webhook, such as `call.answered`; the call's state follows it."""
        call.state = {"call.answered": "answered", "call.hangup": "ended"}.get(event_type, call.state)
        told = {
            "call_control_id": call.id,
            "connection_id": self.connection_id,
            "call_leg_id": call.leg_id,
            "call_session_id": call.session_id,
            "client_state": call.body.get("client_state"),
            "from": call.body["from"],
            "to": call.body["to"],
            "direction": "outgoing",
            **payload,
        }
        url = call.body["webhook_url"]
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        event = {
            "data": {
                "record_type": "event",
                "event_type": event_type,
                "id": event_id or str(uuid.uuid4()),
                "occurred_at": at,
                "payload": told,
            },
            "meta": {"attempt": 1, "delivered_to": url},
        }
        while True:
            try:
                return await self.post_json(url, event, signed=signed)
            except ClientConnectionError:  # by a worker that just dies, as `meta` foresees
                if event["meta"]["attempt"] == MOST_ATTEMPTS:
                    raise
                event["meta"]["attempt"] += 1

    async def post_json(self, url: str, event: Any, *, signed: bool = True) -> Answered:
        raw = json.dumps(event, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "telnyx-webhooks"}
        return await self.send("POST", url, headers | (self.sign(raw) if signed else {}), raw)

    async def post(self, url: str, fields: dict[str, str], *, signed: bool = True) -> Answered:
        """Send a TeXML callback, such as a stream's status."""
        raw = form_body(fields)
        headers = {"Content-Type": FORM, "User-Agent": "telnyx-webhooks"}
        return await self.send("POST", url, headers | (self.sign(raw) if signed else {}), raw)

    async def place_call(
        self,
        url: str,
        *,
        to: str = "+14155550199",
        sender: str = "+14155550100",
        method: str = "GET",
        signed: bool = True,
        **more: str,
    ) -> Placed:
        """Place an inbound call to a number whose TeXML application has this URL."""
        call_id = f"v3:{base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip('=')}"
        fields = {
            "AccountSid": USER,
            "CallSid": call_id,
            "CallSidLegacy": call_id,
            "CallerId": sender,
            "CallingPartyType": "pstn",
            "ConnectionId": self.connection_id,
            "From": sender,
            "To": to,
            "CallStatus": "ringing",
            **more,
        }
        if method == "POST":
            answered = await self.post(url, fields, signed=signed)
        else:
            joined = f"{url}{'&' if '?' in url else '?'}{urlencode(fields)}"
            headers = {"User-Agent": "telnyx-webhooks", **(self.sign(b"") if signed else {})}
            answered = await self.send("GET", joined, headers)
        return placed(call_id, answered, fields)
