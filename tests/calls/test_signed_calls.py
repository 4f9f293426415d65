# SPDX-License-Identifier: BSD-2-Clause
"""Organisations that have accounts with carriers: what is not proven to be a carrier's own reaches no agent.

The carriers sign with their own packages (tests/harness/rest_*.py), for the public URL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.simulator.waiting import eventually
from tests.harness import rest_plivo, rest_telnyx, rest_twilio
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended, assert_refused
from tests.harness.document_calls import (
    CARRIERS,
    HOST,
    DocumentCalls,
    Server,
    accounts,
    opening_of_call,
    token_of,
)
from tests.harness.gateway import Gateway
from tests.harness.http_requests import send
from tests.harness.rest_exotel import API_KEY, API_TOKEN, ExotelServer
from tests.harness.transcripts import opening

SIGNING = ("twilio", "plivo")


@pytest.fixture(scope="module")
def others(agent_port: Callable[[], AgentPort]) -> dict[str, Server]:
    """The same carriers with another account's secrets."""
    return {
        "twilio": rest_twilio.TwilioServer(agent_port(), auth_token="another"),
        "plivo": rest_plivo.PlivoServer(agent_port(), auth_token="another"),
        "telnyx": rest_telnyx.TelnyxServer(agent_port()),
        "exotel": ExotelServer(agent_port(), api_token="another"),
    }


@pytest.fixture(scope="module")
def settings(carrier_servers: dict[str, Server]) -> dict[str, Any]:
    """acme has accounts with all four; nobody else has agents."""
    return {
        "server": {"public_url": "https://voice.example.com"},
        "agents": [{"name": "sales", "organization": "acme", "instances": ["http://127.0.0.1:1"]}],
        "organizations": [{"name": "acme", "carriers": accounts(carrier_servers)}],
    }


def static_url(carrier: str) -> str:
    """What an operator types in who uses no documents."""
    if carrier in ("twilio", "exotel"):
        return f"wss://{HOST}/ws/{carrier}/support.acme"
    return f"wss://{HOST}/ws/{carrier}?serviceHost=support.acme"


