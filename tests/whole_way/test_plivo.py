# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's calls from the webhook to the record (docs/reference/carriers.md §4)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.harness.call_assertions import Call, hang_up
from tests.harness.rest_plivo import PlivoCall
from tests.harness.rest_server import Placed, read_document

DESK = "+14155550177"


@pytest.fixture(scope="module")
def carrier() -> str:
    return "plivo"


def known(way: Any, placed: Placed) -> PlivoCall:
    """The call that came in, as Plivo's REST has it."""
    numbers = {"from": placed.fields["From"], "to": placed.fields["To"]}
    call = PlivoCall(placed.call_id, placed.call_id, numbers, state="in-progress")
    way.server.calls[call.uuid] = call
    return call


def stream_fields(placed: Placed, event: str) -> dict[str, str]:
    """The fields of a callback for a stream (§4.4)."""
    fields = {"CallUUID": placed.call_id, "StreamID": "S1", "Event": event, "Direction": "inbound"}
    return {**fields, "From": placed.fields["From"], "To": placed.fields["To"]}


async def test_a_call_comes_in_and_is_transferred(way: Any) -> None:
    placed = await way.rings()
    document = placed.document
    assert [verb.tag for verb in document.verbs] == ["Stream", "Hangup"]
    assert document.stream["bidirectional"] == document.stream["keepCallAlive"] == "true"
    assert document.stream["contentType"] == "audio/x-mulaw;rate=8000"
    query = parse_qs(urlsplit(placed.stream_url).query)
    assert query["serviceHost"] == ["support.acme"]

    call = await way.connects(placed)
    assert call.agent.query["body"], "the bot reads the numbers there"
    await way.talk(call)
    status_url = document.stream["statusCallbackUrl"]
    assert f"/callbacks/plivo/{call.session}/stream" in status_url
    await way.report(status_url, stream_fields(placed, "StartStream"))

    at_plivo = known(way, placed)
    way.streams_while("transfer", call)  # §4.5: the REST first, the socket second
    status, answer = await way.control(call, "transfer", to=DESK, at_once=True)
    assert (status, answer.get("action")) == (200, "transferred"), answer
    assert (await call.caller.closed())[0] == 1000
    (transfer,) = at_plivo.transfers
    assert transfer["legs"] == "aleg"
    (dial,) = (await way.server.transferred(at_plivo)).document.verbs
    assert (dial.tag, dial[0].tag, dial[0].text) == ("Dial", "Number", DESK)
    await way.assert_agent_kept(call)
    assert at_plivo.state == "in-progress", "nobody hung it up"

    await way.report(status_url, stream_fields(placed, "StopStream"))
    over = way.server.fields(at_plivo, "Redirect", "completed", DialStatus="completed")
    answered = await way.report(dial.get("action"), over)
    assert [verb.tag for verb in read_document(answered.text).verbs] == ["Hangup"]
    assert (await call.agent.closed())[0] == 1000
    await way.over(call.session, "transferred", "gateway")


async def test_a_caller_for_whom_no_slot_is_free_hears_busy(way: Any) -> None:
    late = await way.rings()
    call = await way.connects(await way.rings())
    placed = await way.line.place()
    assert placed.answered.status == 200
    (verb,) = placed.document.verbs
    assert (verb.tag, verb.get("reason")) == ("Hangup", "busy")
    assert await way.refused_socket(late) == 1013
    await way.talk(call)
    await hang_up(call)
    await way.over(call.session, "caller_hangup", "caller")
    free = await way.connects(await way.rings())
    await hang_up(free)
    await way.over(free.session, "caller_hangup", "caller")


async def test_a_call_out_whose_agent_ends_it_is_hung_up(way: Any) -> None:
    session, phone = await way.dials()
    assert phone.call.body["answer_url"].startswith("https://"), "Plivo takes no document in a request"
    call: Call = await way.picks_up(session, phone)
    await way.talk(call)
    assert (await call.agent.hang_up())[0] == 1000
    checkpoint = json.loads((await call.caller.hear()).payload)
    assert checkpoint["event"] == "checkpoint"
    assert not phone.hung_up, "its last words are still being played"
    played = {"event": "playedStream", "streamId": checkpoint["streamId"], "name": checkpoint["name"]}
    call.caller.say(json.dumps(played))
    assert (await call.caller.closed())[0] == 1000
    assert phone.hung_up
    assert (await way.server.hung_up(phone.call, signed=False)).status == 403
    await phone.over("completed")
    record = await way.over(session, "agent_ended", "agent")
    assert record["call_id"] == phone.call_id
