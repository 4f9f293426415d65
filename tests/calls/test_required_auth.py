# SPDX-License-Identifier: BSD-2-Clause
"""`websocket_auth = "required"`, the default of a port that other machines reach.

A call authenticates as its carrier's, by the token of a document, or by a token of the start API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.calls.test_media_token_calls import start
from tests.calls.test_signed_calls import static_url
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_refused
from tests.harness.document_calls import DocumentCalls, Server, accounts, opening_of_call
from tests.harness.gateway import Gateway

CARRIERS_WITH_OPENING = ("twilio", "telnyx", "plivo", "exotel")


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, carrier_servers: dict[str, Server]
) -> Gateway:
    agent = {"instances": [support_port.url], "sessions_per_instance": 50}
    return start_gateway(
        server={"public_url": "https://voice.example.com", "websocket_auth": "required"},
        organizations=[
            {"name": "acme", "public_keys": ["pk_acme"], "carriers": accounts(carrier_servers)},
            {"name": "globex", "public_keys": ["pk_globex"]},
        ],
        agents=[
            {"name": "support", "organization": "acme", **agent},
            {"name": "support", "organization": "globex", **agent},
            {"name": "lobby", "organization": "globex", "websocket_auth": "none", **agent},
        ],
        numbers=[{"number": "+15559876543", "agent": "support.globex"}],
    )


async def test_a_call_by_document_reaches_the_agent(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    caller, _ = await line.stream(placed, support)
    await caller.hang_up()


@pytest.mark.parametrize("carrier", ["twilio", "plivo", "exotel"], indirect=True)
async def test_a_call_that_its_carrier_authenticates_needs_no_token(
    line: DocumentCalls, support: Agent
) -> None:
    url = static_url(line.carrier)
    headers = None
    if line.carrier == "exotel":
        headers = line.server.upgrade_headers(line.url())
    caller = await line.dial(url, headers=headers)
    assert caller.status == 101, caller.body
    await line.opened(caller, "call-1", support)
    await caller.hang_up()


@pytest.mark.parametrize("carrier", ["twilio"], indirect=True)
async def test_a_path_that_ends_in_no_token_is_no_fault_of_an_authenticated_call(
    line: DocumentCalls, support: Agent
) -> None:
    caller = await line.dial(f"{static_url(line.carrier)}/reception")
    assert caller.status == 101, caller.body
    await line.opened(caller, "call-2", support)
    await caller.hang_up()


@pytest.mark.parametrize("way", ["generic", *CARRIERS_WITH_OPENING])
@pytest.mark.parametrize("agent", ["support.acme", "support.globex"])
async def test_a_client_that_shows_nothing_is_403_before_any_agent_is_touched(
    gateway: Gateway, support: Agent, way: str, agent: str
) -> None:
    for target in (f"/ws/{way}/{agent}", f"/ws/{way}/{agent}/nonsense"):
        before = len(gateway.ends())
        caller = await gateway.dial(target)
        assert caller.refusal == (403, "unauthorized")
        await assert_refused(gateway, before, "unauthorized")
    assert support.upgrades == 0


async def test_a_client_that_names_the_agent_in_its_opening_is_closed_with_1008(
    gateway: Gateway, support: Agent
) -> None:
    caller = await gateway.dial("/ws/twilio")
    assert caller.status == 101
    for message in opening_of_call("twilio", "call-3", _pipecatCloudServiceHost="support.globex"):
        caller.say(message)
    assert (await caller.closed())[0] == 1008
    assert support.upgrades == 0


async def test_a_token_of_the_start_api_opens_its_session(gateway: Gateway, support: Agent) -> None:
    promised: dict[str, Any] = start(gateway, "support")
    caller = await gateway.dial(f"/ws/generic/support.acme?token={promised['token']}")
    assert caller.status == 101, caller.body
    call = await support.call()
    assert call.session == promised["sessionId"]
    await caller.leave()


@pytest.mark.parametrize("carrier", ["twilio"], indirect=True)
async def test_no_document_is_given_for_an_organisation_without_an_account(line: DocumentCalls) -> None:
    placed = await line.place("/xml/twilio?agent=support&org=globex")
    assert placed.answered.status == 403
    placed = await line.place("/xml/twilio?agent=lobby&org=globex")
    assert placed.answered.status == 200, "its agent is open to everybody"


@pytest.mark.parametrize("carrier", ["twilio"], indirect=True)
async def test_no_document_reveals_which_agents_exist(line: DocumentCalls) -> None:
    """Neither by name nor by number, and in no other words."""
    texts = set()
    for path in (
        "/xml/twilio?agent=support&org=globex",
        "/xml/twilio?agent=nobody&org=globex",
        "/xml/twilio?agent=nobody&org=nobodys",
        "/xml/twilio?agent=support&org=globex&region=eu-central",
        "/xml/twilio",
    ):
        for to in ("+15559876543", "+15550000000"):
            placed = await line.place(path, to=to, proven=False)
            assert placed.answered.status == 403, path
            texts.add(placed.answered.json["error"])
    assert len(texts) == 1
    placed = await line.place("/xml/twilio", to="+15550000000")
    assert placed.answered.status == 200, "the carrier of another organisation's call, whose number is none"


async def test_an_agent_that_is_open_in_so_many_words(gateway: Gateway, support: Agent) -> None:
    caller = await gateway.dial("/ws/generic/lobby.globex")
    assert caller.status == 101, caller.body
    await support.call()
    await caller.leave()
