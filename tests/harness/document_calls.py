# SPDX-License-Identifier: BSD-2-Clause
"""A carrier that asks for its document first, and then opens the stream that it was told
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
"""What documents name for an agent of the server's own region."""
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
    """The four carriers, not started yet. `port`: makes one that is freed in time."""
    return {
        "twilio": rest_twilio.TwilioServer(port()),
        "telnyx": rest_telnyx.TelnyxServer(port()),
        "plivo": rest_plivo.PlivoServer(port()),
        "exotel": rest_exotel.ExotelServer(port()),
    }


def accounts(carrier_servers: dict[str, Server]) -> list[dict[str, Any]]:
    """The organisation's accounts with them, each with what proves its calls."""
    secrets = {
        "twilio": {"auth_tokens": [rest_twilio.AUTH_TOKEN]},
        "telnyx": {"public_keys": [carrier_servers["telnyx"].public_key]},
        "plivo": {"auth_tokens": [rest_plivo.AUTH_TOKEN]},
        "exotel": {"auth_id": rest_exotel.API_KEY, "auth_tokens": [rest_exotel.API_TOKEN]},
    }
    return [{"carrier": name, "account": ACCOUNTS[name], **secret} for name, secret in secrets.items()]


def opening_of_call(carrier: str, call_id: str, account: str | None = None, **parameters: str) -> list[str]:
    """A carrier's opening for one call."""
    messages = opening_messages(carrier, parameters)
    start = messages[-1]["start"]
    start[CALL_KEYS[carrier]] = call_id
    start[ACCOUNT_KEYS[carrier]] = account or ACCOUNTS[carrier]
    return [json.dumps(message) for message in messages]


def token_of(stream_url: str) -> str:
    """The token that a stream's URL carries."""
    parts = urlsplit(stream_url)
    return parse_qs(parts.query)["token"][0] if "token=" in parts.query else parts.path.rpartition("/")[2]


@dataclass
class DocumentCalls:
    """One carrier's calls to one gateway."""

    gateway: Gateway
    server: Server
    carrier: str

    def url(self, path: str | None = None, *, proven: bool = True) -> str:
        """The console's URL. Exotel's has the credentials in it, which are all that it can show."""
        base = PUBLIC
        if self.carrier == "exotel" and proven:
            base = f"https://{rest_exotel.API_KEY}:{rest_exotel.API_TOKEN}@{HOST}"
        return f"{base}{path or f'/xml/{self.carrier}?agent=support&org=acme'}"

    async def place(self, path: str | None = None, *, proven: bool = True, **more: Any) -> Placed:
        """A call comes in, and its document is asked for."""
        if self.carrier != "exotel":
            more["signed"] = proven
        placed: Placed = await self.server.place_call(self.url(path, proven=proven), **more)
        return placed

    async def dial(
        self, url: str, *, proven: bool = True, headers: dict[str, str] | None = None, **how: Any
    ) -> Caller:
        """Opens a stream's socket as the carrier does; Twilio loses the query. `how`: see caller.dial."""
        parts = urlsplit(url)
        target = parts.path
        if parts.query and self.carrier != "twilio":
            target += f"?{parts.query}"
        shown = self.server.upgrade_headers(url) if proven else {}
        return await self.gateway.dial(target, host=parts.netloc, headers=headers or shown, **how)

    async def stream(self, placed: Placed, agent: Agent, **parameters: str) -> tuple[Caller, AgentCall]:
        """Opens the document's stream and says the opening, until the agent has heard it."""
        caller = await self.dial(placed.stream_url)
        assert caller.status == 101, caller.body
        return caller, await self.opened(caller, placed.call_id, agent, **parameters)

    async def opened(self, caller: Caller, call_id: str, agent: Agent, **parameters: str) -> AgentCall:
        sent = [caller.say(message) for message in opening_of_call(self.carrier, call_id, **parameters)]
        taken = await agent.call()
        await taken.opening(sent)
        return taken


@contextlib.asynccontextmanager
async def carrier_running(
    gateway: Gateway, carrier_servers: dict[str, Server], carrier: str
) -> AsyncIterator[DocumentCalls]:
    """A carrier's calls to this gateway; its server runs meanwhile."""
    line = DocumentCalls(gateway, carrier_servers[carrier], carrier)
    line.server.via = f"http://127.0.0.1:{gateway.port}"
    await line.server.start()
    try:
        yield line
    finally:
        await gateway.callers_leave()
        await line.server.stop()
