# SPDX-License-Identifier: BSD-2-Clause
"""The person on the telephone: listens, speaks, presses keys, hangs up. No I/O; time in ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.simulator.call_plan import CallPlan
from gateway.simulator.playback import TICK_MS

DIGIT_MS = 200
"""Milliseconds from one key to the next."""


class Stage(StrEnum):
    """The caller's stages, in order."""

    ANSWER = "waiting for the agent"
    GREETING = "listening to the agent"
    SPEECH = "speaking"
    DIGITS = "pressing keys"
    REPLY = "listening to the reply"
    DONE = "hanging up"


@dataclass(frozen=True, slots=True)
class Turn:
    """The caller's part of one frame: audio in the call's format (None: silence), a key (None: none)."""

    audio: bytes | None = None
    digit: str | None = None


class Caller:
    """A caller that follows a CallPlan. `frames`: the speech in the carrier's frames of `frame_ms`."""

    def __init__(self, plan: CallPlan, frames: Sequence[bytes], frame_ms: int) -> None:
        self.stage = Stage.ANSWER
        self._plan = plan
        self._frames = frames
        self._frame_ms = frame_ms
        self._now_ms = 0
        self._agent_spoke_ms: int | None = None
        self._last_word_ms = 0
        self._spoken = 0
        self._keys = list(plan.digits)
        self._next_key_ms = 0

    @property
    def expected(self) -> float:
        """The seconds that the call will probably take, at least those that it has taken."""
        left = (len(self._frames) - self._spoken) * self._frame_ms / 1000 + len(self._keys) * DIGIT_MS / 1000
        match self.stage:
            case Stage.ANSWER | Stage.GREETING:
                left += self._plan.answer_wait + self._plan.quiet
            case Stage.SPEECH | Stage.DIGITS:
                left += self._plan.quiet
            case Stage.REPLY:
                last = max(self._last_word_ms, self._agent_spoke_ms or 0)
                left = max(last / 1000 + self._plan.quiet - self._now, 0.0)
        return self._now + left

    def listen(self, audible: bool) -> None:
        """Count one tick of the agent's audio. `audible`: whether it is not silence."""
        self._now_ms += TICK_MS
        if audible:
            self._agent_spoke_ms = self._now_ms

    def turn(self) -> Turn:
        """Return the caller's part of the next frame; at stage DONE the caller hangs up instead."""
        self._move_on()
        match self.stage:
            case Stage.SPEECH:
                self._spoken += 1
                self._last_word_ms = self._now_ms
                return Turn(audio=self._frames[self._spoken - 1])
            case Stage.DIGITS if self._now_ms >= self._next_key_ms:
                self._next_key_ms = self._now_ms + DIGIT_MS
                self._last_word_ms = self._now_ms
                return Turn(digit=self._keys.pop(0))
        return Turn()

    def _move_on(self) -> None:
        plan = self._plan
        if self.stage is Stage.ANSWER:
            if self._agent_spoke_ms is not None:
                self.stage = Stage.GREETING
            elif self._now >= plan.answer_wait:
                self.stage = Stage.SPEECH
        if self.stage is Stage.GREETING and (
            self._silent_for(plan.pause) or self._now >= plan.greeting_limit
        ):
            self.stage = Stage.SPEECH
        if self.stage is Stage.SPEECH and self._spoken == len(self._frames):
            self.stage = Stage.DIGITS
        if self.stage is Stage.DIGITS and not self._keys:
            self.stage = Stage.REPLY
        if self.stage is Stage.REPLY and self._is_answered():
            self.stage = Stage.DONE

    def _is_answered(self) -> bool:
        since_word = (self._now_ms - self._last_word_ms) / 1000
        quiet = since_word >= self._plan.quiet and self._silent_for(self._plan.quiet)
        return quiet or since_word >= self._plan.reply_limit

    @property
    def _now(self) -> float:
        return self._now_ms / 1000

    def _silent_for(self, seconds: float) -> bool:
        return self._agent_spoke_ms is None or (self._now_ms - self._agent_spoke_ms) / 1000 >= seconds
