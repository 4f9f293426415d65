# SPDX-License-Identifier: BSD-2-Clause
"""A line with sound on it: both ends speak every 20 ms, and the caller's ear notices every pause."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json

from gateway.simulator.waiting import WAIT_S
from tests.harness.call_assertions import Call
from tests.harness.frames import CLOSE, PING, PONG, TEXT
from tests.harness.transcripts import replies, talk
from tests.harness.websocket_peer import ABNORMAL_CLOSE, WebSocketPeer

FRAME_S = 0.02
FIRST_FRAMES = 5
"""After so many of the agent's frames a call is under way."""

SOUND = next(message for message in talk("twilio") if json.loads(message)["event"] == "media")
REPLY = next(message for message in replies("twilio") if json.loads(message)["event"] == "media")


HOLDING = b'{"event":"'
"""How messages begin that the gateway makes: ours and the transcripts' have a space there."""


class Ear:
    """Hears a socket to its end. `close`: how it ended, once it did.

    `sounds`: data frames so far, `texts` what was in them; `holding`: those that the gateway made.
    """

    def __init__(self, peer: WebSocketPeer) -> None:
        self.sounds = 0
        self.holding = 0
        self.close: tuple[int, str] | None = None
        self.texts: list[bytes] = []
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._moments = [self._loop.time()]
        self._news = asyncio.Event()
        self._task = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        with contextlib.suppress(TimeoutError):  # who waits for it says so in words
            while (frame := await self._peer.next()) is not None:
                if frame.opcode == CLOSE:
                    self._note()
                    self.close = self.close or frame.close
                    self._peer.send(self._peer.frame(CLOSE, frame.payload[:2]))
                elif frame.opcode == PING:
                    self._peer.send(self._peer.frame(PONG, frame.payload))
                elif frame.payload.startswith(HOLDING):
                    self.holding += 1
                    self._note()
                elif frame.opcode != PONG:
                    self.sounds += 1
                    self.texts.append(frame.payload)
                    self._note()
            if self.close is None:
                self._note()
                self.close = ABNORMAL_CLOSE
            self._news.set()

    def _note(self) -> None:
        self._moments.append(self._loop.time())
        self._news.set()

    def hang_up(self) -> None:
        """As one does; the answer is the end."""
        self._peer.send(self._peer.close_frame(1000))

    async def until(self, sounds: int) -> None:
        """Waits until so many data frames were heard."""
        async with asyncio.timeout(WAIT_S):
            while self.sounds < sounds:
                assert self.close is None, f"closed with {self.close} after {self.sounds} of {sounds} frames"
                self._news.clear()
                await self._news.wait()

    async def closed(self) -> tuple[int, str]:
        """Waits for the end."""
        async with asyncio.timeout(WAIT_S):
            while self.close is None:
                self._news.clear()
                await self._news.wait()
        return self.close

    @property
    def first(self) -> float:
        """When it heard anything first, by the loop's clock."""
        return self._moments[1]

    @property
    def last_sound(self) -> float:
        """When it heard anything last but its end."""
        return self._moments[-2 if self.close else -1]

    def gap_ms(self, since: float) -> float:
        """The longest time without anything, of those that were not over at `since`; up to now, if open."""
        moments = [*self._moments, *([] if self.close else [self._loop.time()])]
        gaps = [after - before for before, after in itertools.pairwise(moments) if after >= since]
        return max(gaps, default=0.0) * 1000

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def speak(peer: WebSocketPeer, text: str) -> None:
    """Sound at telephony's pace, until cancelled."""
    while True:
        peer.send(peer.frame(TEXT, text.encode()))
        await asyncio.sleep(FRAME_S)


class Talk:
    """A call in which both sides speak."""

    def __init__(self, call: Call) -> None:
        self.caller, self.agent, self.session = call.caller, call.agent, call.session
        self.ear = Ear(call.caller)
        self.agents_ear = Ear(call.agent)
        self._voices: list[asyncio.Task[None]] = []

    async def begin(self, *, agent_speaks: bool = True, caller_speaks: bool = True) -> Talk:
        """Both speak from now on; returns once the caller has heard some."""
        for peer, text, speaks in (
            (self.caller, SOUND, caller_speaks),
            (self.agent, REPLY, agent_speaks),
        ):
            if speaks:
                self._voices.append(asyncio.create_task(speak(peer, text)))
        if agent_speaks:
            await self.ear.until(FIRST_FRAMES)
        return self

    async def hang_up(self) -> None:
        """The caller hangs up as one does."""
        self.silence()
        self.caller.send(self.caller.close_frame(1000))
        assert (await self.ear.closed())[0] == 1000

    def silence(self) -> None:
        """Nobody speaks any more."""
        for voice in self._voices:
            voice.cancel()

    async def stop(self) -> None:
        self.silence()
        await asyncio.gather(*self._voices, return_exceptions=True)
        await self.ear.stop()
        await self.agents_ear.stop()
