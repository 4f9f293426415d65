# SPDX-License-Identifier: BSD-2-Clause
"""Calls in which both sides send audio every 20 ms, and recorders that notice every pause."""

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
"""How many frames of the agent show that a call is under way."""

SOUND = next(message for message in talk("twilio") if json.loads(message)["event"] == "media")
REPLY = next(message for message in replies("twilio") if json.loads(message)["event"] == "media")


HOLD_MESSAGE = b'{"event":"'
"""The beginning of messages that the gateway makes: those of the transcripts have a space there."""


class Recorder:
    """A recorder of one socket until its end.

    `audio_frames`: how many data frames came, without `hold_frames` of hold audio. `texts`: their payloads.
    `close`: code and reason of the end, None before.
    """

    def __init__(self, peer: WebSocketPeer) -> None:
        self.audio_frames = 0
        self.hold_frames = 0
        self.close: tuple[int, str] | None = None
        self.texts: list[bytes] = []
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._times = [self._loop.time()]
        self._changed = asyncio.Event()
        self._task = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        with contextlib.suppress(TimeoutError):  # the test that waits for it raises
            while (frame := await self._peer.next()) is not None:
                if frame.opcode == CLOSE:
                    self._note()
                    self.close = self.close or frame.close
                    self._peer.send(self._peer.frame(CLOSE, frame.payload[:2]))
                elif frame.opcode == PING:
                    self._peer.send(self._peer.frame(PONG, frame.payload))
                elif frame.payload.startswith(HOLD_MESSAGE):
                    self.hold_frames += 1
                    self._note()
                elif frame.opcode != PONG:
                    self.audio_frames += 1
                    self.texts.append(frame.payload)
                    self._note()
            if self.close is None:
                self._note()
                self.close = ABNORMAL_CLOSE
            self._changed.set()

    def _note(self) -> None:
        self._times.append(self._loop.time())
        self._changed.set()

    def hang_up(self) -> None:
        """Send a close frame; its answer is the end."""
        self._peer.send(self._peer.close_frame(1000))

    async def until(self, audio_frames: int) -> None:
        """Wait until this many data frames came. Raises AssertionError if the socket is closed before."""
        async with asyncio.timeout(WAIT_S):
            while self.audio_frames < audio_frames:
                assert self.close is None, (
                    f"closed with {self.close} after {self.audio_frames} of {audio_frames} frames"
                )
                self._changed.clear()
                await self._changed.wait()

    async def closed(self) -> tuple[int, str]:
        """Wait for the end; return code and reason."""
        async with asyncio.timeout(WAIT_S):
            while self.close is None:
                self._changed.clear()
                await self._changed.wait()
        return self.close

    @property
    def first(self) -> float:
        """The time of the first frame, by the loop's clock."""
        return self._times[1]

    @property
    def last_sound(self) -> float:
        """The time of the last frame before the end."""
        return self._times[-2 if self.close else -1]

    def gap_ms(self, since: float) -> float:
        """Return the longest pause, in ms, that ended after `since`; an open socket's last pause ends now."""
        times = [*self._times, *([] if self.close else [self._loop.time()])]
        gaps = [after - before for before, after in itertools.pairwise(times) if after >= since]
        return max(gaps, default=0.0) * 1000

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def speak(peer: WebSocketPeer, text: str) -> None:
    """Send audio every 20 ms until cancelled."""
    while True:
        peer.send(peer.frame(TEXT, text.encode()))
        await asyncio.sleep(FRAME_S)


class Conversation:
    """A call in which both sides send audio."""

    def __init__(self, call: Call) -> None:
        self.caller, self.agent, self.session = call.caller, call.agent, call.session
        self.recorder = Recorder(call.caller)
        self.agent_recorder = Recorder(call.agent)
        self._voices: list[asyncio.Task[None]] = []

    async def begin(self, *, agent_speaks: bool = True, caller_speaks: bool = True) -> Conversation:
        """Let both sides send audio; return once the caller has received some."""
        for peer, text, speaks in (
            (self.caller, SOUND, caller_speaks),
            (self.agent, REPLY, agent_speaks),
        ):
            if speaks:
                self._voices.append(asyncio.create_task(speak(peer, text)))
        if agent_speaks:
            await self.recorder.until(FIRST_FRAMES)
        return self

    async def hang_up(self) -> None:
        """Hang up as the caller does."""
        self.silence()
        self.caller.send(self.caller.close_frame(1000))
        assert (await self.recorder.closed())[0] == 1000

    def silence(self) -> None:
        """Stop the audio of both sides."""
        for voice in self._voices:
            voice.cancel()

    async def stop(self) -> None:
        self.silence()
        await asyncio.gather(*self._voices, return_exceptions=True)
        await self.recorder.stop()
        await self.agent_recorder.stop()
