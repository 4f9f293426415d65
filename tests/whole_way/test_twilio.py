# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's calls from the webhook to the record (docs/reference/carriers.md §2)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.call_assertions import Call, hang_up
from tests.harness.rest_server import Placed, Seen, read_document
from tests.harness.rest_twilio import TwilioCall

DESK = "+14155550177"


@pytest.fixture(scope="module")
def carrier() -> str:
    return "twilio"


def known(way: Any, placed: Placed) -> TwilioCall:
    """The call that came in, as Twilio's REST has it."""
    resource = way.server._resource(placed.fields["To"], placed.fields["From"])
    resource |= {"sid": placed.call_id, "status": "in-progress", "direction": "inbound"}
    call = TwilioCall(resource, Seen("inbound", "POST", "", {}, {}, [], None))
    way.server.calls[call.sid] = call
    return call


def stream_fields(placed: Placed, event: str) -> dict[str, str]:
    """The fields of a callback for a stream (§2.4)."""
    sid = "MZ00000000000000000000000000000001"
    fields = {"AccountSid": placed.fields["AccountSid"], "CallSid": placed.call_id, "StreamSid": sid}
    return {**fields, "StreamEvent": event, "StreamName": sid, "Timestamp": "2026-01-01T00:00:00.000Z"}


async def test_a_call_comes_in_and_is_transferred(way: Any) -> None:
    placed = await way.rings()
    document = placed.document
    assert placed.answered.content_type == "text/xml; charset=utf-8"
    assert [verb.tag for verb in document.verbs] == ["Connect", "Hangup"]
    assert "?" not in placed.stream_url, "Twilio would drop a query"
    assert document.parameters == {"from_number": placed.fields["From"], "to_number": placed.fields["To"]}

    call = await way.connects(placed)
    await way.talk(call)
    status_url = document.stream["statusCallback"]
    assert f"/callbacks/twilio/{call.session}/stream" in status_url
    await way.report(status_url, stream_fields(placed, "stream-started"))

    at_twilio = known(way, placed)

    async def tears_down() -> None:  # §2.6: before it answers
        stop = {"event": "stop", "streamSid": "MZ1", "stop": {"callSid": placed.call_id}}
        call.caller.say(json.dumps(stop))
        await call.caller.hang_up()

    way.streams_while("update", call, then=tears_down)
    status, answer = await way.control(call, "transfer", to=DESK, at_once=True)
    assert (status, answer.get("action")) == (200, "transferred"), answer
    (update,) = at_twilio.updates
    (dial,) = read_document(update.one("Twiml")).verbs
    assert (dial.tag, dial[0].tag, dial[0].text) == ("Dial", "Number", DESK)
    await way.assert_agent_kept(call)
    assert at_twilio.resource["status"] == "in-progress", "nobody hung it up"

    await way.report(status_url, stream_fields(placed, "stream-stopped"))
    at_twilio.resource["status"] = "completed"
    dialled = {"DialCallStatus": "completed", "DialCallSid": "CA1", "DialCallDuration": "7"}
    answered = await way.report(dial.get("action"), way.server.fields(at_twilio, **dialled))
    assert [verb.tag for verb in read_document(answered.text).verbs] == ["Hangup"]
    assert (await call.agent.closed())[0] == 1000
    record = await way.over(call.session, "transferred", "gateway")
    assert (record["from_number"], record["to_number"]) == (placed.fields["From"], placed.fields["To"])


async def test_a_caller_for_whom_no_slot_is_free_hears_busy(way: Any) -> None:
    late = await way.rings()
    first = await way.rings()
    call = await way.connects(first)
    placed = await way.line.place()
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
    assert phone.call.form.one("Twiml"), "its document goes with the request"
    call: Call = await way.picks_up(session, phone)
    await way.talk(call)
    assert (await call.agent.hang_up())[0] == 1000
    mark = json.loads((await call.caller.hear()).payload)
    assert mark["event"] == "mark"
    assert not phone.hung_up, "its last words are still being played"
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    assert [update.one("Status") for update in phone.call.updates] == ["completed"]
    await phone.over("completed")
    record = await way.over(session, "agent_ended", "agent")
    assert (record["to_number"], record["call_id"]) == ("+14155550142", phone.call_id)
