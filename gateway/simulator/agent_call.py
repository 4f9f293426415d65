# SPDX-License-Identifier: BSD-2-Clause
"""One call of the fake agent: it greets, repeats the caller, and obeys keys."""

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
"""Seconds that each opening message may take."""

IDLE_TIMEOUT_S = 60.0
"""Seconds after which a carrier that has sent nothing is gone: carriers send audio all the time."""

PAUSE_S = 0.3
"""Seconds without audio of the caller after which an incomplete chunk is sent."""

END_KEYS = "*#"
"""Keys that end the call; `*` alone interrupts the agent."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AgentBehaviour:
    """How the fake agent behaves, well or badly. Times in seconds.

    `greeting`: None for none. `delay`: until it repeats the caller. `ready`: whether `/readyz` answers 200
    while a slot is free. `accept_after`: until it accepts a call. `refuse_status`: an HTTP status instead of
    the upgrade. `end_after`: until it ends a call by itself, with `end_code`. `bot_duration`: until it
    answers `POST /bot`, if its client does not leave before; None answers 501 at once.
    """

    greeting: Recording | None = None
    delay: float = 1.0
    ready: bool = True
    accept_after: float = 0.0
    refuse_status: int | None = None
    end_after: float | None = None
    end_code: int = 1000
    bot_duration: float | None = None


@dataclass(slots=True)
class AgentCall:
    """One accepted media socket, until it closes."""

    socket: WebSocket
    behaviour: AgentBehaviour
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _keys: str = ""

    async def run(self) -> None:
        """Carry the call until either side closes the socket."""
        try:
            async with asyncio.timeout(self.behaviour.end_after) as limit:
                await self._converse()
        except WebSocketDisconnect as disconnect:
            log.info("call ended", code=disconnect.code)
        except DialectError as error:
            log.warning("call refused", reason=str(error))
            await self._close(1008, str(error))
        except TimeoutError:
            if limit.expired():
                await self._close(self.behaviour.end_code, "")
                return
            log.warning("call given up: nothing came")
            await self._close(1008, "nothing came in time")

    async def _converse(self) -> None:
        opening: list[str | bytes] = []
        start: tuple[str, str] | None = None
        while start is None and _may_be_a_carrier(opening):
            async with asyncio.timeout(OPENING_TIMEOUT_S):
                opening.append(message := await self._receive())
            content = as_object(message) if isinstance(message, str) else None
            if content is not None and (carrier := carrier_of(content)):
                start = carrier, str(message)
        if start is None:
            await self._echo(opening)
        else:
            await self._talk(*start)

    async def _echo(self, first: list[str | bytes]) -> None:
        """Send everything back as it came, to a client that is not a known carrier."""
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
        speaking = asyncio.create_task(self._send_audio(dialect, start, voice), name="agent sends audio")
        try:
            await self._listen(dialect, start, voice)
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
        await self._close(1000, "the caller asked for the end")

    def _voice(self, dialect: Dialect, start: Start) -> Voice:
        chunking = CHUNKING.get(dialect.name, Chunking())
        quiet = silence(start.audio, dialect.frame_ms)
        voice = Voice(chunking, quiet, self.behaviour.delay)
        if (prompt := self.behaviour.greeting) is not None:
            frame_ms = max(dialect.frame_ms, -(-chunking.min_bytes // bytes_per_ms(start.audio)))
            detail = for_call(prompt.pcm, prompt.sample_rate, start.audio)
            voice.greet(time.monotonic(), cut(detail, start.audio, frame_ms), frame_ms / 1000)
        return voice

    async def _listen(self, dialect: Dialect, start: Start, voice: Voice) -> None:
        """Handle messages until the caller presses END_KEYS. Ignore `stop`, which agents do not need
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
                if await self._handle_key(event.digits, dialect, start, voice):
                    return
            else:
                self._handle(event, voice)

    def _handle(self, event: CarrierEvent, voice: Voice) -> None:
        match event:
            case Media(payload=payload, track=track) if track != "outbound":
                voice.repeat(time.monotonic(), payload)
                self._more.set()
            case Played(name=name):
                log.info("played", mark=name)

    async def _handle_key(self, digit: str, dialect: Dialect, start: Start, voice: Voice) -> bool:
        """Handle a key of the caller. Return True if it ends the call."""
        log.info("key pressed")
        self._keys = (self._keys + digit)[-len(END_KEYS) :]
        if self._keys == END_KEYS:
            return True
        if digit == "*":
            voice.interrupt(time.monotonic())
            await self._send_event(Clear(), dialect, start)
        return False

    async def _send_audio(self, dialect: Dialect, start: Start, voice: Voice) -> None:
        """Send everything when it is due, until cancelled or the socket has ended."""
        with suppress(WebSocketDisconnect):  # the task that listens gets the code
            await self._send_when_due(dialect, start, voice)

    async def _send_when_due(self, dialect: Dialect, start: Start, voice: Voice) -> None:
        while True:
            if (due := voice.next_due()) is None:
                self._more.clear()
                try:
                    async with asyncio.timeout(PAUSE_S):
                        await self._more.wait()
                except TimeoutError:
                    for event in voice.flush():
                        await self._send_event(event, dialect, start)
                continue
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for event in voice.due_events(time.monotonic()):
                await self._send_event(event, dialect, start)

    async def _send_event(self, event: AgentEvent, dialect: Dialect, start: Start) -> None:
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
    """Return True while the next message can be a `start`: the first, and the one behind `connected`
    (docs/reference/carriers.md §8.1).
    """
    if not opening:
        return True
    first = as_object(opening[0]) if isinstance(opening[0], str) else None
    return len(opening) == 1 and first is not None and first.get("event") == "connected"
