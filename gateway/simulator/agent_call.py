# SPDX-License-Identifier: BSD-2-Clause
"""One call of the demonstration agent: reads the opening, greets, repeats, obeys
(docs/reference/agent-container.md).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gateway.simulator.agent_opening import as_object, carrier_of
from gateway.simulator.agent_voice import CHUNKING, Chunking, Voice
from gateway.simulator.call_audio import bytes_per_ms, cut, for_call, silence
from gateway.simulator.wav import Recording
from serializers.dialect import Dialect, DialectError
from serializers.events import AgentEvent, CarrierEvent, Clear, Dtmf, Media, Played, Start
from serializers.registry import DIALECTS

OPENING_TIMEOUT_S = 15.0
"""How long each opening message may take."""

IDLE_TIMEOUT_S = 60.0
"""A carrier sends sound all the time; one that has sent nothing for so long is gone."""

PAUSE_S = 0.3
"""After so long without the caller's words, what was gathered for a larger chunk is said."""

GOODBYE = "*#"
"""Keys that end the call; `*` alone interrupts the agent."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Manners:
    """How the agent behaves. `greeting`: None for none. `delay`: seconds before it repeats the caller."""

    greeting: Recording | None
    delay: float = 1.0


@dataclass(slots=True)
class AgentCall:
    """One accepted socket, until it closes."""

    socket: WebSocket
    manners: Manners
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _keys: str = ""

    async def run(self) -> None:
        """The whole call. Returns when the socket is closed, by either side."""
        try:
            await self._converse()
        except WebSocketDisconnect as gone:
            log.info("call ended", code=gone.code)
        except DialectError as error:
            log.warning("call refused", reason=str(error))
            await self._close(1008, str(error))
        except TimeoutError:
            log.warning("call given up: nothing came")
            await self._close(1008, "nothing came in time")

    async def _converse(self) -> None:
        opening: list[str | bytes] = []
        found: tuple[str, str] | None = None
        while found is None and _may_be_a_carrier(opening):
            async with asyncio.timeout(OPENING_TIMEOUT_S):
                opening.append(message := await self._receive())
            said = as_object(message) if isinstance(message, str) else None
            if said is not None and (carrier := carrier_of(said)):
                found = carrier, str(message)
        if found is None:
            await self._echo(opening)
        else:
            await self._talk(*found)

    async def _echo(self, first: list[str | bytes]) -> None:
        """A client of no carrier: everything goes back at once, as it came."""
        log.info("call", carrier="generic")
        for message in first:
            await self._send(message)
        while True:
            await self._send(await self._receive())

    async def _talk(self, carrier: str, opening: str) -> None:
        dialect = DIALECTS[carrier]
        start = dialect.read_carrier(opening)
        if not isinstance(start, Start):
            raise DialectError("the opening is no `start`")
        log.info("call", carrier=carrier, call_id=start.call_id, encoding=start.audio.encoding)
        voice = self._voice(dialect, start)
        speaking = asyncio.create_task(self._speak(dialect, start, voice), name="agent speaks")
        try:
            await self._listen(dialect, start, voice)
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
        await self._close(1000, "the caller asked for the end")

    def _voice(self, dialect: Dialect, start: Start) -> Voice:
        chunking = CHUNKING.get(dialect.name, Chunking())
        quiet = silence(start.audio, dialect.frame_ms)
        voice = Voice(chunking, quiet, self.manners.delay)
        if (prompt := self.manners.greeting) is not None:
            frame_ms = max(dialect.frame_ms, -(-chunking.least // bytes_per_ms(start.audio)))
            detail = for_call(prompt.pcm, prompt.sample_rate, start.audio)
            voice.greet(time.monotonic(), cut(detail, start.audio, frame_ms), frame_ms / 1000)
        return voice

    async def _listen(self, dialect: Dialect, start: Start, voice: Voice) -> None:
        """Until the caller asks for the end. `stop` means nothing to an agent
        (docs/reference/agent-container.md).
        """
        while True:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                message = await self._receive()
            try:
                event = dialect.read_carrier(message)
            except DialectError as error:
                log.warning("unreadable message", reason=str(error))
                continue
            if isinstance(event, Dtmf):
                if await self._press(event.digits, dialect, start, voice):
                    return
            else:
                self._hear(event, voice)

    def _hear(self, event: CarrierEvent, voice: Voice) -> None:
        match event:
            case Media(payload=payload, track=track) if track != "outbound":
                voice.repeat(time.monotonic(), payload)
                self._more.set()
            case Played(name=name):
                log.info("played", mark=name)

    async def _press(self, digit: str, dialect: Dialect, start: Start, voice: Voice) -> bool:
        """A key of the caller's. Returns whether it ends the call."""
        log.info("key pressed")
        self._keys = (self._keys + digit)[-len(GOODBYE) :]
        if self._keys == GOODBYE:
            return True
        if digit == "*":
            voice.hush(time.monotonic())
            await self._say(Clear(), dialect, start)
        return False

    async def _speak(self, dialect: Dialect, start: Start, voice: Voice) -> None:
        """Says what is due when it is due, until it is cancelled or the socket is gone."""
        with suppress(WebSocketDisconnect):  # the listener learns the code
            await self._say_what_is_due(dialect, start, voice)

    async def _say_what_is_due(self, dialect: Dialect, start: Start, voice: Voice) -> None:
        while True:
            if (due := voice.next_due()) is None:
                self._more.clear()
                try:
                    async with asyncio.timeout(PAUSE_S):
                        await self._more.wait()
                except TimeoutError:
                    for event in voice.finish():
                        await self._say(event, dialect, start)
                continue
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for event in voice.say(time.monotonic()):
                await self._say(event, dialect, start)

    async def _say(self, event: AgentEvent, dialect: Dialect, start: Start) -> None:
        await self._send(dialect.write_agent(event, start))

    async def _receive(self) -> str | bytes:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        text: str | None = message.get("text")
        binary: bytes | None = message.get("bytes")
        return text if text is not None else binary or b""

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnect):
            if self.socket.application_state is WebSocketState.CONNECTED:
                await self.socket.close(code, reason)

    async def _send(self, message: str | bytes) -> None:
        if self.socket.application_state is not WebSocketState.CONNECTED:
            raise WebSocketDisconnect(1006)
        if isinstance(message, str):
            await self.socket.send_text(message)
        else:
            await self.socket.send_bytes(message)


def _may_be_a_carrier(opening: list[str | bytes]) -> bool:
    """Whether another message can tell: at first, and once after `connected` (docs/reference/carriers.md
    §8.1).
    """
    if not opening:
        return True
    first = as_object(opening[0]) if isinstance(opening[0], str) else None
    return len(opening) == 1 and first is not None and first.get("event") == "connected"
