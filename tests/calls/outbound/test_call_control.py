# SPDX-License-Identifier: BSD-2-Clause
"""Calls that are hung up, transferred and sent digits through the API, and hung up for an agent that ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.config import AgentSettings
from gateway.model.session_ids import ulid_of
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
LONGEST_S = AgentSettings.model_fields["max_session_duration"].default


@dataclass
class Talk:
    """An outbound call that was answered, and its agent."""

    session: str
    phone: Callee
    caller: Caller
    agent: AgentCall


async def start_talk(outbound: Any, support: Agent, carrier: str, **more: Any) -> Talk:
    session, phone = await outbound.dial(carrier, **more)
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await outbound.wait_for_agent(session, phone)
    return Talk(session, phone, caller, agent)


async def control(outbound: Any, session: str, what: str, **body: Any) -> tuple[int, Any]:
    status, answer = await outbound.post(f"/v1/sessions/{session}/call/{what}", body)
    return status, answer.get("error", answer)


async def hangs_up(outbound: Any, call: Talk) -> None:
    """Let the called party hang up, and wait for the end of the session."""
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.closed()
    await outbound.ended(call.session)


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_a_call_is_hung_up(outbound: Any, support: Agent, carrier: str) -> None:
    call = await start_talk(outbound, support, carrier)
    status, answer = await control(outbound, ulid_of(call.session) or "", "hangup")
    assert (status, answer["action"], answer["session"]) == (200, "hung_up", call.session)
    assert call.phone.hung_up
    await call.agent.closed()
    await call.caller.closed()
    record = await outbound.ended(call.session)
    assert (record["state"], record["reason"]) == ("ended", "hung_up")
    status, answer = await control(outbound, call.session, "hangup")
    assert (status, answer["code"]) == (409, "call_not_active")


async def test_a_call_whose_stream_the_carrier_closes_first_was_hung_up_all_the_same(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support, "twilio")

    async def and_closes(_: Any, request: Any, act: Any) -> Any:
        call.caller.send(call.caller.close_frame(1000))
        assert await call.agent.closed() == (1000, "")
        return act()

    outbound.servers["twilio"].next("update", and_closes)
    assert (await control(outbound, call.session, "hangup"))[0] == 200
    assert (await outbound.ended(call.session))["reason"] == "hung_up"


async def test_a_call_that_the_carrier_does_not_hang_up_goes_on(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "twilio")
    outbound.servers["twilio"].next("update", fails(503), resets)
    assert (await control(outbound, call.session, "hangup"))[0] == 502
    assert (await control(outbound, call.session, "hangup"))[0] == 502
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await hangs_up(outbound, call)
    assert (await outbound.ended(call.session))["reason"] == "caller_hangup"


@pytest.mark.parametrize(
    ("what", "body"), [("hangup", {}), ("transfer", {"to": DESK}), ("dtmf", {"digits": "1"})]
)
async def test_exotel_refuses_call_control(
    outbound: Any, support: Agent, what: str, body: dict[str, str]
) -> None:
    call = await start_talk(outbound, support, "exotel")
    status, error = await control(outbound, call.session, what, **body)
    assert (status, error["code"], error["type"]) == (422, "carrier_cannot", "unprocessable")
    assert "Exotel" in error["message"]
    await hangs_up(outbound, call)


@pytest.mark.parametrize("carrier", ["telnyx", "plivo"])
async def test_digits_are_sent(outbound: Any, support: Agent, carrier: str) -> None:
    call = await start_talk(outbound, support, carrier)
    assert (await control(outbound, call.session, "dtmf", digits="1w2#"))[0] == 200
    if carrier == "plivo":
        assert [one["digits"] for one in call.phone.call.digits] == ["1w2#"]
    else:
        assert [body["digits"] for action, body in call.phone.call.commands] == ["1w2#"]
    status, error = await control(outbound, call.session, "dtmf", digits="hello")
    assert (status, error["param"]) == (422, "digits")
    await hangs_up(outbound, call)


async def test_twilio_sends_no_digits(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "twilio")
    status, error = await control(outbound, call.session, "dtmf", digits="1")
    assert (status, error["code"]) == (422, "carrier_cannot")
    await hangs_up(outbound, call)


async def transferred(outbound: Any, call: Talk, to: str) -> None:
    """Check that the carrier got the transfer, each in its own way."""
    phone = call.phone
    if phone.carrier == "twilio":
        document = read_document(phone.call.updates[-1].one("Twiml"))
    elif phone.carrier == "plivo":
        document = (await phone.server.transferred(phone.call)).document
    else:
        ((action, body),) = phone.call.commands
        assert (action, body["to"], body["time_limit_secs"]) == ("transfer", to, LONGEST_S)
        return
    (dial,) = document.verbs
    assert (dial.tag, dial[0].text, dial.get("timeLimit")) == ("Dial", to, str(LONGEST_S))


async def over_there(call: Talk) -> None:
    """Let the carrier report that the transferred call is over."""
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
async def test_a_transferred_call_keeps_its_agents_socket_open(
    outbound: Any, support: Agent, carrier: str
) -> None:
    call = await start_talk(outbound, support, carrier)
    status, answer = await control(outbound, call.session, "transfer", to=DESK)
    assert (status, answer.get("action")) == (200, "transferred"), answer
    assert (await call.caller.closed())[0] == 1000
    await call.caller.ended()
    await transferred(outbound, call, DESK)
    # The agent's audio goes nowhere now, but its socket is open.
    call.agent.say(replies(carrier)[0])
    call.agent.send(call.agent.frame(PING, b"there?"))
    received = await call.agent.hear()
    assert (received.opcode, received.payload) == (PONG, b"there?")
    assert outbound.gateway.sessions(call.session)[0]["state"] == "running"
    await over_there(call)
    await call.agent.closed()
    record = await outbound.ended(call.session)
    assert (record["state"], record["reason"]) == ("ended", "transferred")
    assert not call.phone.hung_up or carrier == "telnyx"


async def test_an_agent_may_close_after_a_transfer(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "twilio")
    await control(outbound, call.session, "transfer", to="sip:desk@pbx.test")
    await call.caller.closed()
    assert (await call.agent.hang_up())[0] == 1000
    assert (await outbound.ended(call.session))["reason"] == "transferred"
    assert not call.phone.hung_up


async def test_a_stream_that_the_carrier_closes_for_the_transfer_does_not_end_the_agent(
    outbound: Any, support: Agent
) -> None:
    """docs/reference/carriers.md §2.6: Twilio tears the stream down before it answers."""
    call = await start_talk(outbound, support, "twilio")

    async def and_closes(_: Any, request: Any, act: Any) -> Any:
        stop = {"event": "stop", "streamSid": "MZ1", "stop": {"callSid": call.phone.call_id}}
        call.caller.say(json.dumps(stop))
        await call.caller.hang_up()
        return act()

    outbound.servers["twilio"].next("update", and_closes)
    assert (await control(outbound, call.session, "transfer", to=DESK))[0] == 200
    assert (await call.agent.hear()).opcode == TEXT  # the stop
    call.agent.send(call.agent.frame(PING, b"there?"))
    assert (await call.agent.hear()).opcode == PONG
    await over_there(call)
    await call.agent.closed()
    assert (await outbound.ended(call.session))["reason"] == "transferred"


async def test_a_transfer_that_the_carrier_refuses_changes_nothing(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "twilio")
    outbound.servers["twilio"].next("update", fails(400, 21201, "the number is wrong"))
    status, error = await control(outbound, call.session, "transfer", to=DESK)
    assert (status, error["code"]) == (502, "carrier_refused")
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await hangs_up(outbound, call)
    assert (await outbound.ended(call.session))["reason"] == "caller_hangup"


@pytest.mark.parametrize(
    ("to", "status", "code"),
    [
        ("+882123456789", 403, "number_refused"),
        ("4155550142", 422, "invalid_parameter"),
        ("", 422, "invalid_parameter"),
        ("sip:", 422, "invalid_parameter"),
        ("sip:a b@pbx.test", 422, "invalid_parameter"),
        ("sip:+882123456789@trunk.test", 403, "number_refused"),
        ("sips:%2B88212-345-6789;user=phone@trunk.test:5061", 403, "number_refused"),
        ("sip:14155550142@trunk.test", 403, "number_refused"),
        ("sip:desk@pbx.test?Route=x", 400, "bad_request"),
    ],
)
async def test_an_invalid_transfer_target_is_refused(
    outbound: Any, support: Agent, to: str, status: int, code: str
) -> None:
    call = await start_talk(outbound, support, "twilio")
    answered, error = await control(outbound, call.session, "transfer", to=to)
    assert (answered, error["code"]) == (status, code)
    assert call.phone.call.updates == []
    await hangs_up(outbound, call)


async def test_sessions_that_are_not_there(outbound: Any) -> None:
    status, error = await control(outbound, "7c9e6679-7425-40de-944b-e07fc1f90ae7", "hangup")
    assert (status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize("carrier", ["twilio", "telnyx"])
async def test_a_call_is_hung_up_when_its_agent_ends_and_all_was_played(
    outbound: Any, support: Agent, carrier: str
) -> None:
    call = await start_talk(outbound, support, carrier)
    call.agent.say(replies(carrier)[0])
    await call.caller.hear()
    assert (await call.agent.hang_up())[0] == 1000
    record = await outbound.ended(call.session)
    assert (record["state"], record["reason"]) == ("ended", "agent_ended")
    mark = json.loads((await call.caller.hear()).payload)
    assert mark["event"] == "mark"
    assert not call.phone.hung_up
    call.caller.say(talk(carrier)[0])  # it talks on meanwhile, and nobody hears it
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    assert call.phone.hung_up


async def test_plivo_tells_what_it_played_by_a_checkpoint(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "plivo")
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


async def test_a_silent_agent_is_not_waited_for(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "twilio")
    await call.agent.hang_up()
    received = await call.caller.next()
    assert received is not None
    assert received.opcode == CLOSE
    assert call.phone.hung_up
    await outbound.ended(call.session)


async def test_a_caller_who_hangs_up_while_the_last_words_are_played(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "twilio")
    call.agent.say(replies("twilio")[0])
    await call.caller.hear()
    await call.agent.hang_up()
    await call.caller.hear()
    await call.caller.hang_up()
    assert (await outbound.ended(call.session))["reason"] == "agent_ended"
    await eventually(lambda: outbound.gateway.status()["calls"] == 0, "the call is forgotten")


async def test_exotel_plays_the_last_words_before_its_stream_is_closed(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support, "exotel")
    call.agent.say(replies("exotel")[0])
    await call.caller.hear()
    await call.agent.hang_up()
    mark = json.loads((await call.caller.hear()).payload)
    call.caller.say(json.dumps(mark))
    assert (await call.caller.closed())[0] == 1000
    await outbound.ended(call.session)
