# SPDX-License-Identifier: BSD-2-Clause
"""Calls whose signed document takes their slot: every carrier, two workers, an agent with one slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.api_requests import stop_session
from tests.harness.call_assertions import assert_ended, assert_refused
from tests.harness.document_calls import DocumentCalls, Server, accounts, opening_of_call
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Answered, Placed

OVER = {
    "twilio": {"CallStatus": "completed"},
    "telnyx": {"CallStatus": "completed"},
    "plivo": {"CallStatus": "completed", "Event": "Hangup"},
    "exotel": {"Status": "completed", "EventType": "terminal"},
}
CALL_IDS = {"plivo": "CallUUID"}
SUPPORT = "agent=support&org=acme"


@pytest.fixture(scope="module")
def settings(support_port: AgentPort, carrier_servers: dict[str, Server]) -> dict[str, Any]:
    agent = {"instances": [support_port.url], "hold": "none", "max_agents": 1, "admit_at": "document"}
    return {
        "server": {"public_url": "https://voice.example.com"},
        "organizations": [
            {"name": "acme", "private_keys": ["sk_acme"], "carriers": accounts(carrier_servers)},
            {"name": "globex"},
        ],
        "agents": [
            {"name": "support", "organization": "acme", **agent},
            {"name": "queued", "organization": "acme", "queue_size": 5, **agent},
            {"name": "support", "organization": "globex", "websocket_auth": "none", **agent},
        ],
        "numbers": [{"number": "+15559876543", "agent": "support.acme"}],
        "limits": {"close_timeout": 0.5, "agent_connect_timeout": 5.0},
    }


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], settings: dict[str, Any]) -> Gateway:
    return start_gateway(**settings | {"server": settings["server"] | {"workers": 2}})


def twilio(test: Any) -> Any:
    return pytest.mark.parametrize("carrier", ["twilio"], indirect=True)(test)


def session_of(line: DocumentCalls, placed: Placed) -> dict[str, Any]:
    """The one session of the call."""
    (session,) = [one for one in line.gateway.sessions() if one["call_id"] == placed.call_id]
    return session


async def tell(line: DocumentCalls, path: str, fields: dict[str, str], *, proven: bool = True) -> Answered:
    """The carrier calls back."""
    url = line.url(path, proven=proven)
    how = {} if line.carrier == "exotel" else {"signed": proven}
    answered: Answered = await line.server.post(url, fields, **how)
    return answered


async def hang_up(line: DocumentCalls, placed: Placed, query: str = f"?{SUPPORT}") -> None:
    """The caller is gone before the stream, and the carrier says so."""
    fields = {CALL_IDS.get(line.carrier, "CallSid"): placed.call_id, **OVER[line.carrier]}
    assert (await tell(line, f"/callbacks/{line.carrier}{query}", fields)).status == 200


async def given_back(line: DocumentCalls, placed: Placed, side: str = "caller") -> dict[str, Any]:
    """The call's session ends as one that never was one: no failure, nothing louder than info."""

    def lines() -> list[dict[str, Any]]:
        found = line.gateway.log_lines()
        return [
            one for one in found if (one["event"], one.get("call_id")) == ("slot given back", placed.call_id)
        ]

    (logged,) = await eventually(lines, "the slot is given back")
    record = session_of(line, placed)
    reason = "call_canceled" if side == "caller" else "stopped"
    assert (record["reason"], record["side"], record["state"]) == (reason, side, "canceled")
    assert (record["started_at"], record["stream_id"]) == (None, None)
    assert (logged["reason"], logged["session"], logged["level"]) == (reason, record["id"], "info")
    assert logged["words"] == record["detail"] != ""
    return record


