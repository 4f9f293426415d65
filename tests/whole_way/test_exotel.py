# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's calls from the webhook to the record (docs/reference/carriers.md §5).

It signs nothing: its URLs carry credentials.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.harness.call_assertions import Call, hang_up


@pytest.fixture(scope="module")
def carrier() -> str:
    return "exotel"


async def test_a_call_comes_in_and_goes_on_with_its_flow(way: Any) -> None:
    placed = await way.rings()
    assert placed.answered.content_type == "application/json"
    assert list(placed.answered.json) == ["url"]
    assert urlsplit(placed.stream_url).path.startswith("/ws/exotel/support.acme/")
    assert "?" not in placed.stream_url, "on some calls Exotel drops it"
    assert len(placed.stream_url) <= 600

    call = await way.connects(placed)
    await way.talk(call)
    for what, body in (("transfer", {"to": "+14155550177"}), ("dtmf", {"digits": "1"}), ("hangup", {})):
        status, error = await way.control(call, what, **body)
        assert (status, error["code"]) == (422, "carrier_cannot"), what
        assert "Exotel" in error["message"]
    await way.talk(call)

    # What is there instead: the agent ends, its stream closes, and the flow goes on with the next applet.
    assert (await call.agent.hang_up())[0] == 1000
    mark = json.loads((await call.caller.hear()).payload)
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    record = await way.over(call.session, "agent_ended", "agent")
    assert record["call_id"] == placed.call_id
    assert way.server.seen == [], "no REST request was sent"


async def test_a_call_for_which_no_slot_is_free_goes_on_with_its_flow(way: Any) -> None:
    late = await way.rings()
    call = await way.connects(await way.rings())
    placed = await way.line.place()
    assert placed.answered.status == 429, "an applet can be given a socket, and nothing else"
    assert "url" not in placed.answered.json
    assert await way.refused_socket(late) == 1013
    await way.talk(call)
    await hang_up(call)
    await way.over(call.session, "caller_hangup", "caller")
    free = await way.connects(await way.rings())
    await hang_up(free)
    await way.over(free.session, "caller_hangup", "caller")


async def test_a_call_out_whose_agent_ends_it(way: Any) -> None:
    session, phone = await way.dials()
    assert phone.call.stream_url.startswith("wss://")
    call: Call = await way.picks_up(session, phone)
    await way.talk(call)
    assert (await call.agent.hang_up())[0] == 1000
    mark = json.loads((await call.caller.hear()).payload)
    assert mark["event"] == "mark"
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000, "that is how a call at Exotel is hung up"
    await phone.over("completed")
    record = await way.over(session, "agent_ended", "agent")
    assert record["call_id"] == phone.call_id
