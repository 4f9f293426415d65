# SPDX-License-Identifier: BSD-2-Clause
"""Hang-ups and transfers of callers who have not heard their agent out, and how much they have heard."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from serializers.events import Clear, Mark, Media, Played, Start
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentCall
from tests.harness.callees import Callee
from tests.harness.caller import Caller
from tests.harness.coupling_fixtures import coupling, start_gateway, tables  # noqa: F401 - fixtures
from tests.harness.failing_server import fails
from tests.harness.frames import CLOSE, PING, PONG
from tests.harness.transcripts import talk

DESK = "+14155550177"
STREAM = Start("CA1", "MZ00000000000000000000000000000001")
FRAME_MS = 20


class PlayingCarrier:
    """The carrier's end of a stream. It plays as fast as the test says, and returns marks."""

    def __init__(self, carrier: str, caller: Caller) -> None:
        self._dialect = DIALECTS[carrier]
        self._caller = caller
        self._queue: list[Mark | int] = []
        self.played_ms = 0

    async def receives(self, count: int) -> None:
        """Receive so many messages of the agent's and the gateway's."""
        for _ in range(count):
            event = self._dialect.read_agent((await self._caller.hear()).payload)
            if isinstance(event, Media):
                self._queue.append(FRAME_MS)
            elif isinstance(event, Mark):
                self._queue.append(event)
            elif isinstance(event, Clear):
                marks = [queued for queued in self._queue if isinstance(queued, Mark)]
                self._queue = []
                for mark in marks:
                    self._returns(mark)

    def plays(self, ms: int) -> None:
        """Play so much of what was received, and return the marks that are reached."""
        while self._queue and (ms or isinstance(self._queue[0], Mark)):
            queued = self._queue.pop(0)
            if isinstance(queued, Mark):
                self._returns(queued)
            else:
                ms -= queued
                self.played_ms += queued

    def _returns(self, mark: Mark) -> None:
        self._caller.say(self._dialect.write_carrier(Played(mark.name, sequence=9), STREAM))


class Talk:
    """An outbound call that was answered: its session, the carrier's and the agent's end."""

    def __init__(self, outbound: Any, session: str, phone: Callee, caller: Caller, agent: AgentCall) -> None:
        self.outbound = outbound
        self.session = session
        self.phone = phone
        self.caller = caller
        self.agent = agent
        self.carrier = PlayingCarrier(phone.carrier, caller)

    async def agent_says(self, frames: int) -> None:
        """Let the agent send so much sound at once; the carrier receives it, and plays nothing yet."""
        sound = DIALECTS[self.phone.carrier].write_agent(Media(bytes([0x7F] * 160)), STREAM)
        for _ in range(frames):
            self.agent.say(sound)
        await self.carrier.receives(frames)

    def asks(self, what: str, **body: Any) -> asyncio.Task[tuple[int, Any]]:
        """Ask for something through the API; the answer may take a while."""
        return asyncio.create_task(self.outbound.post(f"/v1/sessions/{self.session}/call/{what}", body))

    async def heard_ms(self) -> int | None:
        found: int | None = (await self.outbound.get(f"/v1/sessions/{self.session}"))["heard_ms"]
        return found

    async def assert_both_hear_each_other(self) -> None:
        """A message from each side reaches the other, and nothing but these."""
        said = talk(self.phone.carrier)[0]
        self.caller.say(said)
        assert (await self.agent.hear()).payload == said.encode()
        self.agent.send(self.agent.frame(PING, b"there?"))
        ping = await self.caller.hear()
        assert (ping.opcode, ping.payload) == (PING, b"there?")
        self.caller.send(self.caller.frame(PONG, b"there?"))
        assert (await self.agent.hear()).opcode == PONG


async def start_talk(outbound: Any, support: Agent, carrier: str = "twilio", **more: Any) -> Talk:
    session, phone = await outbound.dial(carrier, **more)
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await outbound.wait_for_agent(session, phone)
    return Talk(outbound, session, phone, caller, agent)


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_a_call_is_hung_up_after_the_last_sound(outbound: Any, support: Agent, carrier: str) -> None:
    call = await start_talk(outbound, support, carrier)
    await call.agent_says(700)  # 14 s
    asked = call.asks("hangup")
    await call.carrier.receives(1)  # the gateway's mark
    call.carrier.plays(13_980)
    await call.assert_both_hear_each_other()
    assert not call.phone.hung_up
    assert not asked.done()
    call.carrier.plays(20)
    status, answer = await asked
    assert (status, answer["action"], call.carrier.played_ms) == (200, "hung_up", 14_000)
    assert call.phone.hung_up
    await call.caller.closed()
    assert (await call.agent.closed())[0] == 1000
    record = await outbound.ended(call.session)
    assert record["reason"] == "hung_up"
    assert record["heard_ms"] == pytest.approx(14_000, abs=100)