async def test_the_stream_goes_on_with_the_slot_of_its_document(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    reserved = session_of(line, placed)
    assert (reserved["state"], reserved["instance"]) == ("starting", support.port.url)
    assert support.upgrades == 0, "the agent hears nothing before the stream"
    caller, call = await line.stream(placed, support)
    assert call.session == reserved["id"]
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    record = session_of(line, placed)
    assert record["stream_id"] is not None
    assert record["started_at"] is not None


async def test_the_slot_is_taken_while_the_stream_is_awaited(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    before = len(line.gateway.sessions())
    other = await line.place()
    verb = other.document.verbs[0].tag if other.document is not None else "refused"
    assert verb in ("Reject", "Hangup", "refused")
    assert len(line.gateway.sessions()) == before
    await hang_up(line, placed)
    await given_back(line, placed)
    caller, call = await line.stream(await line.place(), support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_a_repeated_webhook_is_the_same_call(line: DocumentCalls, support: Agent) -> None:
    """At either worker; a stream by any of the documents is the call's."""
    placed = await line.place()
    key = CALL_IDS.get(line.carrier, "CallSid")
    for _ in range(3):
        repeated = await line.place(**{key: placed.call_id})
    session = session_of(line, placed)["id"]
    caller = await line.dial(repeated.stream_url)
    call = await line.opened(caller, placed.call_id, support)
    assert call.session == session
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_who_has_proven_nothing_takes_no_slot(line: DocumentCalls, support: Agent) -> None:
    before = len(line.gateway.sessions())
    assert (await line.place(proven=False)).answered.status == 403
    unsigned = await line.place(f"/xml/{line.carrier}?agent=support&org=globex", proven=False)
    assert unsigned.answered.status == 200
    assert len(line.gateway.sessions()) == before


async def test_the_end_of_a_call_counts_if_it_is_proven(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    fields = {CALL_IDS.get(line.carrier, "CallSid"): placed.call_id, **OVER[line.carrier]}
    path = f"/callbacks/{line.carrier}?{SUPPORT}"
    assert (await tell(line, path, fields, proven=False)).status == 403
    others = fields | {CALL_IDS.get(line.carrier, "CallSid"): "another-call"}
    assert (await tell(line, path, others)).status == 200
    assert session_of(line, placed)["state"] == "starting"
    await hang_up(line, placed)
    await given_back(line, placed)


@twilio
async def test_the_callback_finds_the_organisation_by_the_called_number(
    line: DocumentCalls, support: Agent
) -> None:
    placed = await line.place("/xml/twilio", To="+15559876543")
    fields = {"CallSid": placed.call_id, "To": "+15559876543"}
    ringing = fields | {"CallStatus": "in-progress"}
    assert (await tell(line, "/callbacks/twilio", ringing)).status == 200
    assert session_of(line, placed)["state"] == "starting"
    assert (await tell(line, "/callbacks/twilio", fields | OVER["twilio"])).status == 200
    await given_back(line, placed)
    assert (await tell(line, "/callbacks/twilio", {"CallSid": placed.call_id})).status == 200
    assert (await tell(line, "/callbacks/daily", fields)).status == 404


@twilio
async def test_a_stream_that_could_not_be_opened_gives_the_slot_back(
    line: DocumentCalls, support: Agent
) -> None:
    placed = await line.place()
    session = session_of(line, placed)["id"]
    failed = {"CallSid": placed.call_id, "StreamEvent": "stream-error", "StreamError": "31920"}
    answered = await tell(line, f"/callbacks/twilio/{session}/stream?org=acme", failed)
    assert answered.status == 200
    await given_back(line, placed)


async def test_a_stream_that_comes_late_takes_a_slot_itself(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    await hang_up(line, placed)
    reserved = await given_back(line, placed)
    caller, call = await line.stream(placed, support)
    assert call.session != reserved["id"]
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    before = len(line.gateway.ends())
    again = await line.dial(placed.stream_url)
    for message in opening_of_call(line.carrier, placed.call_id):
        again.say(message)
    await again.closed()
    await assert_refused(line.gateway, before, "unauthorized")


@twilio
async def test_a_session_that_is_stopped_takes_no_stream(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    session = session_of(line, placed)["id"]
    assert stop_session(line.gateway, session) == 200
    await given_back(line, placed, side="gateway")
    caller = await line.dial(placed.stream_url)
    before = len(line.gateway.ends())
    for message in opening_of_call("twilio", placed.call_id):
        caller.say(message)
    assert (await caller.closed())[0] == 1008
    await eventually(lambda: len(line.gateway.ends()) > before, "it is refused")
    assert support.upgrades == 0


@twilio
async def test_a_document_that_cannot_be_written_takes_no_slot(line: DocumentCalls) -> None:
    before = len(line.gateway.sessions())
    placed = await line.place(f"/xml/twilio?{SUPPORT}&note={'x' * 600}")
    assert placed.document is not None
    assert placed.document.verbs[0].tag == "Reject"
    assert len(line.gateway.sessions()) == before


@twilio
async def test_where_calls_are_queued_they_are_as_before(line: DocumentCalls, support: Agent) -> None:
    """The document is given without a slot, and the stream waits for one in the queue."""
    first = await line.place("/xml/twilio?agent=queued&org=acme")
    second = await line.place("/xml/twilio?agent=queued&org=acme")
    assert [one for one in line.gateway.sessions() if one["call_id"] == second.call_id] == []
    waiting = await line.dial(second.stream_url)
    for message in opening_of_call("twilio", second.call_id):
        waiting.say(message)
    caller, call = await line.stream(first, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    taken = await support.call()
    assert session_of(line, second)["id"] == taken.session
    await waiting.hang_up()
    await assert_ended(line.gateway, taken.session, "caller_hangup", "caller")


@twilio
async def test_a_gateway_that_stops_gives_its_slots_back(
    line: DocumentCalls, start_gateway: Callable[..., Gateway], settings: dict[str, Any]
) -> None:
    stopping = DocumentCalls(start_gateway(**settings), line.server, "twilio")
    before, line.server.via = line.server.via, f"http://127.0.0.1:{stopping.gateway.port}"
    try:
        placed = await stopping.place()
    finally:
        line.server.via = before
    assert session_of(stopping, placed)["state"] == "starting"
    stopping.gateway.terminate()
    assert await stopping.gateway.ended() == 0
    await given_back(stopping, placed, side="gateway")
