# SPDX-License-Identifier: BSD-2-Clause
"""Calls by document: the carrier fetches it, then opens the stream that it names
(docs/reference/carriers.md §1).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.harness import rest_exotel, rest_plivo, rest_telnyx, rest_twilio
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Placed
from tests.harness.transcripts import opening_messages

CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
PUBLIC = "https://us-west.voice.example.com"
HOST = "us-west.voice.example.com"
STREAM_HOST = "voice.example.com"
"""The host of streams in documents for an agent of the server's own region."""
ACCOUNTS = {
    "twilio": rest_twilio.ACCOUNT,
    "telnyx": rest_telnyx.USER,
    "plivo": rest_plivo.AUTH_ID,
    "exotel": rest_exotel.ACCOUNT,
}
CALL_KEYS = {"twilio": "callSid", "telnyx": "call_control_id", "plivo": "callId", "exotel": "call_sid"}
ACCOUNT_KEYS = {"twilio": "accountSid", "telnyx": "user_id", "plivo": "accountId", "exotel": "account_sid"}
Server = Any


def servers(port: Callable[[], AgentPort]) -> dict[str, Server]:
    """Return the REST servers of the four carriers, not started. `port`: reserves a port."""
    return {
        "twilio": rest_twilio.TwilioServer(port()),
        "telnyx": rest_telnyx.TelnyxServer(port()),
        "plivo": rest_plivo.PlivoServer(port()),
        "exotel": rest_exotel.ExotelServer(port()),
    }


def accounts(carrier_servers: dict[str, Server]) -> list[dict[str, Any]]:
    """Return the organisation's accounts with the carriers, each with the secrets of its calls."""
    secrets = {
        "twilio": {"auth_tokens": [rest_twilio.AUTH_TOKEN]},
        "telnyx": {"public_keys": [carrier_servers["telnyx"].public_key]},
        "plivo": {"auth_tokens": [rest_plivo.AUTH_TOKEN]},
        "exotel": {"auth_id": rest_exotel.API_KEY, "auth_tokens": [rest_exotel.API_TOKEN]},
    }
    return [{"carrier": name, "account": ACCOUNTS[name], **secret} for name, secret in secrets.items()]


def opening_of_call(carrier: str, call_id: str, account: str | None = None, **parameters: str) -> list[str]:
    """Return a carrier's opening messages for one call."""
    messages = opening_messages(carrier, parameters)
    start = messages[-1]["start"]
    start[CALL_KEYS[carrier]] = call_id
    start[ACCOUNT_KEYS[carrier]] = account or ACCOUNTS[carrier]
    return [json.dumps(message) for message in messages]


def token_of(stream_url: str) -> str:
    """Return the token in a stream's URL."""
    parts = urlsplit(stream_url)
    return parse_qs(parts.query)["token"][0] if "token=" in parts.query else parts.path.rpartition("/")[2]


@dataclass
class DocumentCalls:
    """One carrier's calls to one gateway."""

    gateway: Gateway
    server: Server
    carrier: str

    def url(self, path: str | None = None, *, proven: bool = True) -> str:
        """Return the URL to enter at the carrier. Exotel's contains its credentials."""
        base = PUBLIC
        if self.carrier == "exotel" and proven:
            base = f"https://{rest_exotel.API_KEY}:{rest_exotel.API_TOKEN}@{HOST}"
        return f"{base}{path or f'/xml/{self.carrier}?agent=support&org=acme'}"

    async def place(self, path: str | None = None, *, proven: bool = True, **more: Any) -> Placed:
        """Begin a call: the carrier fetches its document."""
        if self.carrier != "exotel":
            more["signed"] = proven
        placed: Placed = await self.server.place_call(self.url(path, proven=proven), **more)
        return placed

    async def dial(
        self, url: str, *, proven: bool = True, headers: dict[str, str] | None = None, **how: Any
    ) -> Caller:
        """Open a stream's socket as the carrier does; Twilio drops the query. `how`: see caller.dial."""
        parts = urlsplit(url)
        target = parts.path
        if parts.query and self.carrier != "twilio":
            target += f"?{parts.query}"
        credentials = self.server.upgrade_headers(url) if proven else {}
        return await self.gateway.dial(target, host=parts.netloc, headers=headers or credentials, **how)

    async def stream(self, placed: Placed, agent: Agent, **parameters: str) -> tuple[Caller, AgentCall]:
        """Open the document's stream, send the opening, and wait until the agent has received it."""
        caller = await self.dial(placed.stream_url)
        assert caller.status == 101, caller.body
        return caller, await self.opened(caller, placed.call_id, agent, **parameters)

    async def opened(self, caller: Caller, call_id: str, agent: Agent, **parameters: str) -> AgentCall:
        """Send the opening on an open socket, and wait until the agent has received it."""
        sent = [caller.say(message) for message in opening_of_call(self.carrier, call_id, **parameters)]
        taken = await agent.call()
        await taken.opening(sent)
        return taken


@contextlib.asynccontextmanager
async def carrier_running(
    gateway: Gateway, carrier_servers: dict[str, Server], carrier: str
) -> AsyncIterator[DocumentCalls]:
    """Run a carrier's REST server; give its calls to this gateway."""
    line = DocumentCalls(gateway, carrier_servers[carrier], carrier)
    line.server.via = f"http://127.0.0.1:{gateway.port}"
    await line.server.start()
    try:
        yield line
    finally:
        await gateway.callers_leave()
        await line.server.stop()