async def test_a_call_with_its_document_and_its_signature(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    assert placed.answered.status == 200, placed.answered
    assert placed.answered.headers["cache-control"] == "no-store"
    caller, call = await line.stream(placed, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    (record,) = line.gateway.sessions(call.session)
    assert record["call_id"] == placed.call_id


async def test_an_unsigned_webhook_is_403(line: DocumentCalls) -> None:
    placed = await line.place(proven=False)
    assert placed.answered.status == 403
    assert placed.answered.json["code"] == "403"
    assert "not proven" in placed.answered.json["error"]


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_a_signed_webhook_is_for_one_agent_where_its_url_is_not_signed(line: DocumentCalls) -> None:
    body = urlencode({"CallSid": "v3:4711", "From": "+14155550100", "To": "+14155550199"}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", **line.server.sign(body)}

    async def fetch(agent: str) -> int:
        url = f"http://127.0.0.1:{line.gateway.port}/xml/telnyx?agent={agent}&org=acme"
        return (await send(url, raw=body, **headers)).status

    assert [await fetch("support"), await fetch("sales"), await fetch("support")] == [200, 403, 200]


async def test_an_unsigned_webhook_does_not_reveal_which_agents_exist(line: DocumentCalls) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=nobody&org=acme", proven=False)
    assert placed.answered.status == 403
    placed = await line.place(f"/xml/{line.carrier}", proven=False)
    assert placed.answered.status == 403


async def test_another_accounts_webhook_is_403(line: DocumentCalls, others: dict[str, Server]) -> None:
    other = others[line.carrier]
    other.via = line.server.via
    await other.start()
    try:
        url = line.url()
        if line.carrier == "exotel":
            url = f"https://{API_KEY}:another@{HOST}/xml/exotel?agent=support&org=acme"
        placed = await other.place_call(url)
    finally:
        await other.stop()
    assert placed.answered.status == 403


async def test_an_unsigned_upgrade_is_403_before_any_agent_is_touched(
    line: DocumentCalls, support: Agent
) -> None:
    before = len(line.gateway.ends())
    caller = await line.dial(static_url(line.carrier), proven=False)
    assert caller.refusal == (403, "unauthorized")
    await assert_refused(line.gateway, before, "unauthorized")
    assert support.upgrades == 0


async def test_a_wrong_signature_is_403_before_any_agent_is_touched(
    line: DocumentCalls, others: dict[str, Server], support: Agent
) -> None:
    url = static_url(line.carrier)
    headers = {
        "twilio": lambda: others["twilio"].upgrade_headers(url),
        "plivo": lambda: others["plivo"].upgrade_headers(url),
        "telnyx": lambda: line.server.sign(b""),  # it fits every upgrade, so it proves none
        "exotel": lambda: line.server.upgrade_headers(f"wss://{API_KEY}:another@{HOST}/"),
    }[line.carrier]()
    caller = await line.dial(url, headers=headers)
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0


@pytest.mark.parametrize("carrier", SIGNING, indirect=True)
async def test_a_signature_for_another_url_is_403(line: DocumentCalls, support: Agent) -> None:
    headers = line.server.upgrade_headers(static_url(line.carrier).replace("support", "sales"))
    caller = await line.dial(static_url(line.carrier), headers=headers)
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0


@pytest.mark.parametrize("carrier", SIGNING, indirect=True)
async def test_the_log_has_the_url_that_a_wrong_signature_was_checked_for(line: DocumentCalls) -> None:
    before = len(line.gateway.ends())
    url = static_url(line.carrier)
    caller = await line.dial(url, headers=line.server.upgrade_headers(url.replace(HOST, "other.example")))
    end = await assert_refused(line.gateway, before, "unauthorized")
    expected = url.replace("us-west.", "").replace("=support.acme", "=…")
    assert end["words"].endswith(f"its URL counts as {expected}"), end
    assert "example.com" not in caller.body.decode()


@pytest.mark.parametrize("carrier", SIGNING, indirect=True)
async def test_a_stolen_stream_url_is_refused(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    before = len(line.gateway.ends())
    caller = await line.dial(placed.stream_url, proven=False)
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0
    end = await assert_refused(line.gateway, before, "unauthorized")
    assert token_of(placed.stream_url) not in end["words"]


@pytest.mark.parametrize("carrier", ["twilio", "plivo", "exotel"], indirect=True)
async def test_a_signed_upgrade_needs_no_document(line: DocumentCalls, support: Agent) -> None:
    url = static_url(line.carrier)
    credentials = None
    if line.carrier == "exotel":
        credentials = line.server.upgrade_headers(f"wss://{API_KEY}:{API_TOKEN}@{HOST}/")
    caller = await line.dial(url, headers=credentials)
    assert caller.status == 101, caller.body
    call = await line.opened(caller, "another-call", support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


@pytest.mark.parametrize("carrier", SIGNING, indirect=True)
async def test_an_agent_that_only_start_names(line: DocumentCalls, support: Agent) -> None:
    url = f"wss://{HOST}/ws/{line.carrier}"
    refused = await line.dial(url, proven=False)
    assert refused.refusal == (403, "unauthorized"), "everybody wants proof here"
    caller = await line.dial(url)
    assert caller.status == 101
    call = await line.opened(caller, "another-call", support, serviceHost="support.acme")
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_a_call_of_another_account(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    caller = await line.dial(placed.stream_url)
    assert caller.status == 101
    before = len(line.gateway.ends())
    for message in opening_of_call(line.carrier, placed.call_id, account="AC-another"):
        caller.say(message)
    assert (await caller.closed())[0] == 1008
    await assert_refused(line.gateway, before, "unauthorized")
    assert support.upgrades == 0


@pytest.mark.parametrize("carrier", SIGNING, indirect=True)
async def test_the_log_has_the_url_of_a_webhook_whose_signature_is_refused(line: DocumentCalls) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=support&org=acme&token=hidden", proven=False)
    words = f"its URL counts as https://voice.example.com/xml/{line.carrier}?agent=…&org=…&token=…"

    def logged() -> list[dict[str, Any]]:
        lines = [each for each in line.gateway.log_lines() if each["event"] == "document"]
        return [each for each in lines if each.get("words", "").endswith(words)]

    (document,) = await eventually(logged, "the refusal is logged with its URL")
    assert (document["what"], document["reason"]) == ("error", "unauthorized")
    assert "URL" not in placed.answered.json["error"]


async def test_the_log_has_it_too_where_start_names_the_agent(
    start_gateway: Callable[..., Gateway], support_port: AgentPort
) -> None:
    """Another organisation has no account, so that the upgrade alone decides nothing."""
    agents = [{"name": "support", "organization": each, "instances": [support_port.url]} for each in "ab"]
    gateway = start_gateway(
        server={"public_url": "https://voice.example.com", "websocket_auth": "none"},
        organizations=[
            {"name": "a", "carriers": [{"carrier": "twilio", "auth_tokens": ["secret"]}]},
            {"name": "b"},
        ],
        agents=agents,
    )
    caller = await gateway.dial("/ws/twilio")
    for message in opening("twilio", {"serviceHost": "support.a"}):
        caller.say(message)
    assert (await caller.closed()) == (1008, "the upgrade is not proven to be a's")
    end = await assert_refused(gateway, 0, "unauthorized")
    assert end["words"].endswith("its URL counts as wss://voice.example.com/ws/twilio")


async def test_two_secrets_are_valid_while_one_is_replaced(
    start_gateway: Callable[..., Gateway],
    carrier_servers: dict[str, Server],
    others: dict[str, Server],
    agent_at: Callable[..., Any],
    support_port: AgentPort,
) -> None:
    matching = accounts(carrier_servers)
    for account in matching:
        for name in ("auth_tokens", "public_keys"):
            if name in account:
                new = others["telnyx"].public_key if name == "public_keys" else "the-next-one"
                account[name] = [new, *account[name]]
    gateway = start_gateway(
        server={"public_url": "https://voice.example.com"},
        organizations=[{"name": "acme", "carriers": matching}],
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
    )
    support = await agent_at(support_port)
    for carrier in CARRIERS:
        server = carrier_servers[carrier]
        server.via = f"http://127.0.0.1:{gateway.port}"
        await server.start()
        try:
            line = DocumentCalls(gateway, server, carrier)
            caller, call = await line.stream(await line.place(), support)
            await caller.hang_up()
            await assert_ended(gateway, call.session, "caller_hangup", "caller")
        finally:
            await server.stop()


async def test_another_organisations_signature_is_refused(
    start_gateway: Callable[..., Gateway],
    agent_at: Callable[..., Any],
    agent_port: Callable[[], AgentPort],
    support_port: AgentPort,
) -> None:
    """Two organisations; what proves a call for one is nothing to the other, whoever `start` names."""
    gateway = start_gateway(
        server={"public_url": "https://voice.example.com"},
        organizations=[
            {"name": name, "carriers": [{"carrier": "twilio", "auth_tokens": [f"{name}-secret"]}]}
            for name in ("acme", "globex")
        ],
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
    )
    support = await agent_at(support_port)
    globex = rest_twilio.TwilioServer(agent_port(), auth_token="globex-secret")
    line = DocumentCalls(gateway, globex, "twilio")
    named = await line.dial(static_url("twilio"))
    assert named.refusal == (403, "unauthorized")
    caller = await line.dial(f"wss://{HOST}/ws/twilio")
    assert caller.status == 101, "it may be globex's call, until `start` says whose it is"
    for message in opening_of_call("twilio", "CA1", serviceHost="support.acme"):
        caller.say(message)
    assert (await caller.closed())[0] == 1008
    assert support.upgrades == 0
