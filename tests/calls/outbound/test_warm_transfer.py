# SPDX-License-Identifier: BSD-2-Clause
"""Warm transfers: somebody is called and told of the caller, and takes the call, or does not."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent
from tests.harness.failing_server import fails
from tests.harness.rest_server import read_document
from tests.harness.warm_transfer import CALLER, DESK, OWN, WORDS, conference_of, start_talk


@pytest.mark.parametrize("carrier", ["twilio", "plivo"])
async def test_whoever_takes_the_call_is_joined_with_the_caller(
    outbound: Any, support: Agent, carrier: str
) -> None:
    call = await start_talk(outbound, support, carrier)
    desk = await call.consults()
    (announcement, *_) = read_document((await call.desk_answers()).text).verbs
    assert announcement[0].text == WORDS
    await call.assert_they_talk_on()
    answered = await call.key("1")
    for_desk = conference_of(answered.text)
    if carrier == "twilio":
        (update,) = call.phone.call.updates
        for_caller = conference_of(update.one("Twiml"))
    else:
        for_caller = conference_of((await call.phone.server.transferred(call.phone.call)).answered.text)
    assert for_desk.text == for_caller.text
    assert for_desk.get("endConferenceOnExit") == for_caller.get("endConferenceOnExit") == "true"
    assert (await call.caller.closed())[0] == 1000
    assert await call.result() == "joined"
    assert not desk.hung_up
    await call.agent.hang_up()
    assert (await outbound.ended(call.session))["reason"] == "transferred"


async def test_whoever_takes_a_call_of_telnyx_is_bridged_with_the_caller(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support, "telnyx")
    desk = await call.consults()
    assert "stream_url" not in desk.call.body
    await call.desk_answers()
    ((action, body),) = desk.call.commands
    assert (action, body["payload"]) == ("gather_using_speak", WORDS)
    await call.assert_they_talk_on()
    for _ in range(2):  # a webhook may come again
        await call.key("1")
    assert await call.result() == "joined"
    assert call.phone.call.commands == [("bridge", {"call_control_id": desk.call.id})]
    await desk.server.event(desk.call, "call.bridged")
    assert (await call.caller.closed())[0] == 1000
    assert not desk.hung_up
    await call.agent.hang_up()
    assert (await outbound.ended(call.session))["reason"] == "transferred"


@pytest.mark.parametrize("key", ["2", ""])
async def test_a_call_of_telnyx_that_is_not_taken_is_hung_up(outbound: Any, support: Agent, key: str) -> None:
    call = await start_talk(outbound, support, "telnyx")
    desk = await call.consults()
    await call.desk_answers()
    await call.key(key)
    await eventually(lambda: desk.hung_up, "the desk is hung up")
    await desk.over("completed")
    assert await call.result() == "not_taken"
    await call.assert_they_talk_on()
    await call.hangs_up()


@pytest.mark.parametrize(("status", "result"), [("busy", "busy"), ("no-answer", "no_answer")])
@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_the_caller_is_back_with_the_agent_if_nobody_answers(
    outbound: Any, support: Agent, carrier: str, status: str, result: str
) -> None:
    call = await start_talk(outbound, support, carrier)
    desk = await call.consults()
    await desk.rings()
    await desk.over(status)
    assert await call.result() == result
    await call.assert_they_talk_on()
    await call.hangs_up()
    assert (await outbound.ended(call.session))["reason"] == "caller_hangup"


@pytest.mark.parametrize("how", ["presses another key", "presses none"])
async def test_the_caller_is_back_with_the_agent_if_the_call_is_not_taken(
    outbound: Any, support: Agent, how: str
) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await call.desk_answers()
    if how == "presses another key":
        assert await call.desk_presses("2") == ["Hangup"]
    await desk.over("completed")
    assert await call.result() == "not_taken"
    assert await call.desk_presses("1") == ["Hangup"], "it is too late now"
    await call.assert_they_talk_on()
    await call.hangs_up()


async def test_a_consulted_call_that_the_carrier_refuses_changes_nothing(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support)
    outbound.servers["twilio"].next("dial", fails(400, 21210, "no"), fails(400, 21210, "no"))
    status, error = await call.asks(to=DESK, mode="warm")
    assert (status, error["code"]) == (502, "carrier_refused")
    await call.assert_they_talk_on()
    await call.consults()  # another try
    await call.hangs_up()
    assert await call.result() == "caller_left"


async def test_the_callers_number_is_shown_if_the_carrier_allows_it(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    assert desk.call.resource["from"] == CALLER
    await desk.over("busy")
    await call.result()
    outbound.servers["twilio"].next("dial", fails(400, 21210, "the number is not verified"))
    desk = await call.consults()
    assert desk.call.resource["from"] == OWN
    await desk.over("busy")
    await call.result()
    await call.hangs_up()


async def test_a_caller_who_hangs_up_meanwhile_ends_the_other_call(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await desk.rings()
    await call.hangs_up()
    assert await call.result() == "caller_left"
    await eventually(lambda: desk.hung_up, "nothing rings on")
    assert await call.desk_presses("1") == ["Hangup"]


async def test_the_agent_takes_the_caller_back(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    assert (await call.asks("transfer", to=DESK, mode="warm"))[0] == 409
    assert (await call.asks("transfer/withdraw"))[0] == 200
    assert await call.result() == "withdrawn"
    await eventually(lambda: desk.hung_up, "nothing rings on")
    assert (await call.asks("transfer/withdraw"))[0] == 409
    await call.assert_they_talk_on()
    await call.hangs_up()


async def test_a_caller_who_cannot_be_moved_stays_with_the_agent(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await call.desk_answers()
    outbound.servers["twilio"].next("update", fails(400, 21220, "no"))
    assert await call.desk_presses("1") == ["Hangup"]
    assert await call.result() == "failed"
    await eventually(lambda: desk.hung_up, "the desk is hung up")
    await call.assert_they_talk_on()
    await call.hangs_up()


async def test_callbacks_that_come_twice_and_in_any_order(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    desk.call.resource["status"] = "in-progress"
    documents = [(await call.key("1")).text for _ in range(2)]  # before the callback of the answer
    assert documents[0] == documents[1]
    assert len(call.phone.call.updates) == 1
    for status in ("in-progress", "ringing", "completed"):
        answered = await desk.server.progress(desk.call, status)
        assert answered is not None
        assert answered.status == 200
    assert await call.result() == "joined"
    await call.caller.closed()
    await call.agent.hang_up()
    assert (await outbound.ended(call.session))["reason"] == "transferred"


async def test_a_desk_that_has_left_by_the_time_the_caller_is_moved(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await call.desk_answers()

    async def and_leaves(_: Any, request: Any, act: Any) -> Any:
        await desk.server.progress(desk.call, "completed")
        return act()

    outbound.servers["twilio"].next("update", and_leaves)
    await call.key("1")
    await eventually(lambda: call.phone.hung_up, "the caller is not left alone")
    await call.caller.closed()
    await call.agent.hang_up()
    await outbound.ended(call.session)


async def test_exotel_has_no_warm_transfer_and_says_so(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "exotel")
    status, error = await call.asks(to=DESK, mode="warm")
    assert (status, error["code"]) == (422, "carrier_cannot")
    assert "Exotel" in error["message"]
    await call.hangs_up()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"to": "+882123456789", "mode": "warm"}, 403, "number_refused"),
        ({"to": DESK, "mode": "warm", "announcement": "\x00"}, 400, "bad_request"),
        ({"to": DESK, "mode": "hot"}, 422, "invalid_parameter"),
        ({"to": DESK, "announcement": WORDS}, 422, "invalid_parameter"),
    ],
)
async def test_a_warm_transfer_that_is_refused_calls_nobody(
    outbound: Any, support: Agent, body: dict[str, str], status: int, code: str
) -> None:
    call = await start_talk(outbound, support)
    before = outbound.dial_count()
    answered, error = await call.asks(**body)
    assert (answered, error["code"]) == (status, code), error
    assert outbound.dial_count() == before
    await call.hangs_up()


async def test_callbacks_of_strangers_are_refused(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    found = await call.consultation()
    base = f"https://us-west.voice.test/callbacks/twilio/{call.session}/consultation"
    fields = desk.server.fields(desk.call, Digits="1")
    assert (await desk.server.post(f"{base}/{found['id']}/taken", fields, signed=False)).status == 403
    assert (await desk.server.post(f"{base}/another/taken", fields)).status == 404
    assert call.phone.call.updates == []
    await call.hangs_up()
    await call.result()
