# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's calls from the webhook to the record (docs/reference/carriers.md §3)."""

from __future__ import annotations

import json
import os
import signal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.call_assertions import Call, hang_up
from tests.harness.rest_server import Placed
from tests.harness.rest_telnyx import TelnyxCall

DESK = "+14155550177"


@pytest.fixture(scope="module")
def carrier() -> str:
    return "telnyx"


@pytest.fixture(scope="module")
def workers() -> int:
    return 3  # two of them are killed


def known(way: Any, placed: Placed) -> TelnyxCall:
    """The call that came in, as Call Control has it."""
    numbers = {"from": placed.fields["From"], "to": placed.fields["To"]}
    call = TelnyxCall(placed.call_id, numbers, state="answered")
    way.server.calls[call.id] = call
    return call


def stream_fields(placed: Placed, event: str) -> dict[str, str]:
    """The fields of a callback for a stream (§3.4)."""
    fields = {"AccountSid": placed.fields["AccountSid"], "CallSid": placed.call_id, "StreamSid": "S1"}
    return {**fields, "StreamEvent": event, "Timestamp": "2026-01-01T00:00:00.000Z"}


async def test_a_call_comes_in_and_is_transferred(way: Any) -> None:
    placed = await way.rings()  # with GET, as its applications do unless told otherwise
    document = placed.document
    assert [verb.tag for verb in document.verbs] == ["Connect", "Hangup"]
    assert document.stream["bidirectionalMode"] == "rtp", "else the caller hears nothing"
    assert document.stream["bidirectionalCodec"] == "PCMU"
    assert parse_qs(urlsplit(placed.stream_url).query)["serviceHost"] == ["support.acme"]

    call = await way.connects(placed)
    await way.talk(call)
    status_url = document.stream["statusCallback"]
    assert f"/callbacks/telnyx/{call.session}/stream" in status_url
    await way.report(status_url, stream_fields(placed, "stream-started"))

    at_telnyx = known(way, placed)
    way.streams_while("command", call)
    status, answer = await way.control(call, "transfer", to=DESK, at_once=True)
    assert (status, answer.get("action")) == (200, "transferred"), answer
    (command,) = at_telnyx.commands
    assert (command[0], command[1]["to"]) == ("transfer", DESK)
    assert (await call.caller.closed())[0] == 1000, "the stream ends once Telnyx has the transfer"
    await way.assert_agent_kept(call)
    await way.report(status_url, stream_fields(placed, "stream-stopped"))
    assert at_telnyx.state == "answered", "nobody hung it up"

    assert (await call.agent.hang_up())[0] == 1000
    record = await way.over(call.session, "transferred", "gateway")
    assert [name for name, _ in at_telnyx.commands] == ["transfer"]
    # `start` says the numbers itself.
    assert record["from_number"]
    assert record["to_number"]


async def test_a_caller_for_whom_no_slot_is_free_hears_busy(way: Any) -> None:
    late = await way.rings()
    call = await way.connects(await way.rings())
    placed = await way.line.place(method="POST")
    assert placed.answered.status == 200
    (verb,) = placed.document.verbs
    assert (verb.tag, verb.get("reason")) == ("Reject", "busy")
    assert await way.refused_socket(late) == 1013
    await way.talk(call)
    await hang_up(call)
    await way.over(call.session, "caller_hangup", "caller")
    free = await way.connects(await way.rings())
    await hang_up(free)
    await way.over(free.session, "caller_hangup", "caller")


async def test_a_call_out_whose_agent_ends_it_is_hung_up(way: Any) -> None:
    session, phone = await way.dials()
    asked = phone.call.body
    assert (asked["to"], asked["stream_bidirectional_mode"]) == ("+14155550142", "rtp")
    call: Call = await way.picks_up(session, phone)
    await way.talk(call)
    assert (await call.agent.hang_up())[0] == 1000
    mark = json.loads((await call.caller.hear()).payload)
    assert mark["event"] == "mark"
    assert not phone.hung_up, "its last words are still being played"
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    assert [name for name, _ in phone.call.commands] == ["hangup"]
    unsigned = await way.server.event(phone.call, "call.hangup", signed=False, hangup_cause="normal_clearing")
    assert unsigned.status == 403
    await phone.over("completed")
    record = await way.over(session, "agent_ended", "agent")
    assert record["call_id"] == phone.call_id


@pytest.mark.parametrize("dies", ["while it rings", "while they talk"])
async def test_a_call_out_whose_gateway_dies_is_hung_up(way: Any, dies: str) -> None:
    """It was made by Call Control, so there is no document that would end it."""
    session, phone = await way.dials()
    call = await way.picks_up(session, phone) if dies == "while they talk" else None
    (record,) = way.gateway.sessions(session)
    (pid,) = [each["pid"] for each in way.gateway.workers() if each["id"] == record["owner"]]
    os.kill(pid, signal.SIGKILL)
    await eventually(
        lambda: way.gateway.sessions(session)[0]["reason"] == "gateway_lost", "its worker is known to be dead"
    )
    if call is None:
        await phone.answered()
    else:
        way.gateway.upgrades -= 1  # it does not live to tell its call's end
        await way.server.event(phone.call, "streaming.stopped")
    await eventually(lambda: phone.hung_up, "Telnyx is asked to hang up")
    await phone.over("completed")
    assert [name for name, _ in phone.call.commands] == ["hangup"]
