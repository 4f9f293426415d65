# SPDX-License-Identifier: BSD-2-Clause
"""The record of a call in the store when it has ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, hangs
from tests.harness.call_assertions import (
    assert_agent_heard,
    assert_caller_heard,
    assert_end_logged,
    assert_ended,
    connect,
    hang_up,
)
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, IDS, opening, replies, talk

CALLER, CALLED = "+14155550100", "+14155550199"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"server": {"region": "eu-central"}}


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_record_of_a_call(gateway: Gateway, support: Agent, carrier: str) -> None:
    call = await connect(
        gateway, support, f"/ws/{carrier}/support.acme", from_number=CALLER, to_number=CALLED
    )
    up = [call.caller.say(message) for message in talk(carrier)]
    await assert_agent_heard(call.agent, up)
    down = [call.agent.say(message) for message in replies(carrier)]
    await assert_caller_heard(call.caller, down)
    (running,) = await eventually(
        lambda: [one for one in gateway.sessions(call.session) if one["state"] == "running"], "it runs"
    )
    assert (running["ended_at"], running["reason"]) == (None, None)

    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    call_id, stream_id = IDS[carrier]
    assert (
        record.items()
        >= {
            "id": call.session,
            "agent": "support.acme",
            "organization": "acme",
            "region": "eu-central",
            "carrier": carrier,
            "instance": support.port.url,
            "call_id": call_id,
            "stream_id": stream_id,
            "from_number": CALLER,
            "to_number": CALLED,
            "state": "ended",
            "completion_status": "WS_CONNECTION_CLOSED",
            "idle_timeout": 600,
            "max_duration": 7200,
            "close_code": 1000,
            "frames_in": len(call.opening) + len(up),
            "frames_out": len(down),
        }.items()
    )
    # Bytes are those on the wire, so the close frames may count too.
    wire_in, wire_out = sum(map(len, [*call.opening, *up])), sum(map(len, down))
    assert wire_in <= record["bytes_in"] <= wire_in + 8
    assert wire_out <= record["bytes_out"] <= wire_out + 8
    times = [record[at] for at in ("created_at", "started_at", "first_agent_sound_at", "ended_at")]
    assert times == sorted(times)


async def test_the_record_of_a_generic_call_has_what_is_known(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support, "/ws/generic/support.acme")
    await assert_agent_heard(call.agent, [call.caller.frame(2, b"sound")][:0])
    raw = call.agent.frame(2, b"sound")
    call.agent.send(raw)
    await assert_caller_heard(call.caller, [raw])
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert record["carrier"] == "generic"
    assert [record[key] for key in ("call_id", "stream_id", "from_number", "to_number")] == [None] * 4
    assert (record["frames_in"], record["frames_out"]) == (0, 1)
    assert record["first_agent_sound_at"] is not None


async def test_a_mark_is_no_sound(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    await assert_caller_heard(call.caller, [call.agent.say(json.dumps({"event": "mark"}))])
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert record["first_agent_sound_at"] is None


async def test_a_call_that_never_ran_was_canceled(gateway: Gateway, support: Agent) -> None:
    support.answer = hangs
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        caller.say(message)
    offered = await support.next_other_call()
    await caller.hang_up()
    line = await assert_end_logged(gateway, before, "caller_hangup")
    assert line["event"] == "call not begun"
    record = await assert_ended(gateway, offered.session, "caller_hangup", "caller")
    assert (record["state"], record["started_at"]) == ("canceled", None)
    assert record["completion_status"] is None, "no socket of the agent was closed"


async def test_the_log_has_neither_numbers_nor_sound(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support, from_number="+14155550177", to_number="+14155550188")
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    text = json.dumps(gateway.log_lines())
    assert "14155550177" not in text
    assert "14155550188" not in text
