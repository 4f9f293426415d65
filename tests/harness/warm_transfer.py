# SPDX-License-Identifier: BSD-2-Clause
"""A call whose caller is to be transferred warm, with its agent and the telephone of who may take it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from gateway.simulator.waiting import eventually
from serializers.events import Media, Start
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentCall
from tests.harness.call_assertions import assert_agent_heard
from tests.harness.callees import Callee, next_callee
from tests.harness.caller import Caller
from tests.harness.rest_server import Answered, read_document
from tests.harness.transcripts import talk

DESK = "+14155550177"
CALLER, OWN = "+14155550142", "+14155550199"
WORDS = "A customer asks about order 4711. Press 1 to take the call."
STREAM = Start("CA1", "MZ00000000000000000000000000000001")


@dataclass
class Talk:
    """An outbound call that was answered, with its agent; `desk`: who may take it."""

    outbound: Any
    session: str
    phone: Callee
    caller: Caller
    agent: AgentCall
    desk: Callee | None = None

    @property
    def carrier(self) -> str:
        return self.phone.carrier

    async def asks(self, what: str = "transfer", **body: Any) -> tuple[int, Any]:
        status, answer = await self.outbound.post(f"/v1/sessions/{self.session}/call/{what}", body)
        return status, answer.get("error", answer)

    async def consults(self, **more: Any) -> Callee:
        """Ask for a warm transfer to the desk; return its telephone, which rings."""
        server = self.outbound.servers[self.carrier]
        before = len(server.calls)
        status, answer = await self.asks(to=DESK, mode="warm", announcement=WORDS, **more)
        assert (status, answer.get("action")) == (200, "consulting"), answer
        self.desk = await next_callee(self.carrier, server, before)
        return self.desk

    async def consultation(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.outbound.get(f"/v1/sessions/{self.session}"))["consultation"]
        return found

    async def result(self) -> str:
        """Wait until the consultation is over, and return its result."""
        async with asyncio.timeout(60):
            while (found := await self.consultation())["result"] is None:
                await asyncio.sleep(0.02)
        return str(found["result"])

    async def desk_answers(self) -> Answered:
        """Let the desk answer; return the document that it is given."""
        desk = self.desk
        assert desk is not None
        if self.carrier == "telnyx":
            answered = await desk.server.event(desk.call, "call.answered")
            assert isinstance(answered, Answered)
            await eventually(lambda: desk.call.commands, "the announcement is spoken")
            return answered
        placed = await desk.server.answer(desk.call)
        if self.carrier == "twilio":
            answered = await desk.server.progress(desk.call, "in-progress")
            assert answered is not None
            assert answered.status == 200, answered.text
        assert isinstance(placed.answered, Answered)
        return placed.answered

    async def desk_presses(self, key: str) -> list[str]:
        """Let the desk press a key; return the verbs of the document that it is given."""
        return [verb.tag for verb in read_document((await self.key(key)).text).verbs]

    async def key(self, key: str) -> Answered:
        desk = self.desk
        assert desk is not None
        found = await self.consultation()
        if self.carrier == "telnyx":
            ended = await desk.server.event(
                desk.call, "call.gather.ended", digits=key, status="valid" if key else "timeout"
            )
            assert isinstance(ended, Answered)
            assert ended.status == 200, ended.text
            return ended
        path = f"/callbacks/{self.carrier}/{self.session}/consultation/{found['id']}/taken"
        server, url = desk.server, f"https://us-west.voice.test{path}"
        if self.carrier == "twilio":
            answered = await server.post(url, server.fields(desk.call, Digits=key))
        else:
            fields = server.fields(desk.call, "Redirect", "in-progress") | {"Digits": key}
            answered = await server.post(url, fields)
        assert isinstance(answered, Answered)
        assert answered.status == 200, answered.text
        return answered

    async def assert_they_talk_on(self) -> None:
        """What each says reaches the other: the caller is back with the agent."""
        await assert_agent_heard(self.agent, [self.caller.say(talk(self.carrier)[0])])
        words = DIALECTS[self.carrier].write_agent(Media(bytes([0x55] * 160)), STREAM)
        self.agent.say(words)
        async with asyncio.timeout(60):
            while (await self.caller.hear()).payload != words.encode():
                pass

    async def hangs_up(self) -> None:
        self.caller.send(self.caller.close_frame(1000))
        await self.agent.closed()
        await self.outbound.ended(self.session)


async def start_talk(outbound: Any, support: Agent, carrier: str = "twilio") -> Talk:
    session, phone = await outbound.dial(carrier)
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await outbound.wait_for_agent(session, phone)
    return Talk(outbound, session, phone, caller, agent)


def conference_of(text: str) -> Any:
    """Return the element of the conference in a document."""
    (first, *_) = read_document(text).verbs
    return first if first.tag == "Conference" else first[0]
