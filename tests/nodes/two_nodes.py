# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's call at one machine's gateway, whose next socket comes to another's."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import Any

import aiohttp
import redis

from gateway.simulator.waiting import eventually
from gateway.store.redis import redis_keys as keys
from tests.harness.agent import Agent, AgentCall
from tests.harness.api_requests import KEY
from tests.harness.caller import Caller
from tests.harness.carrier_reconnect import on_stream, opening
from tests.harness.document_calls import DocumentCalls
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Placed
from tests.harness.transcripts import replies, talk


async def ask(gateway: Gateway, method: str, path: str, value: Any = None, key: str = KEY) -> tuple[int, Any]:
    """One request with a key of acme's on a connection of its own; the status and the body."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.request(method, gateway.url + path, json=value) as answer,
    ):
        return answer.status, await answer.json()


def lines_of(gateway: Gateway, event: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the lines of a gateway's log with this event and these fields."""
    lines = [line for line in gateway.log_lines() if line["event"] == event]
    return [line for line in lines if all(line.get(name) == value for name, value in fields.items())]


@dataclass
class TravellingCall:
    """A running call of the gateway `at`, and its carrier's latest socket, wherever that came."""

    carrier: str
    line: DocumentCalls
    at: Gateway
    placed: Placed
    caller: Caller
    agent: AgentCall
    count: int = 1

    @property
    def session(self) -> str:
        return self.agent.session

    @property
    def latest(self) -> str:
        return f"stream-{self.count}"

    async def both_hear(self) -> None:
        """Assert that messages go both ways; each with the stream id that it knows."""
        for message in talk(self.carrier):
            self.caller.say(on_stream(self.carrier, message, self.latest))
            heard = await self.agent.hear()
            assert json.loads(heard.payload) == json.loads(on_stream(self.carrier, message, "stream-1"))
        for message in replies(self.carrier):
            self.agent.say(on_stream(self.carrier, message, "stream-1"))
            heard = await self.caller.hear()
            expected = json.loads(on_stream(self.carrier, message, self.latest))
            assert json.loads(heard.payload) == expected, (heard.payload[:200], self.latest)

    async def comes_to(self, gateway: Gateway) -> Caller:
        """Open the call's next socket at a gateway, and send its opening."""
        self.count += 1
        there = DocumentCalls(gateway, self.line.server, self.carrier)
        caller = await there.dial(self.placed.stream_url)
        assert caller.status == 101, caller.body
        for message in opening(self.carrier, self.placed.call_id, self.latest):
            caller.say(message)
        return caller

    async def goes_on_at(self, gateway: Gateway) -> None:
        """Open the next socket at a gateway, and wait until the call has it."""
        before = self.continuations()
        self.caller = await self.comes_to(gateway)
        if gateway is not self.at:
            gateway.upgrades -= 1  # no line there tells of a call's end
            self.at.upgrades += 1
        await eventually(lambda: self.continuations() > before, "the call goes on")

    def continuations(self) -> int:
        return len(lines_of(self.at, "call continued", session=self.session))

    async def is_lost(self) -> None:
        """Wait until the call waits for its next socket."""
        url = tomllib.loads((self.at.directory / "patchbay.toml").read_text())["store"]["url"]
        with redis.Redis.from_url(url) as store:
            key = keys.value("call_lost", self.session)
            await eventually(lambda: store.exists(key), "the call waits for another socket")

    async def hangs_up(self) -> None:
        """Hang up as the caller does, and wait until the session is over."""
        self.caller.send(self.caller.close_frame(1000))
        assert (await self.agent.closed())[0] == 1000
        await self.is_over("caller_hangup")

    async def is_over(self, reason: str) -> None:
        """Wait until the session's gateway has logged its end, with this reason."""
        await eventually(lambda: lines_of(self.at, "call ended", session=self.session), "the call is over")
        (line,) = lines_of(self.at, "call ended", session=self.session)
        assert line["reason"] == reason


async def call_at(gateway: Gateway, line: DocumentCalls, agent: Agent) -> TravellingCall:
    """Place a call at a gateway, and wait until its agent has it."""
    line = DocumentCalls(gateway, line.server, line.carrier)
    placed = await line.place()
    caller = await line.dial(placed.stream_url)
    assert caller.status == 101, caller.body
    sent = [caller.say(message) for message in opening(line.carrier, placed.call_id, "stream-1")]
    taken = await agent.call()
    await taken.opening(sent)
    return TravellingCall(line.carrier, line, gateway, placed, caller, taken)
