# SPDX-License-Identifier: BSD-2-Clause
"""Called parties behind the carriers' REST servers: they ring, answer or not, and talk on a stream.

One class serves all four carriers, so that a test of outbound calls is written once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from gateway.simulator.waiting import eventually
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.rest_accounts import SERVERS
from tests.harness.rest_exotel import ExotelServer
from tests.harness.rest_plivo import PlivoServer
from tests.harness.rest_server import RestServer
from tests.harness.rest_telnyx import TelnyxServer
from tests.harness.rest_twilio import TwilioServer
from tests.harness.transcripts import opening_messages

CALL_IDS = {"twilio": "callSid", "telnyx": "call_control_id", "plivo": "callId", "exotel": "call_sid"}
ACCOUNTS = {"twilio": "accountSid", "exotel": "account_sid"}
TELNYX_CAUSES = {
    "busy": "user_busy",
    "no-answer": "timeout",
    "failed": "call_rejected",
    "completed": "normal_clearing",
}


class Callee:
    """The called party of one outbound call."""

    def __init__(self, carrier: str, server: Any, call: Any) -> None:
        self.carrier = carrier
        self.server = server
        self.call = call

    @property
    def call_id(self) -> str:
        """The carrier's id of the call."""
        names = {"twilio": "sid", "telnyx": "id", "plivo": "uuid", "exotel": "sid"}
        return str(getattr(self.call, names[self.carrier]))

    @property
    def hung_up(self) -> bool:
        """Whether the carrier has ended the call on request of the gateway."""
        match self.server:
            case TwilioServer():
                return self.call.resource["status"] in ("canceled", "completed")
            case TelnyxServer():
                return bool(self.call.state == "ended")
            case _:
                return bool(self.call.state == "over")

    async def rings(self) -> None:
        """Report to the gateway that it rings."""
        match self.server:
            case TwilioServer():
                response = await self.server.progress(self.call, "ringing")
            case TelnyxServer():
                response = await self.server.event(self.call, "call.initiated")
            case PlivoServer():
                response = await self.server.ring(self.call)
            case ExotelServer():
                response = await self.server.callback(self.call, "ringing", "in-progress")
        assert response is not None
        assert response.status == 200, response.text

    async def answered(self) -> str:
        """Answer the call and report it to the gateway; return the URL of the stream."""
        match self.server:
            case TwilioServer():
                placed = await self.server.answer(self.call)
                response = await self.server.progress(self.call, "in-progress")
                url = placed.stream_url
            case TelnyxServer():
                response = await self.server.event(self.call, "call.answered")
                url = self.call.body["stream_url"]
            case PlivoServer():
                placed = await self.server.answer(self.call)
                response, url = placed.answered, placed.stream_url
            case ExotelServer():
                response = await self.server.callback(self.call, "answered", "in-progress")
                url = self.call.stream_url
        assert response is not None
        assert response.status == 200, response.text
        return str(url)

    async def over(self, status: str = "completed") -> None:
        """Report to the gateway how the call ended: completed, busy, no-answer or failed."""
        match self.server:
            case TwilioServer():
                response = await self.server.progress(self.call, status)
            case TelnyxServer():
                cause = TELNYX_CAUSES[status]
                response = await self.server.event(self.call, "call.hangup", hangup_cause=cause)
            case PlivoServer():
                response = await self.server.hung_up(self.call, status)
            case ExotelServer():
                response = await self.server.callback(self.call, "terminal", status)
        assert response is not None
        assert response.status == 200, response.text

    async def opens(
        self, gateway: Gateway, url: str, *, call_id: str | None = None
    ) -> tuple[Caller, list[bytes]]:
        """Open the stream at the URL; return its socket, and the frames that were sent there."""
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        headers = self.server.upgrade_headers(url)
        caller = await gateway.dial(target, host=parts.netloc, headers=headers)
        sent = []
        if caller.status == 101:
            sent = [caller.say(message) for message in self.opening(call_id or self.call_id)]
        return caller, sent

    def opening(self, call_id: str) -> list[str]:
        """Return the opening of the call's stream."""
        messages = opening_messages(self.carrier)
        start = messages[-1]["start"]
        start[CALL_IDS[self.carrier]] = call_id
        if self.carrier in ACCOUNTS:
            start[ACCOUNTS[self.carrier]] = self.server.account
        return [json.dumps(message) for message in messages]


async def next_callee(carrier: str, server: RestServer, before: int = 0) -> Callee:
    """Wait for the next outbound call; return its called party. `before`: calls so far."""
    calls: Any = server.calls  # type: ignore[attr-defined]
    await eventually(lambda: len(calls) > before, "the carrier is asked for a call")
    return Callee(carrier, server, list(calls.values())[before])


def server_of(carrier: str, port: Any, via: str) -> Any:
    """Return a carrier's REST server on a port. `via`: the gateway that it calls back."""
    return SERVERS[carrier](port, via=via)


async def all_started(servers: dict[str, Any]) -> None:
    """Start several servers at once."""
    await asyncio.gather(*(server.start() for server in servers.values()))
