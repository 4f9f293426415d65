# SPDX-License-Identifier: BSD-2-Clause
"""Calls that are hung up, transferred and sent digits through the API, and hung up for an agent that ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall
from tests.harness.call_assertions import assert_agent_heard
from tests.harness.callees import Callee
from tests.harness.caller import Caller
from tests.harness.failing_server import fails, resets
from tests.harness.frames import CLOSE, PING, PONG, TEXT
from tests.harness.rest_accounts import SERVERS
from tests.harness.rest_server import read_document
from tests.harness.transcripts import replies, talk

CARRIERS = tuple(SERVERS)
DESK = "+14155550177"


@dataclass
class Talk:
    """A call out that is answered, and its agent."""

    session: str
    phone: Callee
    caller: Caller
    agent: AgentCall


async def talk_to(office: Any, support: Agent, carrier: str, **more: Any) -> Talk:
    session, phone = await office.dial(carrier, **more)
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(said)
    await office.streaming(session, phone)
    return Talk(session, phone, caller, agent)


async def control(office: Any, session: str, what: str, **wanted: Any) -> tuple[int, Any]:
    status, answer = await office.post(f"/v1/sessions/{session}/call/{what}", wanted)
    return status, answer.get("error", answer)


async def hangs_up(office: Any, call: Talk) -> None:
    """The called party does."""
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.closed()
    await office.over(call.session)


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_a_call_is_hung_up(office: Any, support: Agent, carrier: str) -> None:
    call = await talk_to(office, support, carrier)
    status, answer = await control(office, call.session, "hangup")
    assert (status, answer["action"], answer["session"]) == (200, "hung_up", call.session)
    assert call.phone.hung_up
    await call.agent.closed()
    await call.caller.closed()
    record = await office.over(call.session)
    assert (record["state"], record["reason"]) == ("ended", "hung_up")
    status, answer = await control(office, call.session, "hangup")
    assert (status, answer["code"]) == (409, "call_not_active")


async def test_a_call_whose_stream_the_carrier_closes_first_was_hung_up_all_the_same(
    office: Any, support: Agent
) -> None:
    call = await talk_to(office, support, "twilio")

    async def and_closes(_: Any, request: Any, act: Any) -> Any:
        call.caller.send(call.caller.close_frame(1000))
        assert await call.agent.closed() == (1000, "")
        return act()

    office.servers["twilio"].next("update", and_closes)
    assert (await control(office, call.session, "hangup"))[0] == 200
    assert (await office.over(call.session))["reason"] == "hung_up"


async def test_a_call_that_the_carrier_does_not_hang_up_goes_on(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "twilio")
    office.servers["twilio"].next("update", fails(503), resets)
    assert (await control(office, call.session, "hangup"))[0] == 502
    assert (await control(office, call.session, "hangup"))[0] == 502
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await hangs_up(office, call)
    assert (await office.over(call.session))["reason"] == "caller_hangup"


@pytest.mark.parametrize(
    ("what", "wanted"), [("hangup", {}), ("transfer", {"to": DESK}), ("dtmf", {"digits": "1"})]
)
async def test_what_exotel_cannot_do(office: Any, support: Agent, what: str, wanted: dict[str, str]) -> None:
    call = await talk_to(office, support, "exotel")
    status, error = await control(office, call.session, what, **wanted)
    assert (status, error["code"], error["type"]) == (422, "carrier_cannot", "unprocessable")
    assert "Exotel" in error["message"]
    await hangs_up(office, call)


@pytest.mark.parametrize("carrier", ["telnyx", "plivo"])
async def test_digits_are_sent(office: Any, support: Agent, carrier: str) -> None:
    call = await talk_to(office, support, carrier)
    assert (await control(office, call.session, "dtmf", digits="1w2#"))[0] == 200
    if carrier == "plivo":
        assert [one["digits"] for one in call.phone.call.digits] == ["1w2#"]
    else:
        assert [body["digits"] for action, body in call.phone.call.commands] == ["1w2#"]
    status, error = await control(office, call.session, "dtmf", digits="hello")
    assert (status, error["param"]) == (422, "digits")
    await hangs_up(office, call)


async def test_twilio_sends_no_digits(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "twilio")
    status, error = await control(office, call.session, "dtmf", digits="1")
    assert (status, error["code"]) == (422, "carrier_cannot")
    await hangs_up(office, call)


async def transferred(office: Any, call: Talk, to: str) -> None:
    """The carrier has it, asked in its own way."""
    phone = call.phone
    if phone.carrier == "twilio":
        document = read_document(phone.call.updates[-1].one("Twiml"))
    elif phone.carrier == "plivo":
        document = (await phone.server.transferred(phone.call)).document
    else:
        assert [(action, body["to"]) for action, body in phone.call.commands] == [("transfer", to)]
        return
    (dial,) = document.verbs
    assert (dial.tag, dial[0].text) == ("Dial", to)


async def over_there(call: Talk) -> None:
    """The transferred call is over, as its carrier tells."""
    phone = call.phone
    if phone.carrier == "telnyx":
        await phone.over("completed")
        return
    url = f"https://us-west.voice.test/callbacks/{phone.carrier}/{call.session}/transferred"
    fields = {"DialCallStatus": "completed"}
    if phone.carrier == "twilio":
        answered = await phone.server.post(url, phone.server.fields(phone.call) | fields)
    else:
        answered = await phone.server.post(url, phone.server.fields(phone.call, "Redirect", "in-progress"))
    assert answered.status == 200
    assert [verb.tag for verb in read_document(answered.text).verbs] == ["Hangup"]


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_a_call_is_transferred_and_its_agent_kept_from_hanging_up(
    office: Any, support: Agent, carrier: str
) -> None:
    call = await talk_to(office, support, carrier)
    status, answer = await control(office, call.session, "transfer", to=DESK)
    assert (status, answer.get("action")) == (200, "transferred"), answer
    assert (await call.caller.closed())[0] == 1000
    await call.caller.ended()
    await transferred(office, call, DESK)
    # Nobody hears the agent any more, and its socket lives.
    call.agent.say(replies(carrier)[0])
    call.agent.send(call.agent.frame(PING, b"there?"))
    heard = await call.agent.hear()
    assert (heard.opcode, heard.payload) == (PONG, b"there?")
    assert office.gateway.sessions(call.session)[0]["state"] == "running"
    await over_there(call)
    await call.agent.closed()
    record = await office.over(call.session)
    assert (record["state"], record["reason"]) == ("ended", "transferred")
    assert not call.phone.hung_up or carrier == "telnyx"


async def test_an_agent_that_was_kept_may_go(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "twilio")
    await control(office, call.session, "transfer", to="sip:desk@pbx.test")
    await call.caller.closed()
    assert (await call.agent.hang_up())[0] == 1000
    assert (await office.over(call.session))["reason"] == "transferred"
    assert not call.phone.hung_up


async def test_a_stream_that_the_carrier_closes_for_the_transfer_does_not_end_the_agent(
    office: Any, support: Agent
) -> None:
    """docs/reference/carriers.md §2.6: Twilio tears the stream down before it answers."""
    call = await talk_to(office, support, "twilio")

    async def and_closes(_: Any, request: Any, act: Any) -> Any:
        stop = {"event": "stop", "streamSid": "MZ1", "stop": {"callSid": call.phone.call_id}}
        call.caller.say(json.dumps(stop))
        await call.caller.hang_up()
        return act()

    office.servers["twilio"].next("update", and_closes)
    assert (await control(office, call.session, "transfer", to=DESK))[0] == 200
    assert (await call.agent.hear()).opcode == TEXT  # the stop
    call.agent.send(call.agent.frame(PING, b"there?"))
    assert (await call.agent.hear()).opcode == PONG
    await over_there(call)
    await call.agent.closed()
    assert (await office.over(call.session))["reason"] == "transferred"


async def test_a_transfer_that_the_carrier_refuses_changes_nothing(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "twilio")
    office.servers["twilio"].next("update", fails(400, 21201, "the number is wrong"))
    status, error = await control(office, call.session, "transfer", to=DESK)
    assert (status, error["code"]) == (502, "carrier_refused")
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await hangs_up(office, call)
    assert (await office.over(call.session))["reason"] == "caller_hangup"


@pytest.mark.parametrize(
    ("to", "status", "code"),
    [
        ("+882123456789", 403, "number_refused"),
        ("4155550142", 422, "invalid_parameter"),
        ("", 422, "invalid_parameter"),
        ("sip:", 422, "invalid_parameter"),
        ("sip:a b@pbx.test", 422, "invalid_parameter"),
    ],
)
async def test_where_no_call_may_go(office: Any, support: Agent, to: str, status: int, code: str) -> None:
    call = await talk_to(office, support, "twilio")
    answered, error = await control(office, call.session, "transfer", to=to)
    assert (answered, error["code"]) == (status, code)
    assert call.phone.call.updates == []
    await hangs_up(office, call)


async def test_sessions_that_are_not_there(office: Any) -> None:
    status, error = await control(office, "7c9e6679-7425-40de-944b-e07fc1f90ae7", "hangup")
    assert (status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize("carrier", ["twilio", "telnyx"])
async def test_a_call_is_hung_up_when_its_agent_ends_and_all_was_played(
    office: Any, support: Agent, carrier: str
) -> None:
    call = await talk_to(office, support, carrier)
    call.agent.say(replies(carrier)[0])
    await call.caller.hear()
    assert (await call.agent.hang_up())[0] == 1000
    record = await office.over(call.session)
    assert (record["state"], record["reason"]) == ("ended", "agent_ended")
    mark = json.loads((await call.caller.hear()).payload)
    assert mark["event"] == "mark"
    assert not call.phone.hung_up
    call.caller.say(talk(carrier)[0])  # it talks on meanwhile, and nobody hears it
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    assert call.phone.hung_up


async def test_plivo_tells_what_it_played_by_a_checkpoint(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "plivo")
    call.agent.say(replies("plivo")[0])
    await call.caller.hear()
    await call.agent.hang_up()
    checkpoint = json.loads((await call.caller.hear()).payload)
    assert checkpoint["event"] == "checkpoint"
    assert not call.phone.hung_up
    played = {"event": "playedStream", "sequenceNumber": 9, "streamId": "x", "name": checkpoint["name"]}
    call.caller.say(json.dumps(played))
    assert (await call.caller.closed())[0] == 1000
    assert call.phone.hung_up


async def test_a_silent_agent_is_not_waited_for(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "twilio")
    await call.agent.hang_up()
    heard = await call.caller.next()
    assert heard is not None
    assert heard.opcode == CLOSE
    assert call.phone.hung_up
    await office.over(call.session)


async def test_a_caller_who_hangs_up_while_the_last_words_are_played(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "twilio")
    call.agent.say(replies("twilio")[0])
    await call.caller.hear()
    await call.agent.hang_up()
    await call.caller.hear()
    await call.caller.hang_up()
    assert (await office.over(call.session))["reason"] == "agent_ended"
    await eventually(lambda: office.gateway.status()["calls"] == 0, "the call is forgotten")


async def test_exotel_plays_the_last_words_before_its_stream_is_closed(office: Any, support: Agent) -> None:
    call = await talk_to(office, support, "exotel")
    call.agent.say(replies("exotel")[0])
    await call.caller.hear()
    await call.agent.hang_up()
    mark = json.loads((await call.caller.hear()).payload)
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    await office.over(call.session)
