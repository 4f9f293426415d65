# SPDX-License-Identifier: BSD-2-Clause
"""A sender of Twilio's dialect that signs its webhooks and no upgrade, beside an account at Twilio itself.

sipgate's bridge is one (docs/carriers/twilio.md): it opens the socket without any header, names no account in
`start`, and tells the numbers as SIP addresses.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.harness import rest_twilio
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_ended, assert_refused, hang_up
from tests.harness.caller import Caller
from tests.harness.document_calls import HOST, DocumentCalls, carrier_running, opening_of_call, token_of
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening_messages

BRIDGE_TOKEN = "the-bridges-token"
CALLER, CALLEE = "sip:+4915112345678@sipconnect.sipgate.de", "sip:e12345p0@sipconnect.sipgate.de"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    twilio = {"carrier": "twilio", "account": rest_twilio.ACCOUNT, "auth_tokens": [rest_twilio.AUTH_TOKEN]}
    bridge = {"carrier": "twilio", "account": "ACbridge", "auth_tokens": [BRIDGE_TOKEN]}
    return {
        "server": {"public_url": "https://voice.example.com"},
        "organizations": [{"name": "acme", "carriers": [twilio, bridge | {"signs_upgrades": False}]}],
    }


@pytest.fixture
async def bridge(gateway: Gateway, agent_port: Callable[[], AgentPort]) -> AsyncIterator[DocumentCalls]:
    """The sender whose upgrades nobody signs."""
    server = rest_twilio.TwilioServer(agent_port(), account="ACbridge", auth_token=BRIDGE_TOKEN)
    async with carrier_running(gateway, {"twilio": server}, "twilio") as line:
        yield line


@pytest.fixture
async def twilio(gateway: Gateway, agent_port: Callable[[], AgentPort]) -> AsyncIterator[DocumentCalls]:
    """Twilio itself."""
    async with carrier_running(gateway, {"twilio": rest_twilio.TwilioServer(agent_port())}, "twilio") as line:
        yield line


def opening_of_bridge(call_id: str) -> list[str]:
    connected, start = opening_messages("twilio", {"From": CALLER, "To": CALLEE, "sipCallId": "a@192.0.2.1"})
    start["start"] |= {"callSid": call_id, "accountSid": ""}
    return [json.dumps(connected), json.dumps(start)]


async def open_stream(bridge: DocumentCalls, url: str, call_id: str) -> tuple[Caller, list[bytes]]:
    caller = await bridge.dial(url, proven=False)
    assert caller.status == 101, caller.body
    return caller, [caller.say(message) for message in opening_of_bridge(call_id)]


async def test_the_token_of_its_signed_webhook_opens_the_socket_once(
    bridge: DocumentCalls, support: Agent
) -> None:
    placed = await bridge.place()
    caller, raw = await open_stream(bridge, placed.stream_url, placed.call_id)
    call = await support.call()
    await call.opening(raw)
    (record,) = bridge.gateway.sessions(call.session)
    assert (record["from_number"], record["to_number"]) == (CALLER, CALLEE)
    await hang_up(Call(caller, call, raw))
    await assert_ended(bridge.gateway, call.session, "caller_hangup", "caller")

    before = len(bridge.gateway.ends())
    again, _ = await open_stream(bridge, placed.stream_url, placed.call_id)
    assert (await again.closed())[0] == 1008
    await assert_refused(bridge.gateway, before, "unauthorized")
    assert support.upgrades == 1


async def test_a_second_socket_of_a_call_that_runs_is_refused(bridge: DocumentCalls, support: Agent) -> None:
    placed = await bridge.place()
    caller, raw = await open_stream(bridge, placed.stream_url, placed.call_id)
    call = await support.call()
    await call.opening(raw)
    before = len(bridge.gateway.ends())
    second, _ = await open_stream(bridge, placed.stream_url, placed.call_id)
    assert (await second.closed())[0] == 1008
    await assert_refused(bridge.gateway, before, "duplicate_call")
    await hang_up(Call(caller, call, raw))


async def test_the_token_is_for_its_call_alone(bridge: DocumentCalls, support: Agent) -> None:
    placed = await bridge.place()
    before = len(bridge.gateway.ends())
    caller, _ = await open_stream(bridge, placed.stream_url, "CA-another")
    assert (await caller.closed())[0] == 1008
    await assert_refused(bridge.gateway, before, "unauthorized")
    assert support.upgrades == 0


@pytest.mark.parametrize("url", ["", "/made-up", "/{token}x"])
async def test_without_its_token_the_upgrade_is_403(bridge: DocumentCalls, support: Agent, url: str) -> None:
    placed = await bridge.place()
    target = url.format(token=token_of(placed.stream_url))
    caller = await bridge.dial(f"wss://{HOST}/ws/twilio/support.acme{target}", proven=False)
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0


async def test_its_webhook_must_be_signed(bridge: DocumentCalls) -> None:
    assert (await bridge.place(proven=False)).answered.status == 403


async def test_a_webhook_that_names_no_call_gives_no_such_token(
    bridge: DocumentCalls, support: Agent
) -> None:
    """The token would be good for any call."""
    placed = await bridge.place(CallSid="")
    caller = await bridge.dial(placed.stream_url, proven=False)
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0


async def test_twilios_own_documents_still_want_a_signed_upgrade(
    twilio: DocumentCalls, support: Agent
) -> None:
    placed = await twilio.place()
    caller = await twilio.dial(placed.stream_url, proven=False)
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0
    caller = await twilio.dial(placed.stream_url)
    raw = [caller.say(message) for message in opening_of_call("twilio", placed.call_id)]
    call = await support.call()
    await call.opening(raw)
    await hang_up(Call(caller, call, raw))