async def test_a_call_is_hung_up_at_once_if_that_is_asked(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(700)
    status, _ = await call.asks("hangup", at_once=True)
    assert (status, call.phone.hung_up, call.carrier.played_ms) == (200, True, 0)
    assert (await call.caller.closed())[0] == 1000
    await call.agent.closed()
    assert (await outbound.ended(call.session))["heard_ms"] < 14_000


async def test_sound_that_is_added_meanwhile_is_heard_as_well(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(50)
    asked = call.asks("hangup")
    await call.carrier.receives(1)
    await call.agent_says(50)
    call.carrier.plays(1000)
    await call.carrier.receives(1)  # another mark, behind the rest
    call.carrier.plays(980)
    await call.assert_both_hear_each_other()
    assert not call.phone.hung_up
    call.carrier.plays(20)
    assert (await asked)[0] == 200
    await call.agent.closed()
    await outbound.ended(call.session)


async def test_a_clear_ends_the_wait(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(700)
    asked = call.asks("hangup")
    await call.carrier.receives(1)
    call.agent.say(DIALECTS["twilio"].write_agent(Clear(), STREAM))
    await call.carrier.receives(1)
    await eventually(lambda: call.phone.hung_up or asked.done(), "the marks came back")
    assert (await asked)[0] == 200
    await call.agent.closed()
    assert (await outbound.ended(call.session))["heard_ms"] < 14_000


async def test_a_call_is_transferred_after_the_last_sound(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(600)
    asked = call.asks("transfer", to=DESK)
    await call.carrier.receives(1)
    call.carrier.plays(11_980)
    await call.assert_both_hear_each_other()
    assert call.phone.call.updates == []
    call.carrier.plays(20)
    assert (await asked)[0] == 200
    assert len(call.phone.call.updates) == 1
    assert (await call.caller.closed())[0] == 1000
    await call.agent.hang_up()
    assert (await outbound.ended(call.session))["reason"] == "transferred"


async def test_an_agent_that_leaves_meanwhile_does_not_keep_the_call_from_its_transfer(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(600)
    asked = call.asks("transfer", to=DESK)
    await call.carrier.receives(1)
    assert (await call.agent.hang_up())[0] == 1000
    await call.carrier.receives(1)  # the mark of the agent's end
    call.caller.send(call.caller.frame(PING, b"there?"))
    assert (await call.caller.hear()).opcode == PONG
    assert call.phone.call.updates == []
    call.carrier.plays(12_000)
    assert (await asked)[0] == 200
    assert len(call.phone.call.updates) == 1
    assert (await call.caller.closed())[0] == 1000
    record = await outbound.ended(call.session)
    assert (record["state"], record["reason"]) == ("ended", "transferred")
    assert not call.phone.hung_up


async def test_a_transfer_that_the_carrier_refuses_after_the_agent_has_left_ends_the_call(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(100)
    outbound.servers["twilio"].next("update", fails(400, 21201, "the number is wrong"))
    asked = call.asks("transfer", to=DESK)
    await call.carrier.receives(1)
    await call.agent.hang_up()
    await call.carrier.receives(1)
    call.carrier.plays(2000)
    assert (await asked)[0] == 502
    await call.caller.closed()
    await eventually(lambda: call.phone.hung_up, "the call is hung up")
    await outbound.ended(call.session)


async def test_a_caller_who_hangs_up_meanwhile_ends_the_wait(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(600)
    asked = call.asks("transfer", to=DESK)
    await call.carrier.receives(1)
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.closed()
    status, answer = await asked
    assert (status, answer["error"]["code"]) == (409, "call_not_active")
    assert (await outbound.ended(call.session))["reason"] == "caller_hangup"
    assert call.phone.call.updates == []


async def test_nothing_is_waited_for_if_the_agent_has_said_nothing(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    assert (await call.asks("hangup"))[0] == 200
    frame = await call.caller.next()
    assert frame is not None
    assert frame.opcode == CLOSE, "no mark"
    await call.agent.closed()
    assert (await outbound.ended(call.session))["heard_ms"] == 0


async def test_how_much_was_played_is_told_while_the_call_runs(outbound: Any, support: Agent) -> None:
    call = await start_talk(outbound, support)
    assert await call.heard_ms() == 0
    await call.agent_says(20)
    for _ in range(2):
        heard_ms = await call.heard_ms()
        assert heard_ms is not None
        assert heard_ms <= 400
    while (await call.heard_ms() or 0) < 390:
        await asyncio.sleep(0.02)
    await call.agent_says(3000)
    call.agent.say(DIALECTS["twilio"].write_agent(Clear(), STREAM))
    await call.carrier.receives(1)
    heard_ms = await call.heard_ms()
    assert heard_ms is not None
    assert 390 <= heard_ms < 60_000
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.closed()
    assert (await outbound.ended(call.session))["heard_ms"] == pytest.approx(heard_ms, abs=100)


async def test_the_last_words_that_a_caller_did_not_wait_for_were_not_heard(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support)
    await call.agent_says(3000)
    await call.agent.hang_up()
    await call.carrier.receives(1)
    call.caller.send(call.caller.close_frame(1000))
    await call.caller.closed()
    await outbound.ended(call.session)

    def heard() -> bool:
        return bool(outbound.gateway.sessions(call.session)[0]["heard_ms"] < 60_000)

    await eventually(heard, "the record is corrected")


def test_the_sound_is_as_long_as_the_tests_say() -> None:
    sound = json.loads(DIALECTS["twilio"].write_agent(Media(bytes(160)), STREAM))
    assert len(base64.b64decode(sound["media"]["payload"])) == FRAME_MS * 8
