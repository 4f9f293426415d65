# SPDX-License-Identifier: BSD-2-Clause
"""The load: callers that come and go, and agents; most calls end well, some do not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator

from tests.harness.agent import AgentCall, AgentPort, upgrade_response
from tests.harness.caller import Caller, dial
from tests.harness.frames import CLOSE, TEXT
from tests.harness.socket_servers import SocketServer
from tests.harness.transcripts import opening_messages, replies, stop, talk

TALK_EVERY_S = 0.2
"""Seconds between frames, a tenth of a carrier's rate: leaks depend on calls, not on frames."""

SHORTEST_S, LONGEST_S = 0.5, 15.0
INSTANCES = 4
CALLERS = {"hangs up": 55, "stops, then hangs up": 20, "resets": 8, "half-closes": 5, "garbage": 3}
CALLERS |= {"asks for nobody": 3, "opens badly": 3, "gives up opening": 3}
AGENTS = {"talks": 80, "ends": 10, "resets": 5, "refuses": 3, "garbage": 2}
AGENT_WORDS = (2, 12)
"""The range of frames after which an agent ends a call."""

GARBAGE = b"\xff" * 32
"""Enough invalid bytes for a frame's header: the gateway would wait for the rest of fewer."""

SOUND = next(message for message in talk("twilio") if json.loads(message)["event"] == "media")
REPLY = next(message for message in replies("twilio") if json.loads(message)["event"] == "media")


def _choose(chance: random.Random, among: dict[str, int]) -> str:
    return chance.choices(list(among), list(among.values()))[0]


class Agents:
    """Instances that answer well or badly, by chance."""

    def __init__(self, seed: int) -> None:
        self.ports = [AgentPort() for _ in range(INSTANCES)]
        self.did: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._listeners = [SocketServer(self._serve) for _ in self.ports]

    async def start(self) -> None:
        for listener, port in zip(self._listeners, self.ports, strict=True):
            await listener.start(port.listen())

    async def stop(self) -> None:
        for listener in self._listeners:
            await listener.stop()
        for port in self.ports:
            port.free()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = AgentCall(reader, writer, masks=False)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET /readyz"):
                call.send(b"HTTP/1.1 200 Ready\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                parted = (line.partition(":") for line in head.split("\r\n")[1:-2])
                call.headers = {name.lower(): value.strip() for name, _, value in parted}
                await self._talk(call, _choose(self._chance, AGENTS))
            await call.pour(b"")
        await call.leave()

    async def _talk(self, call: AgentCall, how: str) -> None:
        self.did[how] += 1
        if how == "refuses":
            call.send(b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        call.send(upgrade_response(call))
        detail = self._chance.randint(*AGENT_WORDS) if how != "talks" else None
        for said in itertools.count():
            if said == detail:
                if how == "ends":
                    call.send(call.close_frame(1000))
                elif how == "resets":
                    call.reset()
                    return
                else:
                    call.send(GARBAGE)
            heard = await call.next()
            if heard is None:
                return
            if heard.opcode == CLOSE:
                call.send(call.frame(CLOSE, heard.payload[:2]))
            else:
                call.send(call.frame(TEXT, REPLY.encode()))


class Callers:
    """A constant number of callers: each that leaves is replaced."""

    def __init__(self, port: int, at_a_time: int, seed: int) -> None:
        self.did: Counter[str] = Counter()
        self._port = port
        self._at_a_time = at_a_time
        self._chance = random.Random(seed)
        self._lines: list[asyncio.Task[None]] = []
        self._enough = asyncio.Event()

    @property
    def made(self) -> int:
        """How many calls were placed."""
        return self.did.total()

    @contextlib.asynccontextmanager
    async def coming_and_going(self) -> AsyncIterator[None]:
        """Place calls while the block runs; the last ones end as they would have."""
        async with asyncio.TaskGroup() as lines:
            for number in range(self._at_a_time):
                self._lines.append(lines.create_task(self._line(number)))
            try:
                yield
            finally:
                self._enough.set()

    async def _line(self, number: int) -> None:
        await self._pause(number * TALK_EVERY_S * 5 / self._at_a_time)  # not all in the same moment
        while not self._enough.is_set():
            await self.call(_choose(self._chance, CALLERS), self._chance.uniform(SHORTEST_S, LONGEST_S))

    async def call(self, how: str, seconds: float) -> None:
        """Place one call, and carry it to the end of its socket."""
        self.did[how] += 1
        nobody = how == "asks for nobody"
        caller = await dial(self._port, f"/ws/twilio/{'nobody' if nobody else 'support'}.acme")
        assert caller.status == (404 if nobody else 101), (how, caller.status, caller.body)
        if not nobody:
            with contextlib.suppress(OSError):
                await self._talk(caller, how, seconds)
        await caller.leave()

    async def _talk(self, caller: Caller, how: str, seconds: float) -> None:
        if how == "opens badly":
            caller.say('{"event":"media"}')
        messages = [json.dumps(message) for message in opening_messages("twilio")]
        for message in messages if how != "gives up opening" else messages[:1]:
            caller.say(message)
        hearing = asyncio.create_task(caller.closed())
        loop = asyncio.get_running_loop()
        until = loop.time() + (0 if how == "gives up opening" else seconds)
        while loop.time() < until and not hearing.done() and not self._enough.is_set():
            caller.say(SOUND)
            await self._pause(TALK_EVERY_S)
        if not hearing.done():
            self._leave(caller, how)
        await asyncio.gather(hearing, return_exceptions=how == "resets")

    def _leave(self, caller: Caller, how: str) -> None:
        if how == "resets":
            caller.reset()
        elif how == "half-closes":
            caller.half_close()
        elif how == "garbage":
            caller.send(GARBAGE)
        else:
            if how == "stops, then hangs up":
                caller.say(stop("twilio"))
            caller.send(caller.close_frame(1000))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._enough.wait(), seconds)
